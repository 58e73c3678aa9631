@testable import CairnKeeper
import Testing

@Suite struct ExpositionTests {
    @Test func familiesAreWrittenAsPrometheusReadsThem() {
        var text = Exposition()
        text.family("saves_total", .counter, "Saves.", [([("level", "staged")], 3), ([("level", "fai\"l\\ed\n")], 0.5)])
        text.family("nothing", .gauge, "Left out.", [])
        #expect(text.text == """
            # HELP cairn_saves_total Saves.
            # TYPE cairn_saves_total counter
            cairn_saves_total{level="staged"} 3
            cairn_saves_total{level="fai\\"l\\\\ed\\n"} 0.5

            """)
    }

    @Test func bucketsAddUpAndEndInAll() {
        var histogram = Histogram()
        for seconds in [0.0005, 0.001, 0.002, 5000] { histogram.observe(nanoseconds: Int(seconds * 1e9)) }
        var text = Exposition()
        text.family("fence_wait_seconds", "Waits.", [([("tier", "local")], histogram)])
        let lines = text.text.split(separator: "\n")
        #expect(lines[1] == "# TYPE cairn_fence_wait_seconds histogram")
        #expect(lines[2] == "cairn_fence_wait_seconds_bucket{tier=\"local\",le=\"0.001\"} 2")
        #expect(lines[3] == "cairn_fence_wait_seconds_bucket{tier=\"local\",le=\"0.003\"} 3")
        #expect(lines[lines.count - 3] == "cairn_fence_wait_seconds_bucket{tier=\"local\",le=\"+Inf\"} 4")
        #expect(lines[lines.count - 2] == "cairn_fence_wait_seconds_sum{tier=\"local\"} 5000.0035")
        #expect(lines[lines.count - 1] == "cairn_fence_wait_seconds_count{tier=\"local\"} 4")
    }
}
