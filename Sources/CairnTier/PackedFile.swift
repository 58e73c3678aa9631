// A file's frames put one behind the other, in the chunks' order, whatever order the chunks come in; the file's form is SeekTable's.
//   place    a frame whose predecessors all have their place follows them: what fills whole blocks of O_DIRECT is written, the rest (less
//            than a block) waits in memory for the next frame and is written with it, so that no byte is written twice
//   hold     a frame that comes early waits in its buffer, a few at once
//   spill    of more, one is written far behind all frames, and read back when its turn comes
//   finish   the rest and the seek table, after the last write; the caller cuts the file there
// (1) Each frame is told once, `done` or a failure: one that comes early when it is held or spilled, since a pool that is smaller than the
//     file may need its chunk before it has room for the one that all wait for. An error after that voids the file (`failed`).
// (2) A buffer is free again when the kernel has let go of it, also when the file is void. The held ones are fewer than the buffers, and all
//     others come free without a further chunk: whoever waits for a buffer gets one.
// (3) What was spilled is believed again only by the CRC that was taken of it in memory.
// (4) `isPlacing` belongs to one thread at a time, and with it `tail` and the order of writes.
// (5) The table is written, and the file synced, only when no write is under way any more: not all of them were told.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

/// Where frames are made: slots of one chunk's longest frame, behind room for what is left of the frame before.
final class FrameBuffers: Sendable {
    static let frameOffset = Sizes.alignment
    static let frameRoom = DataOperation.padded(Zstd.bound(Sizes.chunkBytes), direct: true)
    static let slotBytes = frameOffset + frameRoom

    let map: MemoryMap
    let slots: BufferSlots
    private let held = Monitor(0)
    private let mostHeld: Int

    /// Each thread makes one frame at once; of those that the others make meanwhile all may come early; one is being written.
    init(threads: Int) throws {
        mostHeld = max(1, threads - 1)
        let count = threads + mostHeld + 1
        map = try MemoryMap(anonymous: count * Self.slotBytes)
        slots = BufferSlots(count: count)
    }

    /// Waits as long as the tier's writes take: one that hangs is main's to see, as with plain files.
    func take() throws -> Int {
        guard let slot = slots.take(timeoutMilliseconds: nil) else { throw TierFailure(kind: .other, text: "the tier's worker is ending") }
        return slot
    }

    /// Gives the memory back to the system; false while a buffer is used. One thread at a time, or each would see the others' use.
    func rest() -> Bool {
        held.withLock { _ in
            var taken: [Int] = []
            while let slot = slots.tryTake() { taken.append(slot) }
            defer { slots.give(taken) }
            guard taken.count == slots.count else { return false }
            map.discard()
            return true
        }
    }

    func give(_ slot: Int) { slots.give([slot]) }

    func tryHold() -> Bool {
        held.withLock { held in
            guard held < mostHeld else { return false }
            held += 1
            return true
        }
    }
    func endHold() { held.withLock { $0 -= 1 } }
}

final class PackedFile: Sendable {
    typealias Done = @Sendable (TierFailure?) -> Void

    private struct Frame: Sendable {
        let slot: Int, bytes: Int
        /// It counts as held, and was told already.
        var isHeld = false
        let done: Done
    }
    private enum Waiting: Sendable {
        case inBuffer(Frame)
        case spilled(bytes: Int, crc: UInt32)
    }
    private struct State: Sendable {
        /// Of each frame that has its place.
        var sizes: [Int] = []
        /// Where the next frame begins; the bytes from the last whole block to there are `tail`.
        var end = 0
        var tail: [UInt8] = []
        var waiting: [Int: Waiting] = [:]
        var isPlacing = false
        /// Writes of frames that have their place.
        var inFlight = 0
        var failure: TierFailure?
    }

