// Every limit of the stager, each with what happens at it.
import CairnModel

enum StagerLimits {
    /// Connections to SOCKET.memory at once, of all users and of one: a further one is closed unanswered.
    static let connections = 64, connectionsPerUser = 16
    /// One attach, from accept to the reply's last byte; then the connection is closed.
    static let attachMilliseconds = 5000
    /// One Varlink call on that socket; more is answered with TooLarge.
    static let attachBytes = 64 << 10
    /// Memfds that the sessions of one user may have attached together; a further one is refused.
    static let sourcesPerUser = 4096
    /// Copies that stick, with a thread each, before no further staging is taken.
    static let stuckThreads = 16
    /// Of these, how many may be copies of one user's memory: his saves fail then, others' go on.
    static let stuckThreadsPerUser = 4
    /// Threads for restores and leases.
    static let serviceThreads = 2
    /// Restores and leases that wait; a further one is answered as failed.
    static let serviceJobs = 8192
    /// What READY waits for is filled as fast as it goes: on a busy node a nice thread would take seconds for it.
    static let firstFillBytes = 256 << 20
    /// How often the filler tells.
    static let firstTellBytes = 32 << 20, laterTellBytes = 256 << 20
    /// Beyond the first part the filler yields to everything else.
    static let fillNiceness = 19
}
