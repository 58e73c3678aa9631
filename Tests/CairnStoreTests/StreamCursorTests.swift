import CairnModel
import CairnStore
import Testing

@Suite struct StreamCursorTests {
    private func cursor(_ names: Set<String>? = nil) throws -> (layout: Layout, cursor: StreamCursor) {
        let layout = try Layout.make(shards: fixtureShards(rank: 0), rank: 0, worldSize: 2)
        let entries = layout.entries.filter { names?.contains($0.shard.name) ?? true }
        return (layout, try #require(StreamCursor(entries, dataStart: 4096)))
    }

    @Test func bytesComeOnceInTheFilesOrder() throws {
        let layout = try cursor().layout
        var cursor = try cursor().cursor
        var end = 4096
        for entry in layout.entries where entry.bytes > 0 {
            #expect(cursor.fileOffset == end)
            let half = entry.bytes / 2
            if half > 0 { #expect(try cursor.take(entry.shard.name, begin: 0, bytes: half) == end) }
            #expect(try cursor.take(entry.shard.name, begin: half, bytes: entry.bytes - half) == end + half)
            end += entry.bytes
        }
        #expect(cursor.fileOffset == nil)
        #expect(throws: LayoutError.self) { try cursor.take("mask", begin: 0, bytes: 4) }
    }

    @Test func whatIsNotStreamedIsPassedOver() throws {
        let names: Set = ["scalar", "mask", "empty"], layout = try cursor(names).layout
        var cursor = try cursor(names).cursor
        let first = try #require(layout.entries.first { $0.shard.name == "scalar" }), last = try #require(layout.entries.first { $0.shard.name == "mask" })
        #expect(try cursor.take("scalar", begin: 0, bytes: 8) == 4096 + first.dataOffset)
        #expect(try cursor.take("mask", begin: 0, bytes: 4) == 4096 + last.dataOffset)
    }

    @Test(arguments: [("scale", 0, 5), ("scalar", 1, 4), ("scalar", -1, 4), ("scalar", 0, 9), ("scalar", 0, 0), ("scalar", 0, -8), ("scalar", 0, Int.max),
                      ("scalar", Int.min, 8), ("", 0, 8)])
    func otherPiecesAreRefusedAndChangeNothing(_ piece: (name: String, begin: Int, bytes: Int)) throws {
        var cursor = try cursor(["scalar", "scale"]).cursor
        let before = cursor.fileOffset
        #expect(throws: LayoutError.self) { try cursor.take(piece.name, begin: piece.begin, bytes: piece.bytes) }
        #expect(cursor.fileOffset == before)
        _ = try cursor.take("scalar", begin: 0, bytes: 8)
        #expect(throws: LayoutError.self) { try cursor.take("scalar", begin: 0, bytes: 8) }
    }
}
