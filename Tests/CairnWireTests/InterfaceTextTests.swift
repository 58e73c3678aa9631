import CairnModel
@testable import CairnWire
import FoundationEssentials
import Testing

@Suite struct InterfaceTextTests {
    static let methods = RequestReader.byName.values.map { $0.method }.sorted { $0.name < $1.name }
    static let interfaces = [Checkpoint.interface, Operations.interface, Service.interface]

    private func text(_ interface: String) throws -> InterfaceText {
        try InterfaceText(try Service.description(of: interface).description)
    }

    @Test(arguments: interfaces) func everyMethodOfTheTextIsServedAndNoOther(interface: String) throws {
        let text = try text(interface)
        #expect(text.name == interface)
        let inText = text.members.compactMap { name, member in if case .method = member { interface + "." + name } else { nil } }
        #expect(Set(inText) == Set(Self.methods.map { $0.name }.filter { $0.hasPrefix(interface + ".") }))
    }

    @Test(arguments: methods.map { $0.name }) func fieldsOfTextAndStructsAgree(method: String) throws {
        let type = try #require(RequestReader.byName[method]).method
        let dot = try #require(method.lastIndex(of: "."))
        let text = try text(String(method[..<dot]))
        guard case .method(let parameters, let reply) = text.members[String(method[method.index(after: dot)...])] else {
            Issue.record("\(method) is not in the text")
            return
        }
        func fields<Method: WireMethod>(_: Method.Type) throws {
            try compare(Method.Parameters.self, parameters, text)
            try compare(Method.Reply.self, reply, text)
        }
        try fields(type)
    }

    /// Field by field, and the types that the fields name.
    private func compare<Fields: Decodable>(_: Fields.Type, _ expected: [InterfaceText.Field], _ text: InterfaceText) throws {
        let probe = Probe(withOptionals: true)
        _ = try Fields(from: probe)
        #expect(probe.fields == expected, "\(Fields.self)")
        if let wire = Fields.self as? any WireFields.Type { #expect(codingKeys(wire) == expected.map(\.name), "\(Fields.self)") }
        for (name, type) in probe.named {
            switch text.members[name] {
            case .structure(let fields): try compare(type, fields, text)
            case .enumeration(let names):
                let cases = try #require(type as? any CaseIterable.Type, "\(name)")
                #expect(names == (cases.allCases as any Collection).map { "\($0)" })
            default: Issue.record("the type \(name) is not in the text of \(text.name)")
            }
        }
    }

    private func codingKeys<Fields: WireFields>(_: Fields.Type) -> [String] { Fields.CodingKeys.allCases.map(\.stringValue) }

    @Test(arguments: interfaces) func everyMemberIsUsedAndDocumented(interface: String) throws {
        let source = try Service.description(of: interface).description
        let lines = source.split(separator: "\n", omittingEmptySubsequences: false)
        for (index, line) in lines.enumerated() where line.hasPrefix("method ") {
            #expect(lines[index - 1].hasPrefix("#"), "\(line) has no comment")
        }
        for (name, member) in try text(interface).members {
            switch member {
            case .structure, .enumeration: #expect(source.split { !($0.isLetter) }.filter { $0 == name }.count > 1, "\(name) is not used")
            default: break
            }
        }
    }

    @Test func errorsOfTextAndEnumAgree() throws {
        var expected: [String: [String]] = [:]
        for interface in Self.interfaces {
            for (name, member) in try text(interface).members {
                if case .error(let fields) = member { expected[interface + "." + name] = fields.map(\.name).sorted() }
            }
        }
        #expect(Set(Samples.errors.map(\.name)) == Set(expected.keys))
        for error in Samples.errors {
            struct Anything: Decodable { init(from decoder: Decoder) {} }
            struct Fields: Decodable { var parameters: [String: Anything] }
            let fields = try JSONDecoder().decode(Fields.self, from: Data(Outgoing.error(error).withoutNUL)).parameters
            #expect(fields.keys.sorted() == expected[error.name], "\(error.name)")
        }
    }

    @Test func infoListsAllInterfaces() throws {
        let info = Service.info(version: "1")
        #expect(Set(info.interfaces) == Set(Service.texts.keys))
        #expect(throws: WireError.interfaceNotFound(interface: "x.y")) { try Service.description(of: "x.y") }
    }
}
