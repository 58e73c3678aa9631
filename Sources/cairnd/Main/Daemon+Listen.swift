// The two sockets: SOCKET for calls, SOCKET.memory for the stager. From systemd if it passed them, else made here.
import CairnConfiguration
import CairnIO

struct StartFailure: Error, CustomStringConvertible {
    let description: String
}

extension Daemon {
    static func listen(_ configuration: Configuration, passed: [(name: String, descriptor: Descriptor)])
        throws -> (control: Descriptor, memory: Descriptor, ours: Bool) {
        let path = configuration.socket, memory = configuration.memorySocket
        if !passed.isEmpty {
            guard let control = passed.first(where: { UnixSocket.localPath($0.descriptor) == path }),
                  let attach = passed.first(where: { UnixSocket.localPath($0.descriptor) == memory }) else {
                let got = passed.map { UnixSocket.localPath($0.descriptor) ?? $0.name }.joined(separator: "', '")
                throw StartFailure(description: "systemd passed the sockets '\(got)', but the configuration says '\(path)' (and '\(memory)'): "
                    + "make ListenStream= of cairnd.socket and `socket:` agree")
            }
            for socket in [control.descriptor, attach.descriptor] { try UnixSocket.setNonBlocking(socket, true) }
            return (control.descriptor, attach.descriptor, false)
        }
        let folder = path.split(separator: "/").dropLast().reduce("") { $0 + "/" + $1 }
        try makeFolders(folder)
        do {
            return (try UnixSocket.listen(path: path), try listenForMemory(memory), true)
        } catch {
            guard error.isInUse else { throw error }
            throw StartFailure(description: "another cairnd serves '\(path)': stop it, or give this one another `socket:` (or --socket)")
        }
    }

    /// Only a daemon's main process holds the control socket, and it is free: whoever still holds this one is the stager of a
    /// daemon that was killed, and is about to end.
    private static func listenForMemory(_ path: String) throws(IOFailure) -> Descriptor {
        let end = Clock.monotonicNanoseconds() + DaemonLimits.predecessorMilliseconds * 1_000_000
        while true {
            do { return try UnixSocket.listen(path: path) } catch {
                guard error.isInUse, Clock.monotonicNanoseconds() < end else { throw error }
                Clock.sleep(milliseconds: 10)
            }
        }
    }

    /// The socket's folder, made where missing: the embedded default's is below the user's own state folder. The part that
    /// exists may hold symbolic links; what is made here does not.
    static func makeFolders(_ path: String) throws {
        let parts = path.split(separator: "/")
        for depth in stride(from: parts.count, through: 0, by: -1) {
            guard let root = try? Files.openRoot("/" + parts.prefix(depth).joined(separator: "/")) else { continue }
            if depth < parts.count { try Files.makeFolders(root, parts.dropFirst(depth).joined(separator: "/"), mode: 0o755) }
            return
        }
    }
}
