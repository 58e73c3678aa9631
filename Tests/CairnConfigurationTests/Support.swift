import CairnConfiguration
import FoundationEssentials

/// Loads a text as `cairnd.yaml` and returns the error that it must give.
func refusal(_ text: String) -> ConfigurationError? {
    do {
        _ = try Configuration.load(text: text, file: "cairnd.yaml")
        return nil
    } catch {
        return error
    }
}

/// What the shortest valid file says, with more lines after it.
func minimal(_ more: String = "") -> String {
    "tiers: {local: {paths: [/nvme0/cairn]}}\n" + more
}

/// A file of the project's Config folder.
func shipped(_ name: String) -> String {
    URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        .appending(path: "Config/\(name)").path
}
