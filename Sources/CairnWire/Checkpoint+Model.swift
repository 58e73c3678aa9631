// Between the wire's shards and objects and the model's: the model has no sources, and no optional flags.
import CairnModel

extension Checkpoint.Shard {
    /// What was left out means the safe thing: not private, eager. Shapes are checked by the store's layout, not here.
    public var model: CairnModel.Shard {
        CairnModel.Shard(name: name, dtype: dtype, shape: shape, globalShape: globalShape, offsets: offsets, replica: replica,
                         replicas: replicas, isPrivate: isPrivate ?? false, eager: eager ?? true)
    }

    /// As `Describe` answers: with the rank that holds it, without a source.
    public init(_ shard: CairnModel.Shard, rank: Int) {
        self.init(name: shard.name, dtype: shard.dtype, shape: shard.shape, globalShape: shard.globalShape,
                  offsets: shard.offsets, replica: shard.replica, replicas: shard.replicas,
                  isPrivate: shard.isPrivate ? true : nil, eager: nil, rank: rank)
    }
}

extension Checkpoint.Object {
    public var model: ObjectInfo { ObjectInfo(name: name, scope: scope, key: key, bytes: bytes) }

    public init(_ object: ObjectInfo, rank: Int) {
        self.init(name: object.name, scope: object.scope, key: object.key, bytes: object.bytes, rank: rank)
    }
}

extension Operations.Origin {
    public init(_ origin: StepOrigin) { self.init(run: origin.run, step: origin.step, sequence: origin.sequence.wire) }
}

extension Operations.Tensor {
    public init(_ stored: StoredShard, rank: Int) {
        let shard = stored.shard
        self.init(rank: rank, name: shard.name, dtype: shard.dtype, shape: shard.shape, globalShape: shard.globalShape,
                  offsets: shard.offsets, replica: shard.replica, replicas: shard.replicas, isPrivate: shard.isPrivate,
                  bytes: stored.bytes)
    }
}

extension Operations.Object {
    public init(_ object: ObjectInfo, rank: Int) {
        self.init(rank: rank, name: object.name, scope: object.scope, key: object.key, bytes: object.bytes)
    }
}
