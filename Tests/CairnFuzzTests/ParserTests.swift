// Each parser against a fixed series of inputs that are nearly right; `make fuzz` looks for new ones. An input that once trapped stands
// beside the parser's other tests. A trap ends the run, so the input is written down before it is parsed.
import CairnFuzz
import Foundation
import Testing

/// For a longer run: CAIRN_FUZZ_INPUTS=1000000 swift test --filter CairnFuzzTests
private let inputs = ProcessInfo.processInfo.environment["CAIRN_FUZZ_INPUTS"].flatMap { Int($0) } ?? 2000

@Test(arguments: Parser.allCases) func whateverIsReadIsReadOrRefused(parser: Parser) throws {
    let last = FileManager.default.temporaryDirectory.appending(path: "cairn-fuzz-\(parser)-\(ProcessInfo.processInfo.processIdentifier)")
    let file = try #require(fopen(last.path, "w"))
    defer { fclose(file) }
    for input in parser.inputs(seed: 17, count: inputs) {
        rewind(file)
        fwrite(input, 1, input.count, file)
        ftruncate(fileno(file), off_t(input.count))
        fflush(file)
        let begin = ContinuousClock.now
        parser.parse(input)
        // Far above what any input of this size may take on a busy machine; what is quadratic is far above it.
        let taken = ContinuousClock.now - begin
        #expect(taken < .seconds(5), "\(parser) took \(taken) for \(String(decoding: input, as: UTF8.self))")
    }
    try FileManager.default.removeItem(at: last)
}

@Test(arguments: Parser.allCases) func rightInputsAreAmongThem(parser: Parser) {
    #expect(!parser.seeds.isEmpty && parser.seeds.allSatisfy { !$0.isEmpty })
}
