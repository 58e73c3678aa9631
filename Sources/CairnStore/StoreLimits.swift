// Every limit of what is on disk, each with its reason. What exceeds one is refused with a typed error, never cut.
import CairnModel

public enum StoreLimits {
    /// The stock safetensors library refuses longer headers (MAX_HEADER_SIZE).
    public static let headerBytes = 100_000_000
    /// Tensors of one rank: far above the 20,000 that we have met, and their header stays under its limit only if names are short.
    public static let shards = 1_000_000
    public static let objects = 100_000
    /// A name becomes a JSON key and part of messages; a dotted path of a deep model has some hundred bytes.
    public static let nameBytes = 4096
    /// torch allows 64 dimensions.
    public static let dimensions = 64
    /// One rank's file: with 8 MiB chunks this is two million chunks, beyond any host's memory.
    public static let fileBytes = 1 << 44
    public static let worldSize = 1 << 20
    /// Files beside a rank's own, and one's bytes: they are read into a worker's memory. DCP's `.metadata` takes some hundred bytes a shard.
    public static let files = 16
    public static let besideFileBytes = 256 << 20
    public static let fileNameBytes = 100
    /// A record of one rank or one attempt. User metadata is the largest part.
    public static let recordBytes = 64 << 20
    /// The layout file of a whole step: about 150 bytes a shard, so ten million shards in all ranks.
    public static let layoutFileBytes = 2 << 30
    /// The manifests' rows of the largest world.
    public static let manifestRowsBytes = ManifestRows.fileBytes(rows: worldSize)
    /// Contiguous runs that one load may need; each costs about 40 bytes of plan. A load of more asks for smaller boxes.
    public static let runs = 8_000_000
    /// Each box of a load starts at a multiple of this in its segment: no dtype and no vector load needs more.
    public static let boxAlignment = 64

    /// Numbers in names are padded to these widths and may be longer: names sort as numbers as long as they fit.
    static let rankDigits = 5
    static let attemptDigits = 6
    /// Hex digits of a digest in a name: 128 bits are beyond accident.
    static let nameDigestDigits = 32
}
