import CairnModel
import FoundationEssentials
import Testing
@testable import CairnBench

struct ReportTests {
    /// A node where every rule speaks, with a long path.
    private func worst() -> Measurements {
        Make.measurements {
            $0.node = NodeFacts(cores: 1, availableMemoryBytes: 1 << 30, sessions: 123, ioUringDisabled: 2, hugePages: "never")
            $0.pool = PoolFacts(bytes: 128 << 20, smallBytes: 128 << 20, lockNote: "the pool is not locked: RLIMIT_MEMLOCK is 8 MiB; set LimitMEMLOCK=infinity in cairnd.service")
            $0.wantedBytes = 2 << 30
            $0.folders[0].path = "/a/" + String(repeating: "long/", count: 12) + "path"
            $0.folders[0].ringRefusal = "EPERM"
            $0.folders[0].directRefusal = "EINVAL"
            $0.folders[0].isOnRoot = true
        }
    }

    @Test func noLineIsWiderThanATerminal() {
        for all in [Make.measurements(), worst()] {
            let text = Report(all).text()
            for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
                #expect(line.count <= 80, "\(line)")
                #expect(line.last != " ", "'\(line)'")
            }
        }
    }

    @Test func showsLimitsCairnAndTheBottleneck() {
        #expect(Report(Make.measurements()).text() == """
            MEMORY                                  RATE
            copy, 1 thread                     9.3 GiB/s
            copy, 4 threads, as Cairn stages  11.2 GiB/s
            CRC32C, 1 thread                  23.3 GiB/s

            /nvme0/cairn: ext4, 100.0 GiB free, io_uring, O_DIRECT
            CHUNK x IN FLIGHT                WRITE         READ
            8 MiB x 16, as Cairn does    2.8 GiB/s    1.9 GiB/s
            8 MiB x 1                    1.1 GiB/s  858.3 MiB/s
            8 MiB x 16, threads          2.6 GiB/s
            1 MiB x 1, page cache      762.9 MiB/s
            the best of them             2.8 GiB/s    1.9 GiB/s
            a synced file of 4 KiB          1.0 ms       0.1 ms
              1 in 100 of them              1.0 ms       0.1 ms
            CAIRN, 1.0 GiB             TIME       RATE  OF ITS LIMIT
            save() came back         0.6 ms
            staged                   120 ms  8.3 GiB/s  0.75 of memory's copy
            durable                  380 ms  2.6 GiB/s  0.94 of the best write
            committed                385 ms
            restored from memory     130 ms  7.7 GiB/s  0.69 of memory's copy
            restored from the drive  550 ms  1.8 GiB/s  0.98 of the best read
            bottleneck: the drive. Of 385 ms until committed the drive needs 358 ms, memory
            89 ms at the same time, the records 5.0 ms, all else 22 ms.

            nothing to change was found

            """)
    }

    @Test func isReadBackAsItIs() throws {
        let report = Report(worst())
        #expect(try JSONDecoder().decode(Report.self, from: JSONEncoder().encode(report)) == report)
    }

    @Test(arguments: [(0.0, "0.0 ms"), (0.00064, "0.6 ms"), (0.0364, "36 ms"), (0.9996, "1000 ms"), (1.254, "1.25 s"), (12, "12.00 s")])
    func timesHaveTheDigitsThatMatter(seconds: Double, text: String) {
        #expect(Report.time(seconds) == text)
    }

    @Test func wrapsAtSpacesAndIndentsWhatFollows() {
        let text = Report.wrapped("- " + String(repeating: "word ", count: 30), indent: 2)
        let lines = text.split(separator: "\n")
        #expect(lines.count == 2)
        #expect(lines[1].hasPrefix("  word"))
        #expect(Report.wrapped(String(repeating: "x", count: 100)) == String(repeating: "x", count: 100) + "\n")
    }
}

struct MeasurementsTests {
    @Test func limitsHoldTogether() { BenchLimits.verify() }

    @Test(arguments: [([], 0), ([3], 3), ([4, 1], 1), ([9, 1, 5], 5)] as [([Double], Double)])
    func theMedianIsAValueThatWasMeasured(values: [Double], expected: Double) { #expect(median(values) == expected) }

    @Test func latencyOfOneIsThatOne() {
        let one = Latency(seconds: [0.5])
        #expect((one.count, one.p50Seconds, one.p99Seconds) == (1, 0.5, 0.5))
        #expect(Latency(seconds: (1...200).map(Double.init)).p99Seconds == 199)
    }

    @Test func samplesOfOneWayAreOneRow() {
        var folder = Make.folder()
        let before = folder.transfers.count, way = Make.transfer(.write, chunk: 4 << 20, depth: 8)
        folder.add(.write, way, bytesPerSecond: 1)
        folder.add(.read, way, bytesPerSecond: 2)
        folder.add(.write, way, bytesPerSecond: 3)
        #expect(folder.transfers.count == before + 2)
        #expect(folder.find(.write, chunkBytes: 4 << 20, depth: 8)?.samplesBytesPerSecond == [1, 3])
    }

    @Test func theWordInBracketsIsChosen() {
        #expect(NodeFacts.chosen("always [madvise] never") == "madvise")
        #expect(NodeFacts.chosen("") == nil)
    }

    @Test func filesystemsHaveNames() {
        #expect(NodeFacts.filesystem(0xEF53) == "ext4")
        #expect(NodeFacts.filesystem(0x1234) == "filesystem 0x1234")
    }
}
