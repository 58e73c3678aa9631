// The version of daemon, tool and wire: they are built together.

public enum CairnVersion {
    public static let text = "0.1.0"
}
