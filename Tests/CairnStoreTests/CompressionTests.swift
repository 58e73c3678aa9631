// Files that a tier stores as zstd frames: written, read in any sharding, damaged, and beside plain ones.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import Testing
@testable import CairnTier

private let zstd = CompressionSetting(.zstd, threads: 2)
private let step10 = "1000/llama/step-10.1-1", compressedName = "rank-00000.safetensors.zst"

/// Bytes that shrink by a half or so: every other one is random.
private func half(_ bytes: Int, seed: UInt64 = 5) -> [UInt8] {
    var generator = SeededGenerator(seed: seed), found = [UInt8](repeating: 0, count: bytes)
    for at in stride(from: 0, to: bytes, by: 16) {
        let word = generator.next()
        for byte in 0..<min(8, (bytes - at + 1) / 2) { found[at + 2 * byte] = UInt8(truncatingIfNeeded: word >> UInt64(8 * byte)) }
    }
    return found
}

private func halfFile(_ id: SaveID, chunks: Int = 2, rank: Int = 0, worldSize: Int = 1) throws -> StagedFile {
    let bytes = chunks * Sizes.chunkBytes - 2_000_000
    return try StagedFile([Shard(name: "w", dtype: "U8", shape: [bytes], globalShape: [bytes * worldSize], offsets: [bytes * rank])], save: id, rank: rank,
                          worldSize: worldSize, content: half(bytes, seed: UInt64(rank + 3)))
}

/// The plain bytes of a file of frames, unpacked frame by frame.
private func unpacked(_ folder: TierFolder, _ path: String, plainBytes: Int) throws -> [UInt8] {
    let file = try Files.open(folder.root, path, flags: .read), bytes = try Files.stat(file).bytes, tableBytes = SeekTable.bytes(plainBytes: plainBytes)
    let table = try SeekTable.decode(try PositionedIO.read(file, bytes: tableBytes, fileOffset: bytes - tableBytes), plainBytes: plainBytes, fileBytes: bytes)
    let unpacker = try FrameUnpacker(), chunk = try MemoryMap(anonymous: Sizes.chunkBytes)
    var found: [UInt8] = []
    for frame in 0..<table.count {
        let content = Sizes.bytes(ofChunk: frame, fileBytes: plainBytes)
        if let failure = unpacker.read(file, path, table.frame(frame), direct: false, to: chunk, at: 0, content: content) { throw TierFailure(kind: .corrupt, text: "\(failure)") }
        found += chunk.copyBytes(offset: 0, count: content)
    }
    return found
}

private func manifest(_ folder: TierFolder, _ step: String, rank: Int = 0) throws -> Manifest {
    let name = try #require(try folder.names(step).first { if case .manifest(rank, _)? = Names.rankFile($0) { true } else { false } })
    return try Record.decode(Manifest.self, from: Files.readAll(folder.root, "\(step)/\(name)", limit: 1 << 20))
}

// MARK: the table

@Test func seekTableSaysWhereEachFrameIs() throws {
    let plain = 2 * Sizes.chunkBytes + 77, sizes = [100, 2_000_000, 90]
    let table = SeekTable(frameBytes: sizes), bytes = table.encode(plainBytes: plain)
    #expect(bytes.count == SeekTable.bytes(plainBytes: plain) && table.fileBytes == 2_000_190 + bytes.count)
    #expect(try SeekTable.decode(bytes, plainBytes: plain, fileBytes: table.fileBytes) == table)
    #expect(table.frame(1) == 100..<2_000_100 && table.frame(2) == 2_000_100..<2_000_190)
    // As the specification of the format has it.
    #expect(bytes.prefix(8) == [0x5E, 0x2A, 0x4D, 0x18, 33, 0, 0, 0] && bytes.suffix(9) == [3, 0, 0, 0, 0, 0xB1, 0xEA, 0x92, 0x8F])
}

