import CairnIO
import CairnModel
import CairnStore
import FoundationEssentials
import Testing

@Test(arguments: [0, 1]) func headerRoundTrips(rank: Int) throws {
    let plan = try fixturePlan(rank: rank)
    let parsed = try FileHeader.parse(prefix: plan.headerBytes, fileBytes: plan.fileBytes)
    #expect(parsed.table == plan.table)
    #expect(parsed.dataStart == plan.dataStart && parsed.dataStart.isMultiple(of: 4096))
    #expect(parsed.runName == testRun.name && parsed.save == save() && parsed.rank == rank && parsed.worldSize == 2)
    #expect(plan.table.shards.allSatisfy { $0.fileOffset.isMultiple(of: DType(rawValue: $0.shard.dtype)?.stored.bytes ?? 0) })
}

@Test func everyDTypeRoundTrips() throws {
    let shards = DType.allCases.map { Shard(name: $0.rawValue, dtype: $0.rawValue, shape: [3, 2], globalShape: [6, 2], offsets: [3, 0]) }
        + DType.allCases.map { Shard(name: "flat \($0.rawValue)", dtype: $0.rawValue, shape: [5], globalShape: [6, 2], offsets: [4]) }
        + [Shard(name: "flat scalar", dtype: "C128", shape: [1], globalShape: [], offsets: [0])]
    let plan = try FileHeader.make(layout: Layout.make(shards: shards, rank: 0, worldSize: 1), objects: [], run: testRun,
                                   save: save(), rank: 0, worldSize: 1)
    #expect(try FileHeader.parse(prefix: plan.headerBytes, fileBytes: plan.fileBytes).table == plan.table)
}

@Test func emptyFileRoundTrips() throws {
    let plan = try FileHeader.make(layout: Layout.make(shards: [], rank: 0, worldSize: 1), objects: [], run: testRun,
                                   save: save(0), rank: 0, worldSize: 1)
    #expect(plan.fileBytes == plan.dataStart)
    #expect(try FileHeader.parse(prefix: plan.headerBytes, fileBytes: plan.fileBytes).table == plan.table)
}

@Test func eagerAndLazyShardsKeepTheirOrderWhenReadBack() throws {
    let shards = (0..<9).map { Shard(name: "w\($0)", dtype: $0.isMultiple(of: 3) ? "F64" : "F32", shape: [$0], eager: $0.isMultiple(of: 2)) }
    let plan = try FileHeader.make(layout: Layout.make(shards: shards, rank: 0, worldSize: 1), objects: [], run: testRun,
                                   save: save(), rank: 0, worldSize: 1)
    #expect(try FileHeader.parse(prefix: plan.headerBytes, fileBytes: plan.fileBytes).table == plan.table)
}

/// Tests/Fixtures/two-ranks was written by this test with CAIRN_WRITE_FIXTURES=1; Tests/Fixtures/check_files.py reads it with
/// the stock safetensors library and torch. The format must not change without a new name.
@Test(arguments: [0, 1]) func filesAreByteForByteTheCommittedFixture(rank: Int) throws {
    let folder = #filePath.split(separator: "/").dropLast(2).joined(separator: "/")
    let path = "/\(folder)/Fixtures/two-ranks/rank-0000\(rank).safetensors"
    let bytes = try fixtureFile(rank: rank)
    if ProcessFacts.environment("CAIRN_WRITE_FIXTURES") != nil { try Data(bytes).write(to: URL(filePath: path)) }
    #expect(try Array(Data(contentsOf: URL(filePath: path))) == bytes)
}

