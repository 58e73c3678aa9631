// SIGHUP: the configuration's file is read again. What can change while ranks are served, changes: retention, operators, limits. What cannot is
// named, and stays as it was until a restart. A file that is not sound changes nothing.
import CairnConfiguration
import CairnEngine
import CairnIO
import CairnModel

/// What the reader of the file hands to the loop.
private final class Reread: Sendable {
    let result = Monitor<Result<Configuration, ConfigurationError>?>(nil)
    let wakeup = Monitor<Wakeup?>(nil)
}

extension Daemon {
    /// By a thread of its own: the file may lie on a filesystem that hangs (I9).
    func reload() {
        guard let file = configurationFile else {
            log.write(.notice, "SIGHUP: there is no configuration file to read again; stopping")
            return stop(drain: !stopping)
        }
        guard !isReloading, !stopping else { return }
        isReloading = true
        SystemdNotify.send(state: "RELOADING=1\nMONOTONIC_USEC=\(Clock.monotonicNanoseconds() / 1000)")
        let reread = Reread()
        do {
            let wakeup = try loop.wakeup { [unowned self] in
                guard let result = reread.result.read({ $0 }) else { return }
                reread.wakeup.withLock { $0?.stop(); $0 = nil }
                reloaded(result)
            }
            reread.wakeup.withLock { $0 = wakeup }
            _ = try Threads.spawn(name: "reload") {
                let read = Result { () throws(ConfigurationError) in try Configuration.load(path: file) }
                reread.result.update { $0 = read }
                reread.wakeup.withLock { $0?.send() }
            }
        } catch {
            reread.wakeup.withLock { $0?.stop(); $0 = nil }
            endReload("not reloaded: \(error)", .error)
        }
    }

    private func endReload(_ text: String, _ severity: Severity) {
        isReloading = false
        log.write(severity, text)
        if isReady { SystemdNotify.send(state: "READY=1\nSTATUS=serving ranks on \(configuration.socket)") }
    }

    private func reloaded(_ result: Result<Configuration, ConfigurationError>) {
        switch result {
        case .failure(let error): endReload("not reloaded, all stays as it was: \(error)", .error)
        case .success(var new):
            // Said on the command line or by CAIRN_SOCKET, which the file does not know.
            if isSocketGiven { new.socket = configuration.socket }
            let (changed, fixed) = take(new)
            let text = changed.isEmpty ? "reloaded: nothing that can change is different" : "reloaded: \(changed.joined(separator: ", "))"
            endReload(text + (fixed.isEmpty ? "" : "; needs a restart: \(fixed.joined(separator: ", "))"), fixed.isEmpty ? .notice : .warning)
        }
    }

    /// The keys that have changed, and those that would have.
    private func take(_ new: Configuration) -> (changed: [String], fixed: [String]) {
        var changed: [String] = [], fixed: [String] = []
        func apply<Value: Equatable>(_ name: String, _ key: WritableKeyPath<Configuration, Value>) {
            guard configuration[keyPath: key] != new[keyPath: key] else { return }
            configuration[keyPath: key] = new[keyPath: key]
            changed.append(name)
        }
        apply("retention.local", \.retention.local)
        apply("retention.global", \.retention.global)
        apply("operators", \.operators)
        apply("limits.inFlightPerRank", \.limits.inFlightPerRank)
        apply("limits.fence", \.limits.fenceMs)
        apply("limits.commitTimeout", \.limits.commitTimeoutMs)
        apply("limits.attemptTimeout", \.limits.attemptTimeoutMs)
        apply("limits.loadBytes", \.limits.loadBytes)
        operators = OperatorRule(configuration.operators)
        engine.reconfigure(retention: Daemon.retention(configuration)) { limits in Daemon.set(&limits, configuration.limits) }
        for (name, isSame) in [("socket", configuration.socket == new.socket), ("pool", configuration.pool == new.pool), ("tiers", configuration.tiers == new.tiers),
                               ("files", configuration.files == new.files), ("limits.messageBytes", configuration.limits.messageBytes == new.limits.messageBytes)] where !isSame {
            fixed.append(name)
        }
        return (changed, fixed)
    }

    static func retention(_ configuration: Configuration) -> [Tier: RetentionRules] {
        [.local: configuration.retention.local, .global: configuration.retention.global]
    }

    static func set(_ limits: inout EngineLimits, _ said: Configuration.Limits) {
        limits.inFlightPerRank = said.inFlightPerRank
        limits.fenceMs = said.fenceMs
        limits.commitTimeoutMs = said.commitTimeoutMs
        limits.attemptTimeoutMs = said.attemptTimeoutMs
    }
}