@Test func seekTableThatLiesIsRefused() throws {
    let plain = Sizes.chunkBytes + 77, table = SeekTable(frameBytes: [5000, 90]), bytes = table.encode(plainBytes: plain)
    func refused(plainBytes: Int? = nil, fileBytes: Int? = nil, _ change: (inout [UInt8]) -> Void = { _ in }) -> SeekTableError? {
        var changed = bytes
        change(&changed)
        do throws(SeekTableError) {
            _ = try SeekTable.decode(changed, plainBytes: plainBytes ?? plain, fileBytes: fileBytes ?? table.fileBytes)
            return nil
        } catch { return error }
    }
    #expect(refused() == nil)
    #expect(refused { $0.removeFirst() } == .wrongSize(bytes: 32, expected: 33))
    #expect(refused { $0[0] ^= 1 } == .notOurs)
    #expect(refused { $0[$0.count - 1] ^= 1 } == .notOurs)
    #expect(refused { $0[$0.count - 5] = 0x80 } == .notOurs, "one with checksums has another size")
    #expect(refused { $0[$0.count - 9] = 3 } == .wrongFrames(found: 3, expected: 2))
    #expect(refused { $0[15] = 0xFF } == .wrongContent(frame: 0, bytes: 0xFF80_0000, expected: Sizes.chunkBytes))
    #expect(refused { $0[11] = 0xFF } == .wrongFrame(frame: 0, bytes: 0xFF00_0000 + 5000))
    #expect(refused { $0[8] = 8; $0[9] = 0 } == .wrongFrame(frame: 0, bytes: 8))
    #expect(refused { $0[8] ^= 1 } == .wrongEnd(bytes: 5091, expected: 5090))
    #expect(refused(plainBytes: plain + 1) == .wrongContent(frame: 1, bytes: 77, expected: 78))
}

@Test func frameIsNotUnpackedIntoMoreThanItsPlace() throws {
    let plain = try MemoryMap(anonymous: 1 << 20), frame = try MemoryMap(anonymous: 2 << 20), target = try MemoryMap(anonymous: 1 << 20)
    plain.copy(from: half(1 << 20), at: 0)
    let bytes = try ZstdCompressor(level: 1).compress(plain, offset: 0, bytes: 1 << 20, to: frame, at: 0, room: frame.bytes)
    let decompressor = try ZstdDecompressor()
    try decompressor.decompress(frame, offset: 0, bytes: bytes, to: target, at: 0, content: 1 << 20)
    #expect(target.copyBytes(offset: 0, count: 1 << 20) == plain.copyBytes(offset: 0, count: 1 << 20))
    for (bytes, content) in [(bytes, 1 << 19), (bytes, (1 << 20) - 1), (bytes - 1, 1 << 20), (bytes + 1, 1 << 20), (3, 1 << 20), (0, 1 << 20)] {
        #expect(throws: ZstdFailure.self) { try decompressor.decompress(frame, offset: 0, bytes: bytes, to: target, at: 0, content: content) }
    }
    // Whatever is flipped, it is refused or gives other bytes, and nothing traps.
    for at in 0..<200 {
        let byte = frame.copyBytes(offset: at, count: 1)[0]
        for flip: UInt8 in [1, 0x80, 0xFF] {
            frame.copy(from: [byte ^ flip], at: at)
            _ = try? decompressor.decompress(frame, offset: 0, bytes: bytes, to: target, at: 0, content: 1 << 20)
            var given = false
            _ = try? decompressor.beginning(5000) {
                defer { given = true }
                return given ? [] : frame.copyBytes(offset: 0, count: bytes)
            }
        }
        frame.copy(from: [byte], at: at)
    }
    try decompressor.decompress(frame, offset: 0, bytes: bytes, to: target, at: 0, content: 1 << 20)
}

// MARK: on a tier

