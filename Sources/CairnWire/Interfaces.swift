// The three interfaces that a daemon serves: each is a namespace of its types and methods.

/// What training ranks call.
public enum Checkpoint {
    public static let interface = "dev.cairn.Checkpoint"
}

/// What operators and the command line tool call.
public enum Operations {
    public static let interface = "dev.cairn.Operations"
}

/// What every Varlink service answers about itself.
public enum Service {
    public static let interface = "org.varlink.service"

    /// The interfaces' texts by name.
    public static let texts = [
        Service.interface: Service.text,
        Checkpoint.interface: Checkpoint.text,
        Operations.interface: Operations.text,
    ]

    public static func info(version: String) -> GetInfo.Reply {
        GetInfo.Reply(vendor: "Cairn", product: "cairnd", version: version, url: "", interfaces: [Service.interface, Checkpoint.interface, Operations.interface])
    }

    public static func description(of interface: String) throws(WireError) -> GetInterfaceDescription.Reply {
        guard let text = texts[interface] else { throw .interfaceNotFound(interface: interface) }
        return GetInterfaceDescription.Reply(description: text)
    }
}
