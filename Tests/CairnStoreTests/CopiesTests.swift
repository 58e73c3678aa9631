import CairnModel
@testable import CairnStore
import Testing

/// A rank's copies of replicas beside its own part: other names, the same rules.
@Suite struct CopiesTests {
    private let id = SaveID(attempt: 17, step: 1200, attemptTry: 1)

    @Test(arguments: [0, 3, 99_999, 100_000, 1_048_575]) func namesOfCopiesComeBack(rank: Int) {
        let number = Copies.number(of: rank), digest = String(repeating: "a", count: StoreLimits.nameDigestDigits)
        #expect(Names.rankFile(Names.data(rank: number)) == .data(rank: number))
        #expect(Names.rankFile(Names.checksums(rank: number)) == .checksums(rank: number))
        #expect(Names.rankFile(Names.manifest(rank: number, digest: digest)) == .manifest(rank: number, digest: digest))
        #expect(Names.besideFile(Names.besideData(id, rank: number))?.file == .data(rank: number))
        #expect(Names.rankFile(Names.data(rank: rank)) == .data(rank: rank))
    }

    @Test func aCopysNameIsItsRanks() {
        #expect(Names.besideData(id, rank: Copies.number(of: 3)) == "17-1200-1.rank-00003.replicas.safetensors")
    }

    @Test(arguments: ["rank-1048579.safetensors", "rank-00003.replicas", "rank-00003.replicas.replicas.safetensors", "rank-00003.replica.safetensors",
                      "rank-1048579.replicas.safetensors"])
    func otherNamesAreNoCopies(name: String) {
        #expect(Names.rankFile(name) == nil)
    }
}