@Test func refusesObjects() throws {
    let layout = try Layout.make(shards: [Shard(name: "w", dtype: "F32", shape: [2])], rank: 0, worldSize: 1)
    for objects in [
        [ObjectInfo(name: "w", scope: .rank, bytes: 1)],
        [ObjectInfo(name: "a", scope: .rank, bytes: 1), ObjectInfo(name: "a", scope: .shared, bytes: 1)],
        [ObjectInfo(name: "", scope: .rank, bytes: 1)],
        [ObjectInfo(name: "a\n", scope: .rank, bytes: 1)],
        [ObjectInfo(name: "a", scope: .rank, bytes: -1)],
        [ObjectInfo(name: "a", scope: .rank, bytes: .max)],
        [ObjectInfo(name: "a", scope: .keyed, bytes: 1)],
        [ObjectInfo(name: "a", scope: .rank, key: "k", bytes: 1)],
    ] {
        #expect(throws: FileHeaderError.self) {
            try FileHeader.make(layout: layout, objects: objects, run: testRun, save: save(), rank: 0, worldSize: 1)
        }
    }
}

/// A header in which one text was replaced: what the reader must say of it.
struct CorruptHeader: CustomTestStringConvertible, Sendable {
    let testDescription: String
    let replace: (text: String, with: String)
    let expected: @Sendable (FileHeaderError) -> Bool
    init(_ description: String, _ text: String, _ replacement: String, _ expected: @escaping @Sendable (FileHeaderError) -> Bool) {
        testDescription = description; replace = (text, replacement); self.expected = expected
    }