    private let plainBytes: Int
    private let opened: OutFile.Opened
    private let engine: any DataEngine
    private let buffers: FrameBuffers
    private let speed: WriteSpeed
    /// Voids the file.
    private let failed: @Sendable (TierFailure) -> Void
    private let state = Monitor(State())

    init(plainBytes: Int, _ opened: OutFile.Opened, engine: any DataEngine, buffers: FrameBuffers, speed: WriteSpeed, failed: @escaping @Sendable (TierFailure) -> Void) {
        self.plainBytes = plainBytes
        self.opened = opened
        self.engine = engine
        self.buffers = buffers
        self.speed = speed
        self.failed = failed
    }

    private var path: String { opened.root.absolute(opened.path) }
    private var frames: Int { Sizes.chunks(ofFile: plainBytes) }
    private func offset(ofSlot slot: Int) -> Int { slot * FrameBuffers.slotBytes }
    /// Behind all frames, each with a place of its own.
    private func offset(ofSpilled chunk: Int) -> Int { (frames + chunk) * FrameBuffers.frameRoom }

    /// Of what was told done already.
    private func ended(_ failure: TierFailure?) { if let failure { failed(failure) } }

    /// On a thread that may wait for I/O: the chunk's frame is in its slot.
    func add(_ chunk: Int, slot: Int, bytes: Int, done: @escaping Done) {
        enum Next { case place, leave, spill, refuse(TierFailure) }
        var frame = Frame(slot: slot, bytes: bytes, done: done)
        let next: Next = state.update { state in
            if let failure = state.failure { return .refuse(failure) }
            precondition(chunk >= state.sizes.count && chunk < frames && state.waiting[chunk] == nil, "frame \(chunk) of \(frames) came twice")
            if chunk > state.sizes.count {
                guard buffers.tryHold() else { return .spill }
                frame = Frame(slot: slot, bytes: bytes, isHeld: true, done: ended)
            }
            state.waiting[chunk] = .inBuffer(frame)
            if state.isPlacing { return .leave }
            state.isPlacing = true
            return .place
        }
        switch next {
        case .leave, .place:
            if frame.isHeld { done(nil) }
            if case .place = next { place() }
        case .refuse(let failure): end(frame, failure)
        case .spill: spill(chunk, frame)
        }
    }

    private func end(_ frame: Frame, _ failure: TierFailure?) {
        buffers.give(frame.slot)
        if frame.isHeld { buffers.endHold() }
        frame.done(failure)
    }

    private func spill(_ chunk: Int, _ frame: Frame) {
        let at = offset(ofSlot: frame.slot) + FrameBuffers.frameOffset, crc = buffers.map.crc32c(offset: at, bytes: frame.bytes)
        do {
            try PositionedIO.writeAll(opened.descriptor, buffers.map, mapOffset: at, bytes: DataOperation.padded(frame.bytes, direct: opened.root.direct),
                                      fileOffset: offset(ofSpilled: chunk), path: path)
        } catch {
            let failure = TierFailure(error)
            end(frame, failure)
            return void(failure)
        }
        let (failure, isMine): (TierFailure?, Bool) = state.update { state in
            guard state.failure == nil else { return (state.failure, false) }
            state.waiting[chunk] = .spilled(bytes: frame.bytes, crc: crc)
            defer { state.isPlacing = true }
            return (nil, !state.isPlacing)
        }
        end(frame, failure)
        if isMine { place() }
    }

    /// Those whose turn it is.
    private func place() {
        while true {
            let (waiting, chunk): (Waiting?, Int) = state.update { state in
                let chunk = state.sizes.count, waiting = state.failure == nil ? state.waiting.removeValue(forKey: chunk) : nil
                if waiting == nil { state.isPlacing = false }
                return (waiting, chunk)
            }
            switch waiting {
            case nil: return
            case .inBuffer(let frame)?: write(frame)
            case .spilled(let bytes, let crc)?:
                do { write(try readBack(chunk, bytes, crc)) } catch { void(TierFailure(error)) }
            }
        }
    }

