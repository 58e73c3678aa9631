import CairnModel
@testable import CairnWire
import Testing

@Suite struct CallTests {
    @Test(arguments: InterfaceTextTests.methods.map { $0.name }, [true, false])
    func everyMethodComesThroughUnchanged(method: String, withOptionals: Bool) throws {
        func roundTrip<Method: WireMethod>(_: Method.Type) throws {
            let parameters = try Probe.sample(Method.Parameters.self, withOptionals: withOptionals)
            let call = try IncomingCall(message: Outgoing.call(Method.self, parameters, oneway: true).withoutNUL)
            #expect(call.method == Method.name && call.more == Method.streams && call.oneway && !call.upgrade)
            #expect(parametersOf(try call.request.get()) == AnyHashable(parameters))

            let reply = try Probe.sample(Method.Reply.self, withOptionals: withOptionals)
            let incoming = try IncomingReply<Method.Reply>(message: Outgoing.reply(reply, continues: Method.streams).withoutNUL)
            #expect(incoming.continues == Method.streams)
            #expect(try incoming.result.get() == reply)
        }
        let type = try #require(RequestReader.byName[method]).method
        try roundTrip(type)
    }

    @Test(arguments: Samples.errors) func everyErrorComesThroughUnchanged(error: WireError) throws {
        let reply = try IncomingReply<Nothing>(message: Outgoing.error(error).withoutNUL)
        #expect(reply.result == .failure(error))
        #expect(!error.description.isEmpty)
    }

    @Test func errorWithoutStepComesThrough() throws {
        let bytes = Outgoing.error(.noSuchStep(step: nil)).withoutNUL
        #expect(String(decoding: bytes, as: UTF8.self) == #"{"error":"dev.cairn.Checkpoint.NoSuchStep","parameters":{}}"#
            || String(decoding: bytes, as: UTF8.self) == #"{"parameters":{},"error":"dev.cairn.Checkpoint.NoSuchStep"}"#)
        #expect(try IncomingReply<Nothing>(message: bytes).result == .failure(.noSuchStep(step: nil)))
    }

