// The rules beside pool and tiers: retention, operators, files and limits; and the readers that several keys share.
import CairnModel

extension Section {
    /// A value that is one of a few words.
    func choice<Choice: RawRepresentable & CaseIterable>(_ key: String) throws(ConfigurationError) -> Choice?
    where Choice.RawValue == String {
        let words = Choice.allCases.map(\.rawValue)
        let expected = words.count == 1 ? words[0] : words.dropLast().joined(separator: ", ") + " or " + words[words.count - 1]
        return try value(key, expected: expected) { Choice(rawValue: $0) }
    }

    func count(_ key: String, in range: ClosedRange<Int>, nullable: Bool = false) throws(ConfigurationError) -> Int? {
        let expected = "a whole number from \(range.lowerBound) to \(range.upperBound)"
        return try value(key, expected: expected, nullable: nullable) { text in
            Int(text).flatMap { range.contains($0) ? $0 : nil }
        }
    }

    func size(_ key: String, in range: ClosedRange<Int>) throws(ConfigurationError) -> Int? {
        guard let bytes = try value(key, expected: Quantity.sizeSyntax, parse: Quantity.bytes) else { return nil }
        guard range.contains(bytes) else {
            throw error(.badValue, at: key, """
                expected \(Quantity.sizeText(range.lowerBound)) to \(Quantity.sizeText(range.upperBound)) for \
                \(path).\(key), found \(Quantity.sizeText(bytes))
                """)
        }
        return bytes
    }

    func duration(_ key: String, in range: ClosedRange<Int>) throws(ConfigurationError) -> Int? {
        guard let ms = try value(key, expected: Quantity.durationSyntax, parse: Quantity.milliseconds) else { return nil }
        guard range.contains(ms) else {
            throw error(.badValue, at: key, """
                expected \(Quantity.durationText(range.lowerBound)) to \(Quantity.durationText(range.upperBound)) for \
                \(path).\(key), found \(Quantity.durationText(ms))
                """)
        }
        return ms
    }
}

extension Configuration.Retention {
    mutating func read(_ top: Section) throws(ConfigurationError) {
        guard let section = try top.section("retention", known: ["local", "global"]) else { return }
        if let section = try section.section("local", known: RetentionRules.keys + ["highWatermark", "lowWatermark"]) {
            try local.read(section)
            watermarks = try Configuration.Watermarks.read(section)
        }
        if let section = try section.section("global", known: RetentionRules.keys) { try global.read(section) }
    }
}

extension RetentionRules {
    static let keys = ["keep", "keepPeriod", "keepEvery", "keepWithin", "best", "maxAge", "maxBytes"]

    mutating func read(_ section: Section) throws(ConfigurationError) {
        // Never less than one: the newest committed step is not deleted before a newer one is committed.
        keep = try section.count("keep", in: 1...1_000_000) ?? keep
        keepPeriod = try section.count("keepPeriod", in: 1...1_000_000_000_000, nullable: true)
        keepEverySeconds = try Self.seconds(section, "keepEvery")
        keepWithinSeconds = try Self.seconds(section, "keepWithin")
        maxAgeSeconds = try Self.seconds(section, "maxAge")
        maxBytes = try section.value("maxBytes", expected: Quantity.sizeSyntax, nullable: true, parse: Quantity.bytes)
        if let wanted = try section.section("best", known: ["metric", "order", "count"]) {
            guard let metric = try wanted.value("metric", expected: "a key of the saves' metadata", parse: { $0.isEmpty ? nil : $0 }) else {
                throw wanted.error(.missing, "expected 'metric' in \(wanted.path), a key of the saves' metadata; found none")
            }
            best = Best(metric: metric, order: try wanted.choice("order") ?? .min, count: try wanted.count("count", in: 1...1_000_000) ?? 1)
        }
    }

    private static func seconds(_ section: Section, _ key: String) throws(ConfigurationError) -> Int? {
        // What is saved says its time in whole seconds.
        try section.value(key, expected: "a duration of whole seconds such as 90s, 12h, 1d", nullable: true) { text in
            Quantity.milliseconds(text).flatMap { $0 >= 1000 && $0 % 1000 == 0 ? $0 / 1000 : nil }
        }
    }
}

extension Configuration.Watermarks {
    static func read(_ section: Section) throws(ConfigurationError) -> Self? {
        let high = try section.count("highWatermark", in: 1...99, nullable: true), low = try section.count("lowWatermark", in: 0...98, nullable: true)
        guard let high else {
            if low != nil { throw section.error(.missing, at: "lowWatermark", "expected highWatermark beside lowWatermark in \(section.path): nothing is evicted without it") }
            return nil
        }
        let result = Self(high: high, low: low ?? max(0, high - 10))
        guard result.low < result.high else {
            throw section.error(.contradiction, at: "lowWatermark", "expected lowWatermark below highWatermark (\(high)), found \(result.low)")
        }
        return result
    }
}

extension Configuration.Operators {
    mutating func read(_ top: Section) throws(ConfigurationError) {
        guard let section = try top.section("operators", known: ["users", "groups"]) else { return }
        users = try section.list("users", expected: Configuration.nameSyntax, parse: Configuration.accountName) ?? users
        groups = try section.list("groups", expected: Configuration.nameSyntax, parse: Configuration.accountName) ?? groups
    }
}

extension Configuration.Files {
    mutating func read(_ top: Section) throws(ConfigurationError) {
        guard let section = try top.section("files", known: ["mode", "group"]) else { return }
        // The owner reads and writes, or restores and retention would not work; nobody executes a checkpoint.
        let modeSyntax = "an octal mode in quotes such as \"0640\", with read and write for the owner and no execute bits"
        mode = try section.value("mode", expected: modeSyntax) { text in
            guard (3...4).contains(text.utf8.count), let mode = UInt32(text, radix: 8),
                  mode & 0o600 == 0o600, mode & ~0o666 == 0 else { return nil }
            return mode
        } ?? mode
        group = try section.value("group", expected: Configuration.nameSyntax, nullable: true, parse: Configuration.accountName)
    }
}

extension Configuration.Limits {
    mutating func read(_ top: Section) throws(ConfigurationError) {
        let known = ["inFlightPerRank", "messageBytes", "fence", "commitTimeout", "loadBytes", "attemptTimeout"]
        guard let section = try top.section("limits", known: known) else { return }
        inFlightPerRank = try section.count("inFlightPerRank", in: 1...16) ?? inFlightPerRank
        messageBytes = try section.size("messageBytes", in: 1 << 20...1 << 30) ?? messageBytes
        fenceMs = try section.duration("fence", in: 100...3_600_000) ?? fenceMs
        commitTimeoutMs = try section.duration("commitTimeout", in: 1_000...7 * 86_400_000) ?? commitTimeoutMs
        loadBytes = try section.size("loadBytes", in: 8 << 20...1 << 40) ?? loadBytes
        attemptTimeoutMs = try section.duration("attemptTimeout", in: 1_000...86_400_000) ?? attemptTimeoutMs
    }
}

extension Configuration {
    static let nameSyntax = "the name or number of an account"
    static func accountName(_ text: String) -> String? {
        let bytes = text.utf8
        guard (1...64).contains(bytes.count), bytes.first != 0x2D,
              bytes.allSatisfy({ $0 > 0x20 && $0 < 0x7F && $0 != 0x3A && $0 != 0x2F }) else { return nil }
        return text
    }
}
