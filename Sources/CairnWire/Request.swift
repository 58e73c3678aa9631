// A call by the interface and method that it names, with that method's typed parameters: what a daemon switches over.

public enum Request: Hashable, Sendable {
    case checkpoint(Checkpoint.Request)
    case operations(Operations.Request)
    case service(Service.Request)
}

extension Checkpoint {
    public enum Request: Hashable, Sendable {
        case open(Open.Parameters)
        case attach(Attach.Parameters)
        case close(Close.Parameters)
        case register(Register.Parameters)
        case save(Save.Parameters)
        case seal(Seal.Parameters)
        case lease(Lease.Parameters)
        case put(Put.Parameters)
        case release(Release.Parameters)
        case watch(Watch.Parameters)
        case wait(Wait.Parameters)
        case steps(Steps.Parameters)
        case describe(Describe.Parameters)
        case choose(Choose.Parameters)
        case load(Load.Parameters)
        case settle(Settle.Parameters)
        case promote(Promote.Parameters)
        case branch(Branch.Parameters)
    }
}

extension Operations {
    public enum Request: Hashable, Sendable {
        case status(Status.Parameters)
        case runs(Runs.Parameters)
        case describe(Describe.Parameters)
        case path(Path.Parameters)
        case branch(Branch.Parameters)
        case verify(Verify.Parameters)
        case pin(Pin.Parameters)
        case unpin(Unpin.Parameters)
        case delete(Delete.Parameters)
        case retain(Retain.Parameters)
        case advise(Advise.Parameters)
        case drain(Drain.Parameters)
        case watch(Watch.Parameters)
        case metrics(Metrics.Parameters)
        case progress(Progress.Parameters)
        case history(History.Parameters)
    }
}

extension Service {
    public enum Request: Hashable, Sendable {
        case getInfo(GetInfo.Parameters)
        case getInterfaceDescription(GetInterfaceDescription.Parameters)
    }
}

/// How the parameters of each method are read, by the method's full name.
struct RequestReader: Sendable {
    let method: any WireMethod.Type
    let read: @Sendable (Parameters) throws -> Request

    static let byName: [String: RequestReader] = {
        var table: [String: RequestReader] = [:]
        func add<Method: WireMethod>(_: Method.Type, _ make: @escaping @Sendable (Method.Parameters) -> Request) {
            table[Method.name] = RequestReader(method: Method.self) { try make($0.decode(Method.Parameters.self)) }
        }
        add(Checkpoint.Open.self) { .checkpoint(.open($0)) }
        add(Checkpoint.Attach.self) { .checkpoint(.attach($0)) }
        add(Checkpoint.Close.self) { .checkpoint(.close($0)) }
        add(Checkpoint.Register.self) { .checkpoint(.register($0)) }
        add(Checkpoint.Save.self) { .checkpoint(.save($0)) }
        add(Checkpoint.Seal.self) { .checkpoint(.seal($0)) }
        add(Checkpoint.Lease.self) { .checkpoint(.lease($0)) }
        add(Checkpoint.Put.self) { .checkpoint(.put($0)) }
        add(Checkpoint.Release.self) { .checkpoint(.release($0)) }
        add(Checkpoint.Watch.self) { .checkpoint(.watch($0)) }
        add(Checkpoint.Wait.self) { .checkpoint(.wait($0)) }
        add(Checkpoint.Steps.self) { .checkpoint(.steps($0)) }
        add(Checkpoint.Describe.self) { .checkpoint(.describe($0)) }
        add(Checkpoint.Choose.self) { .checkpoint(.choose($0)) }
        add(Checkpoint.Load.self) { .checkpoint(.load($0)) }
        add(Checkpoint.Settle.self) { .checkpoint(.settle($0)) }
        add(Checkpoint.Promote.self) { .checkpoint(.promote($0)) }
        add(Checkpoint.Branch.self) { .checkpoint(.branch($0)) }
        add(Operations.Status.self) { .operations(.status($0)) }
        add(Operations.Runs.self) { .operations(.runs($0)) }
        add(Operations.Describe.self) { .operations(.describe($0)) }
        add(Operations.Path.self) { .operations(.path($0)) }
        add(Operations.Branch.self) { .operations(.branch($0)) }
        add(Operations.Verify.self) { .operations(.verify($0)) }
        add(Operations.Pin.self) { .operations(.pin($0)) }
        add(Operations.Unpin.self) { .operations(.unpin($0)) }
        add(Operations.Delete.self) { .operations(.delete($0)) }
        add(Operations.Retain.self) { .operations(.retain($0)) }
        add(Operations.Advise.self) { .operations(.advise($0)) }
        add(Operations.Drain.self) { .operations(.drain($0)) }
        add(Operations.Watch.self) { .operations(.watch($0)) }
        add(Operations.Metrics.self) { .operations(.metrics($0)) }
        add(Operations.Progress.self) { .operations(.progress($0)) }
        add(Operations.History.self) { .operations(.history($0)) }
        add(Service.GetInfo.self) { .service(.getInfo($0)) }
        add(Service.GetInterfaceDescription.self) { .service(.getInterfaceDescription($0)) }
        return table
    }()
}