@Test(arguments: TierMode.all) func compressedSaveLivesFromCreateToRemoval(_ mode: TierMode) throws {
    let folder = try TierFolder(on: mode.base)
    let tier = try TierHarness([folder.path], mode: mode, compression: zstd)
    try #require(tier.startFailure == nil)
    let id = save(10, attempt: 1), file = try halfFile(id)
    try tier.put(file)
    guard case .decision(_, .committed) = try tier.decide(id).0 else { Issue.record("not committed"); return }
    let names = try folder.names(step10)
    #expect(names.contains(compressedName) && !names.contains("rank-00000.safetensors") && names.count == 6)
    #expect(try unpacked(folder, "\(step10)/\(compressedName)", plainBytes: file.bytes.count) == file.bytes)
    let said = try manifest(folder, step10), bytes = try Files.stat(folder.root, "\(step10)/\(compressedName)").bytes
    #expect(said.compression?.method == .zstd && said.storedBytes == bytes && bytes < file.bytes.count * 3 / 4)
    #expect(said.contentDigest == Manifest.contentDigest(layoutDigest: file.layout.digest, crcs: file.crcs), "the plain file's, on every tier")
    #expect(tier.stored.map(\.storedBytes) == [bytes] && tier.stored[0].isCompressed)
    #expect(names.contains { $0 == Names.manifest(rank: 0, digest: Record.nameDigest(file.manifest().record)) }, "its name is the plain file's")

    // Read by a daemon of another setting.
    tier.stop()
    let reader = try TierHarness([folder.path], mode: mode), ref = reader.ref(file, count: 1)
    let whole = try #require(file.bytes(of: "w"))
    #expect(try reader.load(ref, [Box(name: "w")]) == [whole])
    #expect(try reader.load(ref, [Box(name: "w", offsets: [9_000_000], shape: [100]), Box(name: "w", offsets: [10], shape: [3]),
                                  Box(name: "w", offsets: [8_300_000], shape: [200_000])])
            == [Array(whole[9_000_000..<9_000_100]), Array(whole[10..<13]), Array(whole[8_300_000..<8_500_000])])
    #expect(try reader.verify(ref).isEmpty)
    guard case .compressed(_, [0]) = try reader.ask({ .compressed(id: $0, ref: ref) }).0 else { Issue.record("not told as compressed"); return }
    try reader.commit(step: 200, count: 2)
    _ = try reader.ask { .remove(id: $0, ref: ref) }
    #expect(try reader.steps().map(\.step) == [200])
}

@Test func framesAreInTheChunksOrderWhateverOrderTheyComeIn() throws {
    let orders: [[Int]] = [[4, 3, 2, 1, 0], [1, 0, 3, 2, 4], [4, 0, 1, 2, 3], [3, 4, 1, 2, 0], [0, 1, 2, 3, 4]]
    for (number, order) in orders.enumerated() {
        for mode in [TierMode(), TierMode(ring: .off, direct: .off)] {
            let folder = try TierFolder()
            let tier = try TierHarness([folder.path], mode: mode, compression: CompressionSetting(.zstd, threads: 1 + number % 2))
            let id = save(10, attempt: 1), file = try halfFile(id, chunks: 5)
            try tier.create(file, number: 1)
            for chunk in order {
                let bytes = Sizes.bytes(ofChunk: chunk, fileBytes: file.bytes.count)
                tier.pool.copy(from: file.bytes[chunk * Sizes.chunkBytes..<chunk * Sizes.chunkBytes + bytes], at: chunk * Sizes.chunkBytes)
                try tier.send(.write([ChunkWrite(id: 100 + chunk, file: 1, chunk: chunk, bytes: bytes, source: .pool(slot: chunk))]))
            }
            // Each is told once; with one held at most, the others are done before their turn.
            var done: Set<Int> = []
            for _ in order {
                guard case .done(let id) = try tier.next().0 else { Issue.record("a write failed"); return }
                #expect(done.insert(id).inserted)
            }
            try tier.publish(file, number: 1)
            _ = try tier.decide(id)
            #expect(try unpacked(folder, "\(step10)/\(compressedName)", plainBytes: file.bytes.count) == file.bytes, "order \(number)")
        }
    }
}

@Test func abandonedFileEndsEveryWrite() throws {
    let folder = try TierFolder()
    let tier = try TierHarness([folder.path], compression: CompressionSetting(.zstd, threads: 1))
    let id = save(10, attempt: 1), file = try halfFile(id, chunks: 4)
    try tier.create(file, number: 1)
    // None has its turn without chunk 0: the first that comes is held, the others are spilled, and each is told at once.
    for chunk in 1..<4 {
        let bytes = Sizes.bytes(ofChunk: chunk, fileBytes: file.bytes.count)
        tier.pool.copy(from: file.bytes[chunk * Sizes.chunkBytes..<chunk * Sizes.chunkBytes + bytes], at: chunk * Sizes.chunkBytes)
        try tier.send(.write([ChunkWrite(id: 100 + chunk, file: 1, chunk: chunk, bytes: bytes, source: .pool(slot: chunk))]))
    }
    for _ in 0..<3 { guard case .done = try tier.next().0 else { Issue.record("a chunk was not told"); return } }
    try tier.send(.abandon(file: 1))
    // The held one's place is free again, or the next file would spill where it need not, and at last wait.
    try tier.put(file)
    guard case .decision(_, .committed) = try tier.decide(id).0 else { Issue.record("not committed"); return }
    #expect(try tier.verify(tier.ref(file, count: 1)).isEmpty)
}

