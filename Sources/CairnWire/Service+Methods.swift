// The methods of org.varlink.service, by which any Varlink tool finds out what a daemon serves.

extension Service {
    /// Get a list of all the interfaces a service provides and information about the implementation.
    public enum GetInfo: WireMethod {
        public static let name = Service.interface + ".GetInfo"
        public typealias Parameters = Nothing
        public struct Reply: WireFields {
            public var vendor: String
            public var product: String
            public var version: String
            public var url: String
            public var interfaces: [String]

            public init(vendor: String, product: String, version: String, url: String, interfaces: [String]) {
                self.vendor = vendor; self.product = product; self.version = version; self.url = url
                self.interfaces = interfaces
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case vendor, product, version, url, interfaces }
        }
    }

    /// Get the description of an interface that is implemented by this service.
    public enum GetInterfaceDescription: WireMethod {
        public static let name = Service.interface + ".GetInterfaceDescription"
        public struct Parameters: WireFields {
            public var interface: String

            public init(interface: String) {
                self.interface = interface
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case interface }
        }
        public struct Reply: WireFields {
            public var description: String

            public init(description: String) {
                self.description = description
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case description }
        }
    }
}
