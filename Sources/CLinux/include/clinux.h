// What Swift cannot import from glibc and the kernel: macros, variadics and GNU-only calls. Thin, no logic.
// Every function returns what its system call returns: -1 with errno set on failure.
#ifndef CAIRN_CLINUX_H
#define CAIRN_CLINUX_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

// Files
enum {
    CAIRN_OPEN_READ = 1, CAIRN_OPEN_WRITE = 2, CAIRN_OPEN_CREATE = 4, CAIRN_OPEN_EXCLUSIVE = 8,
    CAIRN_OPEN_DIRECT = 16, CAIRN_OPEN_APPEND = 32, CAIRN_OPEN_TRUNCATE = 64, CAIRN_OPEN_FOLDER = 128,
};
/// Below `base`, no symlink anywhere, always CLOEXEC and NOCTTY.
int cairn_open_beneath(int base, const char *path, int set, unsigned mode);
/// One component, O_NOFOLLOW: the step of the fallback where openat2 is refused.
int cairn_open_component(int base, const char *name, int set, unsigned mode);
int cairn_open_root(const char *path);
int cairn_duplicate(int fd);
int cairn_status_flags(int fd);
int cairn_allocate(int fd, int64_t offset, int64_t bytes);
/// All of a file's blocks, shared until one of the two is changed.
int cairn_clone(int to, int from);
/// By the kernel, from the same offset to the same offset; less than asked is usual, 0 at the end.
ssize_t cairn_copy_range(int to, int from, int64_t offset, size_t bytes);

struct cairn_file_space { uint64_t total_bytes, free_bytes; int64_t type; };
int cairn_space(int fd, struct cairn_file_space *space);
struct cairn_file_status {
    int64_t bytes, modified_seconds;
    uint64_t device, inode;
    uint32_t mode, uid, links;
};
/// `name` NULL: the descriptor itself; never follows a symlink.
int cairn_status(int fd, const char *name, struct cairn_file_status *status);
/// O_DIRECT's alignment: -1 when the filesystem does not say, 0 when it refuses O_DIRECT.
int cairn_direct_alignment(int fd);
/// Of the mount that this was opened through; 0 where the kernel does not say.
uint64_t cairn_mount_id(int fd);
int cairn_try_lock(int fd);
/// A byte of a file, locked by this *process* until it is gone, be it stuck in the kernel: descriptors that it handed on do not share that.
int cairn_lock_byte(int fd, int64_t byte);
/// 1: another process has it, `pid` is its (0: of another namespace); 0: nobody.
int cairn_byte_owner(int fd, int64_t byte, int32_t *pid);

// Memory
enum { CAIRN_SEAL_SEAL = 1, CAIRN_SEAL_SHRINK = 2, CAIRN_SEAL_GROW = 4, CAIRN_SEAL_WRITE = 8 };
int cairn_memfd(const char *name);
int cairn_add_seals(int fd, int set);
int cairn_seals(int fd);
int cairn_populate(void *address, size_t bytes);
void cairn_discard(void *address, size_t bytes);
int cairn_huge_pages(void *address, size_t bytes);
int cairn_collapse(void *address, size_t bytes);
/// Writes a byte of each `step` as it is, which no optimizer leaves out.
void cairn_touch(void *address, size_t bytes, size_t step);
ssize_t cairn_read_process(pid_t pid, void *to, size_t bytes, const struct iovec *pieces, unsigned count);
int cairn_eventfd(void);
int cairn_eventfd_signal(int fd);
/// 0 when nothing was signalled.
uint64_t cairn_eventfd_drain(int fd);
/// 1: something keeps it synchronized, 0: nothing does, -1: not told.
int cairn_clock_state(void);
ssize_t cairn_random(void *to, size_t bytes);

// Processes and threads
int cairn_pidfd(pid_t pid);
int cairn_signal_pidfd(int pidfd, int signal);
/// Returns the child's pid; -1 with errno when it could not be started, execve's own failure included.
pid_t cairn_spawn(const char *executable, char *const arguments[], char *const environment[],
                  const int *from, const int *as, int count, int die_with_parent, int own_group);
int cairn_terminal_rows(int fd);
/// The end to read, then the end to write.
int cairn_pipe(int *ends);
/// 1: ended, and reaped; 0: still runs. `signal` is 0 when it ended by exit(`code`).
int cairn_reap(pid_t pid, int *code, int *signal);
pid_t cairn_thread_id(void);
int cairn_set_scheduler(pid_t thread, int policy);      // 0 other, 1 batch, 2 idle
int cairn_set_niceness(pid_t thread, int niceness);     // 0: the calling thread
int cairn_set_name(const char *name);
/// Under Yama, lets that process and its children read this one's memory.
int cairn_permit_reading(pid_t pid);
int cairn_ignore_signal(int number);
char *const *cairn_environment(void);
int cairn_memory_lock_limit(uint64_t *soft, uint64_t *hard);
int cairn_open_files_limit(uint64_t *soft, uint64_t *hard);
/// Soft limit to hard limit; 0 memory lock, 1 open files.
int cairn_raise_limit(int which);

// Sockets
int cairn_unix_socket(int nonblocking);
int cairn_unix_datagram(void);
int cairn_unix_pair(int fds[2]);
/// `abstract_name`: the name is not a path.
int cairn_unix_bind(int fd, const char *path, size_t bytes);
int cairn_unix_connect(int fd, const char *path, size_t bytes, int abstract_name);
int cairn_unix_accept(int fd);
/// Whoever sends descriptors to this socket, or to one accepted from it, gets EPERM (Linux 6.16).
int cairn_unix_refuse_descriptors(int fd);
int cairn_unix_send_timeout(int fd, int milliseconds);
int cairn_unix_peer(int fd, int32_t *pid, uint32_t *uid, uint32_t *gid);
ssize_t cairn_receive(int fd, void *to, size_t bytes, int wait);
/// Descriptors arrive CLOEXEC; `truncated` is 1 when some did not fit and were dropped by the kernel.
ssize_t cairn_receive_descriptors(int fd, void *to, size_t bytes, int wait, int *fds, int room, int *count, int *truncated);
ssize_t cairn_send(int fd, const void *from, size_t bytes, int wait, const int *fds, int count);
/// Set of 1 readable, 2 writable, 4 hung up (the peer closed or shut down its writing side), 8 error; 0 on timeout.
int cairn_poll(int fd, int readable, int writable, int milliseconds);

// Errors
const char *cairn_errno_name(int code);
const char *cairn_errno_text(int code);

// The supplementary groups that a peer had when it connected: from the kernel, so no name service is asked.
int cairn_peer_groups(int fd, uint32_t *groups, int room);

#endif