@Test func flippedBytesOfFramesAreFoundByLoadAndVerify() throws {
    let folder = try TierFolder()
    let tier = try TierHarness([folder.path], compression: zstd)
    let id = save(10, attempt: 1), file = try halfFile(id)
    try tier.put(file)
    _ = try tier.decide(id)
    tier.stop()
    let path = "\(step10)/\(compressedName)", bytes = try Files.stat(folder.root, path).bytes
    let table = try SeekTable.decode(Files.readAll(folder.root, path, limit: 1 << 30).suffix(SeekTable.bytes(plainBytes: file.bytes.count)), plainBytes: file.bytes.count, fileBytes: bytes)
    func failures() throws -> (load: TierFailure?, verify: [VerifyProgress]) {
        let fresh = try TierHarness([folder.path]), ref = fresh.ref(file, count: 1)
        do {
            let loaded = try fresh.load(ref, [Box(name: "w")])
            #expect(loaded == [file.bytes(of: "w")], "I7: other bytes were handed over")
            return (nil, try fresh.verify(ref))
        } catch let failure as TierFailure { return (failure, try fresh.verify(ref)) }
    }
    // A frame's magic number, its head, its middle, its end, the next frame, the table's head, a row, its end.
    let second = table.frame(1).lowerBound
    for at in [0, 5, 100, second / 2, second - 2, second, second + 7, bytes - 33, bytes - 20, bytes - 9, bytes - 1] {
        try folder.flip(path, at: at)
        let found = try failures()
        #expect(found.load?.kind == .corrupt && found.load?.path == "\(folder.path)/\(path)", "byte \(at): \(String(describing: found.load))")
        #expect(found.verify.count == 1 && found.verify.first?.badPath == "\(folder.path)/\(path)", "byte \(at)")
        try folder.flip(path, at: at)
    }
    let sound = try failures()
    #expect(sound.load == nil && sound.verify.isEmpty)
    // Only the damaged frame is lost.
    try folder.flip(path, at: second + 100)
    let fresh = try TierHarness([folder.path]), ref = fresh.ref(file, count: 1)
    #expect(try fresh.load(ref, [Box(name: "w", offsets: [0], shape: [1000])]) == [Array(try #require(file.bytes(of: "w"))[..<1000])])
    #expect(try fresh.verify(ref).map(\.badBlock) == [Sizes.blocksPerChunk])
    try Files.truncate(try Files.open(folder.root, path, flags: [.read, .write]), bytes: bytes - 1)
    #expect(try failures().load?.kind == .corrupt, "the size alone tells")
    try Files.unlink(folder.root, path)
    #expect(try failures().load?.kind == .notHere)
}

@Test func oneRankCompressesAndTheOtherDoesNot() throws {
    let folder = try TierFolder()
    let plain = try TierHarness([folder.path], node: "a"), packing = try TierHarness([folder.path], node: "b", compression: zstd)
    let files = try (0..<2).map { try halfFile(save(10, attempt: 1), rank: $0, worldSize: 2) }
    try plain.put(files[0])
    try packing.put(files[1])
    guard case .decision(_, .committed) = try plain.decide(files[0].key.save, worldSize: 2).0 else { Issue.record("not committed"); return }
    let whole = try #require(files[0].bytes(of: "w")) + #require(files[1].bytes(of: "w")), cut = whole.count / 2
    for tier in [plain, packing] {
        let ref = tier.ref(files[0], count: 1)
        #expect(try tier.load(ref, [Box(name: "w", offsets: [cut - 1000], shape: [2000])]) == [Array(whole[cut - 1000..<cut + 1000])])
        #expect(try tier.verify(ref).isEmpty)
        guard case .compressed(_, [1]) = try tier.ask({ .compressed(id: $0, ref: ref) }).0 else { Issue.record("told wrongly"); return }
    }
    // A branch has each file in its form, as links and as copies.
    let branch = RunKey(uid: 1000, name: "branch"), first = CommitSequence(attempt: 0, count: 1)
    _ = try plain.ask { .branch(id: $0, run: branch, from: testRun, step: 10, sequence: nil) }
    let ref = StepRef(run: branch, step: 10, sequence: first, save: nil)
    #expect(try plain.load(ref, [Box(name: "w", offsets: [cut - 5], shape: [10])]) == [Array(whole[cut - 5..<cut + 5])])
    #expect(try plain.verify(ref).isEmpty)
    #expect(Set(try folder.names("1000/branch/step-10.0-1").filter { $0.contains("safetensors") }) == ["rank-00000.safetensors", "rank-00001.safetensors.zst"])
}

