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
        try local.read(section, "local")
        try global.read(section, "global")
    }
}

extension Configuration.RetentionRule {
    mutating func read(_ retention: Section, _ key: String) throws(ConfigurationError) {
        guard let section = try retention.section(key, known: ["keep", "keepPeriod"]) else { return }
        // Never less than one: the newest committed step is not deleted before a newer one is committed.
        keep = try section.count("keep", in: 1...1_000_000) ?? keep
        keepPeriod = try section.count("keepPeriod", in: 1...1_000_000_000_000, nullable: true)
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