    static let all: [CorruptHeader] = [
        CorruptHeader("overlap", "[16,48]", "[8,40]") { if case .overlap("rotary", 8, 16) = $0 { true } else { false } },
        CorruptHeader("gap", "[16,48]", "[24,48]") { if case .gap("rotary", 24, 16) = $0 { true } else { false } },
        CorruptHeader("size", "\"F64\",\"shape\":[2],", "\"F64\",\"shape\":[3],") { if case .sizeMismatch = $0 { true } else { false } },
        CorruptHeader("overflow", "\"F64\",\"shape\":[2],", "\"F64\",\"shape\":[4611686018427387904,4],") { if case .sizeMismatch = $0 { true } else { false } },
        CorruptHeader("negative", "\"F64\",\"shape\":[2],", "\"F64\",\"shape\":[-2],") { if case .sizeMismatch = $0 { true } else { false } },
        CorruptHeader("number too large", "[16,48]", "[16,99999999999999999999]") { if case .malformed = $0 { true } else { false } },
        CorruptHeader("fraction", "[16,48]", "[16,4.8]") { if case .malformed = $0 { true } else { false } },
        CorruptHeader("three offsets", "[16,48]", "[16,48,48]") { if case .malformed = $0 { true } else { false } },
        CorruptHeader("beyond the file", "[16,48]", "[16,4800000]") { if case .outOfRange("rotary", 4_800_000, _) = $0 { true } else { false } },
        CorruptHeader("backwards", "[16,48]", "[16,8]") { if case .outOfRange = $0 { true } else { false } },
        CorruptHeader("unknown dtype", "\"dtype\":\"BF16\"", "\"dtype\":\"BF17\"") { if case .unknownDType = $0 { true } else { false } },
        CorruptHeader("other dtype of the same size", "\"dtype\":\"BF16\"", "\"dtype\":\"F16\"") { if case .layoutMismatch = $0 { true } else { false } },
        CorruptHeader("unknown real dtype", "{\\\"dtype\\\":\\\"C128\\\"", "{\\\"dtype\\\":\\\"C129\\\"") { if case .unknownDType = $0 { true } else { false } },
        CorruptHeader("unlike real dtype", "{\\\"dtype\\\":\\\"C128\\\"", "{\\\"dtype\\\":\\\"C32\\\"") { if case .dtypeMismatch = $0 { true } else { false } },
        CorruptHeader("key twice", "\"mask\":{\"dtype\"", "\"rotary\":{\"dtype\"") { if case .duplicateKey("rotary") = $0 { true } else { false } },
        CorruptHeader("metadata twice", "\"run\":\"llama\"", "\"step\":\"1200\"") { if case .duplicateKey("step") = $0 { true } else { false } },
        CorruptHeader("field twice", "{\"dtype\":\"BF16\",", "{\"dtype\":\"BF16\",\"dtype\":\"BF16\",") { if case .duplicateKey = $0 { true } else { false } },
        CorruptHeader("unknown field", "{\"dtype\":\"BF16\",", "{\"dtype\":\"BF16\",\"x\":1,") { if case .unknownField = $0 { true } else { false } },
        CorruptHeader("missing field", "{\"dtype\":\"BF16\",", "{") { if case .malformed = $0 { true } else { false } },
        CorruptHeader("not ours", "\"cairn.format\":\"cairn-1\"", "\"cairn.format\":\"cairn-2\"") { if case .notCairn("cairn-2") = $0 { true } else { false } },
        CorruptHeader("no run", "\"run\":\"llama\",", "") { $0 == .missingMetadata(key: "run") },
        CorruptHeader("bad run", "\"run\":\"llama\"", "\"run\":\"../llama\"") { if case .badMetadata("run", _) = $0 { true } else { false } },
        CorruptHeader("other step", "\"step\":\"1200\"", "\"step\":\"1300\"") { if case .badMetadata("save", _) = $0 { true } else { false } },
        CorruptHeader("bad number", "\"rank\":\"0\"", "\"rank\":\"00\"") { if case .badMetadata("rank", _) = $0 { true } else { false } },
        CorruptHeader("rank outside", "\"rank\":\"0\"", "\"rank\":\"7\"") { if case .badMetadata("rank", _) = $0 { true } else { false } },
        CorruptHeader("other rank", "\"rank\":\"0\"", "\"rank\":\"1\"") { if case .badMetadata("cairn.table", _) = $0 { true } else { false } },
        CorruptHeader("no sharding of one key", "\\\"mask\\\":{\\\"saved_offsets\\\":[0,0]},", "") { if case .missingSharding("mask") = $0 { true } else { false } },
        CorruptHeader("sharding of a stray key", "\\\"mask\\\":{\\\"saved_offsets\\\":[0,0]}", "\\\"mask\\\":{\\\"saved_offsets\\\":[0,0]},\\\"x\\\":{\\\"saved_offsets\\\":[]}") {
            $0 == .strayMetadata(tensor: "x") },
        CorruptHeader("other offsets", "\\\"mask\\\":{\\\"saved_offsets\\\":[0,0]}", "\\\"mask\\\":{\\\"saved_offsets\\\":[1,0]}") { if case .layoutMismatch = $0 { true } else { false } },
        CorruptHeader("offsets outside", "\\\"mask\\\":{\\\"saved_offsets\\\":[0,0]}", "\\\"mask\\\":{\\\"saved_offsets\\\":[2,0]}") { if case .layout(.invalidShard("mask", _)) = $0 { true } else { false } },
        CorruptHeader("offsets of other dimensions", "\\\"mask\\\":{\\\"saved_offsets\\\":[0,0]}", "\\\"mask\\\":{\\\"saved_offsets\\\":[0]}") { if case .badMetadata("DCP_SHARDING_INFO", _) = $0 { true } else { false } },
        CorruptHeader("sharding is not JSON", "\"DCP_SHARDING_INFO\":\"{", "\"DCP_SHARDING_INFO\":\"[") { if case .badMetadata("DCP_SHARDING_INFO", _) = $0 { true } else { false } },
        CorruptHeader("unknown scope", "\\\"scope\\\":\\\"shared\\\"", "\\\"scope\\\":\\\"all\\\"") { if case .badObject("epoch", _) = $0 { true } else { false } },
        CorruptHeader("object of another rank", "\"cairn.object.00000.epoch\":", "\"cairn.object.00001.epoch\":") { if case .missingSharding = $0 { true } else { false } },
        CorruptHeader("object is not bytes", "\"cairn.object.00000.epoch\":{\"dtype\":\"U8\"", "\"cairn.object.00000.epoch\":{\"dtype\":\"I8\"") { if case .badObject("epoch", _) = $0 { true } else { false } },
        CorruptHeader("text after the end", "]}} ", "]}} x") { if case .malformed = $0 { true } else { false } },
        CorruptHeader("no JSON", "{\"__metadata__\"", "[\"__metadata__\"") { if case .malformed = $0 { true } else { false } },
    ]
}