@Test func localPartIsProvedByTheRowOfACompressedCommit() throws {
    let global = try TierFolder(), drive = try TierFolder(), other = try TierFolder()
    let tier = try TierHarness([global.path], compression: zstd), local = try TierHarness([drive.path], form: .beside, tier: .local)
    let id = save(10, attempt: 1), file = try halfFile(id)
    try local.put(file)
    try tier.put(file)
    let (_, record) = try tier.decide(id, ranks: [0])
    _ = try local.ask(payload: record) { .recordDecision(id: $0, run: testRun, save: id) }
    #expect(try drive.names("1000/llama").contains { $0.hasSuffix(".safetensors") }, "the local tier stays plain")
    let ref = local.ref(file, count: 1)
    #expect(try local.load(ref, [Box(name: "w")]) == [file.bytes(of: "w")])
    #expect(try local.verify(ref).isEmpty)
    // A sound part of other bytes under the same names is not the committed one.
    let liar = try TierHarness([other.path], form: .beside, tier: .local)
    let twin = try StagedFile([Shard(name: "w", dtype: "U8", shape: [file.layout.dataBytes], globalShape: [file.layout.dataBytes], offsets: [0])], save: id,
                              content: half(file.layout.dataBytes, seed: 99))
    try liar.put(twin)
    _ = try liar.ask(payload: record) { .recordDecision(id: $0, run: testRun, save: id) }
    #expect(failureKind { _ = try liar.load(ref, [Box(name: "w")]) } == .corrupt)
}

@Test func anEarlierLifeWithAnotherSettingIsTakenUp() throws {
    for (first, second) in [(zstd, CompressionSetting()), (CompressionSetting(), zstd), (zstd, zstd)] {
        for lostChecksums in [false, true] {
            let folder = try TierFolder(), id = save(10, attempt: 1), file = try halfFile(id), saving = "1000/llama/.saving-\(id)"
            let before = try TierHarness([folder.path], compression: first)
            try before.put(file)
            before.stop()
            // It ended between two links.
            for name in try folder.names(saving) where name.hasSuffix(".json") || (lostChecksums && name.hasSuffix(".crc")) { try Files.unlink(folder.root, "\(saving)/\(name)") }
            let after = try TierHarness([folder.path], compression: second)
            try after.put(file)
            let standing = first.method == .zstd ? compressedName : "rank-00000.safetensors"
            // A tier that does not compress does not look for the other form.
            #expect(try folder.names(saving).filter { $0.contains(".safetensors") } == (first.method == .zstd && second.method == .none ? ["rank-00000.safetensors", standing] : [standing]))
            guard case .decision(_, .committed) = try after.decide(id).0 else { Issue.record("not committed"); return }
            let ref = after.ref(file, count: 1)
            #expect(try after.load(ref, [Box(name: "w")]) == [file.bytes(of: "w")] && after.verify(ref).isEmpty)
        }
    }
}

@Test func whoeverGotAsFarAsItsManifestIsTakenUp() throws {
    for (first, second) in [(zstd, CompressionSetting()), (CompressionSetting(), zstd)] {
        let folder = try TierFolder(), id = save(10, attempt: 1), file = try halfFile(id)
        let before = try TierHarness([folder.path], compression: first)
        try before.put(file)
        before.stop()
        let after = try TierHarness([folder.path], compression: second)
        try after.put(file)
        guard case .decision(_, .committed) = try after.decide(id).0 else { Issue.record("not committed"); return }
        #expect(try manifest(folder, step10).isCompressed == (first.method == .zstd), "its manifest stands")
        let ref = after.ref(file, count: 1)
        #expect(try after.load(ref, [Box(name: "w")]) == [file.bytes(of: "w")] && after.verify(ref).isEmpty)
    }
}