    private func readBack(_ chunk: Int, _ bytes: Int, _ crc: UInt32) throws -> Frame {
        let slot = try buffers.take(), at = offset(ofSlot: slot) + FrameBuffers.frameOffset
        do {
            try PositionedIO.readAll(opened.descriptor, buffers.map, mapOffset: at, bytes: DataOperation.padded(bytes, direct: opened.root.direct),
                                     fileOffset: offset(ofSpilled: chunk), path: path)
            guard buffers.map.crc32c(offset: at, bytes: bytes) == crc else {
                throw TierFailure(kind: .io, text: "'\(path)': what was written of chunk \(chunk) reads back as something else", path: path)
            }
        } catch {
            buffers.give(slot)
            throw error
        }
        return Frame(slot: slot, bytes: bytes, done: ended)
    }

    private func write(_ frame: Frame) {
        let (tail, begin) = state.read { ($0.tail, $0.end) }
        let slot = offset(ofSlot: frame.slot), at = slot + (tail.isEmpty ? FrameBuffers.frameOffset : 0), total = tail.count + frame.bytes
        if !tail.isEmpty {
            buffers.map.copy(from: buffers.map, at: slot + FrameBuffers.frameOffset, to: slot + tail.count, bytes: frame.bytes)
            buffers.map.copy(from: tail, at: slot)
        }
        let whole = opened.root.direct ? total / Sizes.alignment * Sizes.alignment : total
        let rest = buffers.map.copyBytes(offset: at + whole, count: total - whole)
        state.update { state in
            state.sizes.append(frame.bytes)
            state.end += frame.bytes
            state.tail = rest
        }
        guard whole > 0 else { return end(frame, nil) }
        state.update { $0.inFlight += 1 }
        speed.begin()
        engine.submit(DataOperation(kind: .write, file: opened.descriptor, path: path, map: buffers.map, mapOffset: at, fileOffset: begin - tail.count,
                                    bytes: whole, least: whole, direct: opened.root.direct) { [self] failure in
            speed.end(bytes: failure == nil ? whole : 0)
            let failure = failure.map { TierFailure($0) }
            end(frame, failure)
            if let failure { void(failure) }
            state.update { $0.inFlight -= 1 }
        })
    }

    /// Nothing more is taken, and what waits ends.
    func void(_ failure: TierFailure) {
        let waiting: [Waiting] = state.update { state in
            state.failure = state.failure ?? failure
            defer { state.waiting = [:] }
            return Array(state.waiting.values)
        }
        failed(failure)
        for case .inBuffer(let frame) in waiting { end(frame, failure) }
    }

    /// Once every frame was told: the rest and the table, after the last write. Gives the file's size and the table's bytes; the caller cuts and
    /// syncs it.
    func finish() throws -> (bytes: Int, table: [UInt8]) {
        let packed: Result<(sizes: [Int], end: Int, tail: [UInt8]), TierFailure>? = state.wait { state in
            if let failure = state.failure { return .failure(failure) }
            guard !state.isPlacing, state.inFlight == 0 else { return nil }
            precondition(state.sizes.count == frames && state.waiting.isEmpty, "published with \(state.sizes.count) of \(frames) frames")
            return .success((state.sizes, state.end, state.tail))
        }
        guard let (sizes, end, tail) = try packed?.get() else { throw TierFailure(kind: .other, text: "'\(path)' was abandoned") }
        let table = SeekTable(frameBytes: sizes).encode(plainBytes: plainBytes), last = tail + table
        let map = try MemoryMap(anonymous: DataOperation.padded(last.count, direct: true))
        map.copy(from: last, at: 0)
        try PositionedIO.writeAll(opened.descriptor, map, mapOffset: 0, bytes: DataOperation.padded(last.count, direct: opened.root.direct),
                                  fileOffset: end - tail.count, path: path)
        return (end + table.count, table)
    }
}
