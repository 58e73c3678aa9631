// `make fuzz`: libFuzzer with one of the parsers. CAIRN_FUZZ_PARSER says which; its right inputs are put into CAIRN_FUZZ_SEEDS first.
import CairnFuzz
import Foundation

/// Of libFuzzer's library: what its own main function would call.
@_silgen_name("LLVMFuzzerRunDriver")
private func runDriver(_ count: UnsafeMutablePointer<CInt>, _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>>,
                       _ test: @convention(c) (UnsafePointer<UInt8>?, Int) -> CInt) -> CInt

private let parser: Parser = {
    let name = ProcessInfo.processInfo.environment["CAIRN_FUZZ_PARSER"] ?? ""
    guard let parser = Parser(rawValue: name) else {
        FileHandle.standardError.write(Data("CAIRN_FUZZ_PARSER is one of: \(Parser.allCases.map(\.rawValue).joined(separator: " "))\n".utf8))
        exit(2)
    }
    return parser
}()

@main enum Fuzz {
    static func main() {
        if let folder = ProcessInfo.processInfo.environment["CAIRN_FUZZ_SEEDS"] {
            for (number, seed) in parser.seeds.enumerated() {
                let path = "\(folder)/seed-\(number)"
                guard FileManager.default.createFile(atPath: path, contents: Data(seed)) else { fatalError("'\(path)' cannot be written") }
            }
        }
        _ = parser
        var count = CommandLine.argc, arguments = CommandLine.unsafeArgv
        exit(runDriver(&count, &arguments) { bytes, count in
            parser.parse(Array(UnsafeBufferPointer(start: bytes, count: count)))
            return 0
        })
    }
}
