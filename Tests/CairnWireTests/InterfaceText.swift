// A small parser of Varlink interface texts, as varlink.org gives the grammar: names of members, fields and types.

struct InterfaceText {
    struct Field: Equatable { var name: String, type: String }
    enum Member: Equatable {
        case structure([Field]), enumeration([String]), method(parameters: [Field], reply: [Field]), error([Field])
    }
    struct SyntaxError: Error { var found: String }

    private(set) var name = ""
    private(set) var members: [String: Member] = [:]
    private var tokens: ArraySlice<String>

    init(_ text: String) throws {
        var tokens: [String] = []
        for line in text.split(separator: "\n") {
            var word = ""
            for character in line {
                if character.isLetter || character.isNumber || "._->[]".contains(character) {
                    if character == "[" { if !word.isEmpty { tokens.append(word); word = "" } }
                    word.append(character)
                    if character == "]" { tokens.append(word); word = "" }
                    continue
                }
                if !word.isEmpty { tokens.append(word); word = "" }
                if character == "#" { break }
                if !character.isWhitespace { tokens.append(String(character)) }
            }
            if !word.isEmpty { tokens.append(word) }
        }
        self.tokens = tokens[...]
        try expect("interface")
        name = try take()
        while !self.tokens.isEmpty { try member() }
    }

    private mutating func take() throws -> String {
        guard let token = tokens.popFirst() else { throw SyntaxError(found: "the end") }
        return token
    }

    private mutating func expect(_ token: String) throws {
        let found = try take()
        guard found == token else { throw SyntaxError(found: found) }
    }

    private mutating func member() throws {
        let kind = try take(), name = try take()
        guard members[name] == nil, name.first?.isUppercase == true else { throw SyntaxError(found: name) }
        switch kind {
        case "type":
            let fields = try fields()
            members[name] = fields.contains { $0.type.isEmpty } ? .enumeration(fields.map(\.name)) : .structure(fields)
        case "method":
            let parameters = try fields()
            try expect("->")
            members[name] = .method(parameters: parameters, reply: try fields())
        case "error": members[name] = .error(try fields())
        default: throw SyntaxError(found: kind)
        }
    }

    private mutating func fields() throws -> [Field] {
        var fields: [Field] = []
        try expect("(")
        if tokens.first == ")" { tokens.removeFirst(); return fields }
        while true {
            var field = Field(name: try take(), type: "")
            var token = try take()
            if token == ":" {
                repeat {
                    token = try take()
                    field.type += token
                } while ["?", "[]", "[string]"].contains(token)
                token = try take()
            }
            fields.append(field)
            if token == ")" { return fields }
            guard token == "," else { throw SyntaxError(found: token) }
        }
    }
}