    @Test func errorOfAnotherServiceKeepsItsName() throws {
        let reply = try IncomingReply<Nothing>(message: Samples.message(#"{"error":"a.b.C","parameters":{"x":1}}"#))
        #expect(reply.result == .failure(.other(name: "a.b.C")))
    }

    @Test func absentParametersReadAsNone() throws {
        for parameters in ["", #", "parameters": {}"#, #", "parameters": null"#] {
            let call = try IncomingCall(message: Samples.message(#"{"method": "dev.cairn.Operations.Status""# + parameters + "}"))
            #expect(call.request == .success(.operations(.status(Nothing()))))
        }
    }

    @Test func optionalNullsReadAsAbsent() throws {
        let json = #"{"method":"dev.cairn.Checkpoint.Open","parameters":{"run":"r","rank":0,"worldSize":1,"localRank":null,"attempt":null}}"#
        let call = try IncomingCall(message: Samples.message(json))
        #expect(call.request == .success(.checkpoint(.open(.init(run: "r", rank: 0, worldSize: 1)))))
    }

    @Test(arguments: [
        (#"{"method":"a.b.C"}"#, WireError.interfaceNotFound(interface: "a.b")),
        (#"{"method":"C"}"#, .methodNotFound(method: "C")),
        (#"{"method":""}"#, .methodNotFound(method: "")),
        (#"{"method":"dev.cairn.Checkpoint.Nope"}"#, .methodNotFound(method: "dev.cairn.Checkpoint.Nope")),
        (#"{"method":"dev.cairn.Checkpoint.Lease"}"#, .invalidParameter(parameter: "bytes")),
        (#"{"method":"dev.cairn.Checkpoint.Lease","parameters":{"bytes":"8"}}"#, .invalidParameter(parameter: "bytes")),
        (#"{"method":"dev.cairn.Checkpoint.Lease","parameters":{"bytes":1e30}}"#, .invalidParameter(parameter: "bytes")),
        (#"{"method":"dev.cairn.Checkpoint.Lease","parameters":{"bytes":1.5}}"#, .invalidParameter(parameter: "bytes")),
        (#"{"method":"dev.cairn.Checkpoint.Lease","parameters":{"bytes":8,"kind":1}}"#, .invalidParameter(parameter: "kind")),
        (#"{"method":"dev.cairn.Checkpoint.Lease","parameters":[8]}"#, .invalidParameter(parameter: "parameters")),
        (#"{"method":"dev.cairn.Operations.Status","parameters":{"kind":1}}"#, .invalidParameter(parameter: "kind")),
        (#"{"method":"dev.cairn.Operations.Runs","parameters":{"uid":-1}}"#, .invalidParameter(parameter: "uid")),
        (#"{"method":"dev.cairn.Checkpoint.Register","parameters":{"shards":[{"name":"a","dtype":"F32","shape":[1],"source":{}},{"name":"b","dtype":7,"shape":[],"source":{}}]}}"#,
         .invalidParameter(parameter: "shards[1].dtype")),
        (#"{"method":"dev.cairn.Checkpoint.Register","parameters":{"shards":[{"name":"a","dtype":"F32","shape":[1],"source":{"memory":[{"address":-1,"bytes":4}]}}]}}"#,
         .invalidParameter(parameter: "shards[0].source.memory[0].address")),
        (#"{"method":"dev.cairn.Checkpoint.Wait","parameters":{"save":"s","level":"durable"}}"#, .invalidParameter(parameter: "level")),
        (#"{"method":"dev.cairn.Checkpoint.Watch","parameters":{"run":"r"}}"#, .expectedMore),
        (#"{"method":"dev.cairn.Checkpoint.Watch","more":false,"parameters":{"run":"r"}}"#, .expectedMore),
        (#"{"method":"dev.cairn.Operations.Status","upgrade":true}"#, .notSupported(feature: "upgrade")),
    ]) func wrongCallGetsItsTypedError(json: String, error: WireError) throws {
        #expect(try IncomingCall(message: Samples.message(json)).request == .failure(error))
    }

    @Test(arguments: ["", " ", "x", "{", "{}", "[]", "7", #""text""#, "null", #"{"method":7}"#, #"{"method":"a.b.C","more":"yes"}"#,
                      #"{"method":"a.b.C"} {"#, #"{"method":"a.b.C",}"#, "{'method':'a.b.C'}", "\u{FEFF}x",
                      #"{"method":"dev.cairn.Checkpoint.Lease","parameters":{"bytes":8}"#])
    func whatIsNoCallEndsTheConnection(json: String) {
        #expect(throws: ProtocolViolation.self) { try IncomingCall(message: Samples.message(json)) }
        #expect(throws: ProtocolViolation.self) { try IncomingReply<Service.GetInfo.Reply>(message: Samples.message(json)) }
    }

    @Test func nestingBombIsRefusedBeforeItIsParsed() {
        for opening in ["[", #"{"a":"#] {
            let bomb = #"{"method":"dev.cairn.Operations.Status","parameters":"# + String(repeating: opening, count: 1 << 20)
            #expect(throws: ProtocolViolation.self) { try IncomingCall(message: Samples.message(bomb)) }
        }
        let brackets = #"{"method":"dev.cairn.Checkpoint.Watch","more":true,"parameters":{"run":"\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["}}"#
        #expect(throws: Never.self) { try IncomingCall(message: Samples.message(brackets)).request.get() }
    }

    @Test(arguments: 0..<300 as Range<UInt64>) func damagedBytesNeverTrap(seed: UInt64) {
        var random = SplitMix(state: seed)
        var bytes = Outgoing.call(Checkpoint.Register.self, .init(shards: Samples.shards(3))).withoutNUL
        for _ in 0...random.below(4) {
            let at = random.below(bytes.count)
            switch random.below(3) {
            case 0: bytes[at] = UInt8(random.below(256))
            case 1: bytes.remove(at: at)
            default: bytes.insert(UInt8(random.below(256)), at: at)
            }
        }
        // Whatever it is by now, it is a call, an error or a violation.
        _ = try? IncomingCall(message: bytes)
        _ = try? IncomingReply<Checkpoint.Describe.Reply>(message: bytes)
    }

    @Test func unknownFieldsOfRepliesAreIgnored() throws {
        let reply = try IncomingReply<Checkpoint.Settle.Reply>(message: Samples.message(#"{"parameters":{"again":true,"why":"new"}}"#))
        #expect(try reply.result.get().again)
    }
}

/// The typed parameters inside a request: two enums around one value.
private func parametersOf(_ request: Request) -> AnyHashable? {
    let call = Mirror(reflecting: request).children.first?.value
    return call.flatMap { Mirror(reflecting: $0).children.first?.value as? AnyHashable }
}

struct SplitMix {
    var state: UInt64
    mutating func below(_ bound: Int) -> Int {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return Int((z ^ (z >> 31)) % UInt64(bound))
    }
}
