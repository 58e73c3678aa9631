// swift-tools-version: 6.3
// Arrows point one way: cairn -> CairnClient -> CairnWire <- cairnd -> {CairnEngine, stager, tier -> CairnStore -> CairnIO -> C modules}.
// The engine imports only words and messages (CairnModel, CairnMessages), which are values. The workers are libraries of their own, so that each is built and tested alone.
import PackageDescription

let strict: [SwiftSetting] = [.treatAllWarnings(as: .error)]
let strictIO: [SwiftSetting] = [.treatAllWarnings(as: .error), .strictMemorySafety()]

let package = Package(
    name: "cairn",
    products: [
        .executable(name: "cairnd", targets: ["cairnd"]),
        .executable(name: "cairn", targets: ["cairn"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
    ],
    targets: [
        // System libraries and the only C that we write.
        .systemLibrary(name: "CUV", pkgConfig: "libuv", providers: [.apt(["libuv1-dev"])]),
        .systemLibrary(name: "CLiburing", pkgConfig: "liburing", providers: [.apt(["liburing-dev"])]),
        .systemLibrary(name: "CISAL", pkgConfig: "libisal", providers: [.apt(["libisal-dev"])]),
        .systemLibrary(name: "CZstd", pkgConfig: "libzstd", providers: [.apt(["libzstd-dev"])]),
        .target(name: "CLinux"),

        // The words of the design, as values.
        .target(name: "CairnModel", swiftSettings: strict),
        // Every unsafe or C call.
        .target(name: "CairnIO", dependencies: ["CLinux", "CUV", "CLiburing", "CISAL", "CZstd"], swiftSettings: strictIO),
        // What is on disk.
        .target(name: "CairnStore", dependencies: ["CairnModel", "CairnIO"], swiftSettings: strict),
        // The pure state machine: its actions are the messages of the workers, which are plain values.
        .target(name: "CairnEngine", dependencies: ["CairnModel", "CairnMessages"], swiftSettings: strict),
        // The Varlink interfaces.
        .target(name: "CairnWire", dependencies: ["CairnModel"], swiftSettings: strict),
        .target(name: "CairnClient", dependencies: ["CairnWire", "CairnIO"], swiftSettings: strict),
        // Main process <-> workers, and the workers.
        .target(name: "CairnMessages", dependencies: ["CairnModel"], swiftSettings: strict),
        .target(name: "CairnStager", dependencies: ["CairnMessages", "CairnModel", "CairnIO", "CairnWire"], swiftSettings: strict),
        .target(name: "CairnTier", dependencies: ["CairnMessages", "CairnModel", "CairnIO", "CairnStore"], swiftSettings: strict),
        .target(name: "CairnKeeper", dependencies: ["CairnMessages", "CairnModel", "CairnIO", "CairnWire"], swiftSettings: strict),
        .target(name: "CairnConfiguration", dependencies: ["CairnModel", "Yams"], swiftSettings: strict),

        // What `cairn bench` measures, and what it concludes. Without CairnConfiguration: Yams brings all of Foundation, which every start of `cairn` would load.
        .target(name: "CairnBench", dependencies: ["CairnClient", "CairnWire", "CairnTier", "CairnMessages", "CairnModel", "CairnIO"], swiftSettings: strict),

        // What `cairn doctor` looks at, and what it concludes.
        .target(name: "CairnDoctor", dependencies: ["CairnBench", "CairnClient", "CairnWire", "CairnTier", "CairnModel", "CairnIO"], swiftSettings: strict),

        .executableTarget(
            name: "cairnd",
            dependencies: ["CairnModel", "CairnIO", "CairnStore", "CairnEngine", "CairnWire", "CairnMessages",
                           "CairnStager", "CairnTier", "CairnKeeper", "CairnConfiguration"],
            swiftSettings: strict),
        .executableTarget(
            name: "cairn",
            dependencies: ["CairnBench", "CairnDoctor", "CairnClient", "CairnWire", "CairnModel", "CairnIO",
                           .product(name: "ArgumentParser", package: "swift-argument-parser")],
            swiftSettings: strict),

        // Not installed: the protocol of thousands of ranks against one folder (`make scale`).
        .executableTarget(
            name: "cairn-scale",
            dependencies: ["CairnModel", "CairnIO", "CairnStore", "CairnMessages", "CairnTier"],
            path: "Benchmarks/Scale",
            exclude: ["scale.py"],
            swiftSettings: strict),

        // The engine's simulation, a library for its tests and for `cairn-simulate` (`make simulate`, `make test-mutations`).
        .target(name: "CairnSimulation", dependencies: ["CairnEngine", "CairnModel", "CairnMessages"], path: "Tests/CairnSimulation", swiftSettings: strict),
        .executableTarget(name: "cairn-simulate", dependencies: ["CairnSimulation"], path: "Tests/Simulate", swiftSettings: strict),

        // Every parser of bytes that somebody else wrote: a library for its tests and for libFuzzer (below, `make fuzz`).
        .target(name: "CairnFuzz", dependencies: ["CairnModel", "CairnIO", "CairnStore", "CairnTier", "CairnKeeper", "CairnMessages", "CairnWire", "CairnConfiguration"],
                path: "Tests/CairnFuzz", swiftSettings: strict),

        .testTarget(name: "CairnFuzzTests", dependencies: ["CairnFuzz"]),
        .testTarget(name: "CairnEngineTests", dependencies: ["CairnEngine", "CairnModel", "CairnMessages", "CairnSimulation"]),
        .testTarget(name: "CairnStoreTests", dependencies: ["CairnStore", "CairnModel", "CairnIO", "CairnTier", "CairnMessages"]),
        .testTarget(name: "CairnIOTests", dependencies: ["CairnIO", "CairnStager", "CairnMessages", "CairnModel"]),
        .testTarget(name: "CairnWireTests", dependencies: ["CairnWire", "CairnModel"]),
        .testTarget(name: "CairnClientTests", dependencies: ["CairnClient", "CairnWire", "CairnIO"]),
        .testTarget(name: "CairnBenchTests", dependencies: ["CairnBench", "CairnConfiguration", "CairnModel", "CairnIO"]),
        .testTarget(name: "CairnDoctorTests", dependencies: ["CairnDoctor", "CairnModel"]),
        .testTarget(name: "CairnConfigurationTests", dependencies: ["CairnConfiguration", "CairnModel"]),
        .testTarget(name: "CairnKeeperTests", dependencies: ["CairnKeeper", "CairnWire", "CairnMessages", "CairnModel", "CairnIO"]),
    ],
    swiftLanguageModes: [.v6]
)

// Its main function is libFuzzer's, so it links only with -sanitize=fuzzer: no part of a usual build.
if Context.environment["CAIRN_FUZZ"] != nil {
    package.targets.append(.executableTarget(name: "cairn-fuzz", dependencies: ["CairnFuzz"], path: "Tests/Fuzz", exclude: ["json.dict"],
                                             swiftSettings: [.treatAllWarnings(as: .error), .unsafeFlags(["-parse-as-library"])]))
}