private func withLength(_ json: [UInt8]) -> [UInt8] {
    let padded = json + Array(repeating: UInt8(ascii: " "), count: (4096 - (json.count + 8) % 4096) % 4096)
    return (0..<8).map { UInt8(truncatingIfNeeded: padded.count >> (8 * $0)) } + padded
}

@Test(arguments: CorruptHeader.all) func refusesHeader(_ corrupt: CorruptHeader) throws {
    let plan = try fixturePlan(rank: 0)
    let json = String(decoding: plan.headerBytes.dropFirst(8), as: UTF8.self)
    let parts = json.split(separator: corrupt.replace.text, maxSplits: 1, omittingEmptySubsequences: false)
    try #require(parts.count == 2, "the fixture's header lacks '\(corrupt.replace.text)'")
    var changed = Array((parts[0] + corrupt.replace.with + parts[1]).utf8)
    while changed.last == UInt8(ascii: " ") { changed.removeLast() }
    let header = withLength(changed)
    do throws(FileHeaderError) {
        _ = try FileHeader.parse(prefix: header, fileBytes: plan.fileBytes - plan.dataStart + header.count)
        Issue.record("was accepted")
    } catch {
        #expect(corrupt.expected(error), "\(error)")
    }
}

@Test func refusesLengthsThatDoNotFit() throws {
    let plan = try fixturePlan(rank: 0)
    func parse(_ header: [UInt8], _ fileBytes: Int) throws { _ = try FileHeader.parse(prefix: header, fileBytes: fileBytes) }
    #expect(throws: FileHeaderError.truncated(fileBytes: 3, needed: 8)) { try parse([1, 2, 3], 3) }
    #expect(throws: FileHeaderError.truncated(fileBytes: 100, needed: plan.dataStart)) { try parse(plan.headerBytes, 100) }
    #expect(throws: FileHeaderError.self) { try parse(Array(plan.headerBytes.dropLast()), plan.fileBytes) }
    #expect(throws: FileHeaderError.trailingBytes(fileBytes: plan.fileBytes + 1, expected: plan.fileBytes)) { try parse(plan.headerBytes, plan.fileBytes + 1) }
    #expect(throws: FileHeaderError.self) { try parse(plan.headerBytes, plan.fileBytes - 1) }
    var long = plan.headerBytes
    long[7] = 0x80
    #expect(throws: FileHeaderError.self) { try parse(long, plan.fileBytes) }
    var unaligned = plan.headerBytes
    unaligned[0] -= 1
    #expect(throws: FileHeaderError.dataNotAligned(dataStart: plan.dataStart - 1)) { try parse(unaligned, plan.fileBytes) }
}

/// No header of random damage makes the reader trap; what it accepts describes the same tensors.
@Test(arguments: 0..<300 as Range<UInt64>) func damagedHeadersNeverTrap(seed: UInt64) throws {
    var generator = SeededGenerator(seed: seed)
    let plan = try fixturePlan(rank: Int(seed % 2))
    var header = plan.headerBytes
    for _ in 0..<Int.random(in: 1...3, using: &generator) {
        header[Int.random(in: 8..<1600, using: &generator)] = UInt8.random(in: .min ... .max, using: &generator)
    }
    do throws(FileHeaderError) {
        let parsed = try FileHeader.parse(prefix: header, fileBytes: plan.fileBytes)
        #expect(parsed.table.shards.map(\.fileOffset) == plan.table.shards.map(\.fileOffset))
    } catch { #expect(!error.description.isEmpty) }
}
