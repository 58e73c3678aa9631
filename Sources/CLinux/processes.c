// Processes, threads and their limits.
#define _GNU_SOURCE
#include "clinux.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

int cairn_pidfd(pid_t pid) { return (int)syscall(SYS_pidfd_open, pid, 0); }
int cairn_signal_pidfd(int pidfd, int signal) { return (int)syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0); }

// Only async-signal-safe calls: other threads of the parent may hold any lock.
static void child(const char *executable, char *const arguments[], char *const environment[], const int *from, const int *as,
                  int count, int die_with_parent, int own_group, pid_t parent, int report) {
    // A handler of the parent must not run here (libuv's writes to a pipe that both share); what is ignored stays so.
    for (int number = 1; number < NSIG; number++) {
        struct sigaction action;
        if (sigaction(number, NULL, &action) == 0 && action.sa_handler != SIG_IGN) signal(number, SIG_DFL);
    }
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (die_with_parent) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(127);        // it died before the call above
    }
    if (own_group) setpgid(0, 0);
    // First out of the way of all targets, then each to its place: no source is overwritten by another's target.
    int moved[16];
    for (int i = 0; i < count; i++)
        if ((moved[i] = fcntl(from[i], F_DUPFD_CLOEXEC, 100)) < 0) goto failed;
    if (report < 100 && (report = fcntl(report, F_DUPFD_CLOEXEC, 100)) < 0) _exit(127);
    if (syscall(SYS_close_range, 3u, ~0u, 4u /* CLOSE_RANGE_CLOEXEC */) < 0 && errno != ENOSYS && errno != EPERM) goto failed;
    for (int i = 0; i < count; i++)
        if (dup2(moved[i], as[i]) < 0) goto failed;
    execve(executable, arguments, environment);
failed:;
    int code = errno;
    ssize_t ignored = write(report, &code, sizeof code);
    (void)ignored;
    _exit(127);
}

pid_t cairn_spawn(const char *executable, char *const arguments[], char *const environment[],
                  const int *from, const int *as, int count, int die_with_parent, int own_group) {
    if (count > 16) { errno = EINVAL; return -1; }
    int report[2];
    if (pipe2(report, O_CLOEXEC) < 0) return -1;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) child(executable, arguments, environment, from, as, count, die_with_parent, own_group, parent, report[1]);
    int code = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    close(report[1]);
    if (pid < 0) {
        close(report[0]);
        errno = code;
        return -1;
    }
    // Ends at execve (CLOEXEC) or with its errno.
    ssize_t got;
    while ((got = read(report[0], &code, sizeof code)) < 0 && errno == EINTR) {}
    close(report[0]);
    if (got != (ssize_t)sizeof code) return pid;
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {}
    errno = code;
    return -1;
}

int cairn_terminal_rows(int fd) {
    struct winsize size;
    return ioctl(fd, TIOCGWINSZ, &size) < 0 ? -1 : size.ws_row;
}

int cairn_pipe(int *ends) { return pipe2(ends, O_CLOEXEC); }

int cairn_reap(pid_t pid, int *code, int *signal) {
    int status;
    pid_t result;
    while ((result = waitpid(pid, &status, WNOHANG)) < 0 && errno == EINTR) {}
    if (result <= 0) return (int)result;
    *signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    *code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + *signal;
    return 1;
}

pid_t cairn_thread_id(void) { return gettid(); }

int cairn_set_scheduler(pid_t thread, int policy) {
    struct sched_param none = {.sched_priority = 0};
    return sched_setscheduler(thread, policy == 2 ? SCHED_IDLE : policy == 1 ? SCHED_BATCH : SCHED_OTHER, &none);
}

int cairn_set_niceness(pid_t thread, int niceness) { return setpriority(PRIO_PROCESS, (id_t)thread, niceness); }
int cairn_permit_reading(pid_t pid) { return prctl(PR_SET_PTRACER, (unsigned long)pid, 0, 0, 0); }
int cairn_set_name(const char *name) { return prctl(PR_SET_NAME, name); }

int cairn_ignore_signal(int number) { return signal(number, SIG_IGN) == SIG_ERR ? -1 : 0; }

char *const *cairn_environment(void) { return environ; }

static int limit(int which, uint64_t *soft, uint64_t *hard) {
    struct rlimit found;
    if (getrlimit(which, &found) < 0) return -1;
    *soft = found.rlim_cur;
    *hard = found.rlim_max;
    return 0;
}

int cairn_memory_lock_limit(uint64_t *soft, uint64_t *hard) { return limit(RLIMIT_MEMLOCK, soft, hard); }
int cairn_open_files_limit(uint64_t *soft, uint64_t *hard) { return limit(RLIMIT_NOFILE, soft, hard); }

int cairn_raise_limit(int which) {
    int resource = which == 0 ? RLIMIT_MEMLOCK : RLIMIT_NOFILE;
    struct rlimit found;
    if (getrlimit(resource, &found) < 0) return -1;
    found.rlim_cur = found.rlim_max;
    return setrlimit(resource, &found);
}