@Test func otherBytesThatStandAreNotTaken() throws {
    let folder = try TierFolder(), id = save(10, attempt: 1), file = try halfFile(id), saving = "1000/llama/.saving-\(id)"
    let before = try TierHarness([folder.path], compression: zstd)
    try before.put(file)
    before.stop()
    for name in try folder.names(saving) where !name.hasSuffix(".zst") { try Files.unlink(folder.root, "\(saving)/\(name)") }
    try folder.flip("\(saving)/\(compressedName)", at: 5000)
    let after = try TierHarness([folder.path], compression: zstd)
    #expect(failureKind { try after.put(file) } == .corrupt, "under its own name")
    // Under the other form's it is left alone.
    let plain = try TierHarness([folder.path])
    try plain.put(file)
    guard case .decision(_, .committed) = try plain.decide(id).0 else { Issue.record("not committed"); return }
    #expect(try plain.verify(plain.ref(file, count: 1)).isEmpty)
}

@Test func aManifestWithoutCompressionIsWhatItWas() throws {
    let file = try smallPart(save(10, attempt: 1)), record = file.manifest().record
    #expect(!String(decoding: record, as: UTF8.self).contains("compression"))
    var said = try Record.decode(Manifest.self, from: record)
    #expect(!said.isCompressed && said.storedBytes == said.fileBytes)
    for wrong in [Manifest.Compression(method: .zstd, storedBytes: 10, tableDigest: String(repeating: "a", count: 64)),
                  Manifest.Compression(method: .zstd, storedBytes: 5000, tableDigest: "x"), Manifest.Compression(method: .zstd, storedBytes: .max, tableDigest: String(repeating: "a", count: 64))] {
        said.compression = wrong
        #expect(said.problem() != nil, "\(wrong)")
    }
}

// MARK: auto

@Test func compressionPaysWhereTheTierIsSlowAndTheFileShrinks() {
    func pays(_ share: Double, _ speed: Double, _ write: Double?) -> Bool { CompressionChoice.pays(share: share, compressedPerSecond: speed, writtenPerSecond: write) }
    #expect(pays(0.7, 1e9, 0.3e9) && pays(0.01, 3e9, 1e9))
    #expect(!pays(0.95, 1e9, 0.1e9), "a twentieth is not worth it")
    #expect(!pays(0.7, 1e9, 3e9) && !pays(0.7, 1e9, 1e9), "the tier is as fast as the threads")
    #expect(!pays(0.7, 1e9, nil) && !pays(0.7, 0, 1e9), "nothing is measured yet")
}

@Test func autoFollowsWhatItMeasures() throws {
    // The first file measures the tier; a memory filesystem takes a few GB/s, and zeros compress faster than that on no machine's one thread.
    let folder = try TierFolder()
    let tier = try TierHarness([folder.path], compression: CompressionSetting(.auto, threads: 4))
    func store(_ step: Int, _ content: [UInt8], count: Int) throws -> CompressionReport {
        let file = try StagedFile([Shard(name: "w", dtype: "U8", shape: [content.count])], save: save(step, attempt: 1), content: content)
        try tier.put(file, count: count)
        _ = try tier.decide(file.key.save)
        #expect(try tier.verify(tier.ref(file, count: count)).isEmpty)
        return try #require(tier.stored.last)
    }
    let zeros = [UInt8](repeating: 0, count: 20 << 20)
    let first = try store(10, zeros, count: 1)
    #expect(!first.isCompressed && first.writtenPerSecond != nil && (first.share ?? 1) < 0.01, "the first is plain")
    #expect(try manifest(folder, step10).compression == nil)
    #expect(try folder.names(step10).contains("rank-00000.safetensors"))
    let second = try store(20, zeros, count: 2)
    #expect(second.isCompressed == CompressionChoice.pays(share: first.share ?? 1, compressedPerSecond: first.compressedPerSecond ?? 0, writtenPerSecond: first.writtenPerSecond))
    // What does not shrink is plain, however slow the tier: the file before it says so, or the pieces of it.
    var generator = SeededGenerator(seed: 1)
    let random = (0..<(9 << 20) / 8).flatMap { _ in withUnsafeBytes(of: generator.next()) { Array($0) } }
    _ = try store(30, random, count: 3)
    #expect(try store(40, random, count: 4).isCompressed == false)
}
