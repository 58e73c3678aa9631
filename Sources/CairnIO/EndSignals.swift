// The signals that ask a program to end, for one that has something to put away first and no event loop.
import Glibc

public enum EndSignals {
    private static let numbers = [SIGINT, SIGTERM, SIGHUP]

    /// On the main thread, before any other is started: from then on they reach only who waits for them. Children get them as usual.
    public static func hold() {
        var set = made()
        unsafe pthread_sigmask(SIG_BLOCK, &set, nil)
    }

    /// Waits for the next; gives its number.
    public static func wait() -> Int32 {
        var set = made(), number: Int32 = 0
        while unsafe sigwait(&set, &number) != 0 {}
        return number
    }

    private static func made() -> sigset_t {
        var set = sigset_t()
        unsafe sigemptyset(&set)
        for number in numbers { unsafe sigaddset(&set, number) }
        return set
    }
}
