// The text of org.varlink.service, as the Varlink project publishes it, with systemd's ExpectedMore.

extension Service {
    /// What `GetInterfaceDescription` answers.
    public static let text = """
        # The Varlink Service Interface is provided by every varlink service. It describes the service and its interfaces.
        interface org.varlink.service

        # Get a list of all the interfaces a service provides and information about the implementation.
        method GetInfo() -> (vendor: string, product: string, version: string, url: string, interfaces: []string)

        # Get the description of an interface that is implemented by this service.
        method GetInterfaceDescription(interface: string) -> (description: string)

        # The requested interface was not found.
        error InterfaceNotFound (interface: string)

        # The requested method was not found.
        error MethodNotFound (method: string)

        # The interface defines the requested method, but the service does not implement it.
        error MethodNotImplemented (method: string)

        # One of the passed parameters is invalid; where it is inside another, the path to it.
        error InvalidParameter (parameter: string)

        # The method was called without more, which it requires.
        error ExpectedMore ()

        """
}
