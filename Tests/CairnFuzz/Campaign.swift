extension Parser {
    /// Right inputs to begin with.
    public var seeds: [[UInt8]] { Seeds.of(self) }

    /// The inputs of one seed: what was right, then `count` that are nearly so.
    public func inputs(seed: UInt64, count: Int) -> some Sequence<[UInt8]> {
        let seeds = seeds
        var mutator = Mutator(seed: seed)
        return seeds.lazy + (0..<count).lazy.map { _ in mutator.mutated(seeds) }
    }
}
