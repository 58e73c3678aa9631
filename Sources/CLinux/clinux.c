// Files, memory and errors.
#define _GNU_SOURCE
#include "clinux.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef STATX_MNT_ID
#define STATX_MNT_ID 0x00001000U
#endif
#ifndef STATX_DIOALIGN
#define STATX_DIOALIGN 0x00002000U
#endif

static int open_flags(int set) {
    int flags = O_CLOEXEC | O_NOCTTY;
    int read = set & CAIRN_OPEN_READ, write = set & CAIRN_OPEN_WRITE;
    flags |= (read && write) ? O_RDWR : write ? O_WRONLY : O_RDONLY;
    if (set & CAIRN_OPEN_CREATE) flags |= O_CREAT;
    if (set & CAIRN_OPEN_EXCLUSIVE) flags |= O_EXCL;
    if (set & CAIRN_OPEN_DIRECT) flags |= O_DIRECT;
    if (set & CAIRN_OPEN_APPEND) flags |= O_APPEND;
    if (set & CAIRN_OPEN_TRUNCATE) flags |= O_TRUNC;
    if (set & CAIRN_OPEN_FOLDER) flags |= O_DIRECTORY;
    else flags |= O_NONBLOCK;                   // a FIFO in a file's place would be waited at for ever
    return flags;
}

// What a file's reads and writes expect.
static int blocking(int fd) {
    if (fd >= 0) fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    return fd;
}

int cairn_open_beneath(int base, const char *path, int set, unsigned mode) {
    struct open_how how = {
        .flags = (uint64_t)open_flags(set),
        .mode = (set & CAIRN_OPEN_CREATE) ? mode : 0,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
    };
    return blocking((int)syscall(SYS_openat2, base, path, &how, sizeof how));
}

int cairn_open_component(int base, const char *name, int set, unsigned mode) {
    return blocking(openat(base, name, open_flags(set) | O_NOFOLLOW, mode));
}

int cairn_open_root(const char *path) { return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOCTTY); }
int cairn_duplicate(int fd) { return fcntl(fd, F_DUPFD_CLOEXEC, 0); }

/// Bits: 1 readable only, 2 O_PATH.
int cairn_status_flags(int fd) {
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0) return -1;
    return ((flags & O_ACCMODE) == O_RDONLY ? 1 : 0) | ((flags & O_PATH) ? 2 : 0);
}

int cairn_allocate(int fd, int64_t offset, int64_t bytes) { return fallocate(fd, 0, offset, bytes); }

int cairn_clone(int to, int from) { return ioctl(to, FICLONE, from); }

ssize_t cairn_copy_range(int to, int from, int64_t offset, size_t bytes) {
    off_t in = offset, out = offset;
    return copy_file_range(from, &in, to, &out, bytes, 0);
}

int cairn_space(int fd, struct cairn_file_space *space) {
    struct statfs found;
    if (fstatfs(fd, &found) < 0) return -1;
    space->total_bytes = (uint64_t)found.f_blocks * (uint64_t)found.f_frsize;
    space->free_bytes = (uint64_t)found.f_bavail * (uint64_t)found.f_frsize;
    space->type = (int64_t)(uint32_t)found.f_type;
    return 0;
}

int cairn_status(int fd, const char *name, struct cairn_file_status *status) {
    struct stat found;
    int result = name ? fstatat(fd, name, &found, AT_SYMLINK_NOFOLLOW) : fstat(fd, &found);
    if (result < 0) return -1;
    status->bytes = found.st_size;
    status->modified_seconds = found.st_mtime;
    status->device = found.st_dev;
    status->inode = found.st_ino;
    status->mode = found.st_mode;
    status->uid = found.st_uid;
    status->links = (uint32_t)found.st_nlink;
    return 0;
}

// The kernel's struct statx, by offsets: glibc's own may be older than the alignment fields.
int cairn_direct_alignment(int fd) {
    union { uint64_t words[32]; uint32_t halves[64]; } found;
    memset(&found, 0, sizeof found);
    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &found) < 0) return -1;
    if (!(found.halves[0] & STATX_DIOALIGN)) return -1;
    uint32_t memory = found.halves[38], offset = found.halves[39];      // bytes 152 and 156
    return (int)(memory > offset ? memory : offset);
}

uint64_t cairn_mount_id(int fd) {
    union { uint64_t words[32]; uint32_t halves[64]; } found;
    memset(&found, 0, sizeof found);
    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &found) < 0 || !(found.halves[0] & STATX_MNT_ID)) return 0;
    return found.words[18];                                             // byte 144
}

int cairn_lock_byte(int fd, int64_t byte) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    return fcntl(fd, F_SETLK, &lock);
}

int cairn_byte_owner(int fd, int64_t byte, int32_t *pid) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    if (fcntl(fd, F_GETLK, &lock) < 0) return -1;
    *pid = lock.l_pid;
    return lock.l_type != F_UNLCK;
}

int cairn_try_lock(int fd) { return flock(fd, LOCK_EX | LOCK_NB); }

int cairn_memfd(const char *name) { return memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING); }

int cairn_add_seals(int fd, int set) {
    int seals = 0;
    if (set & CAIRN_SEAL_SEAL) seals |= F_SEAL_SEAL;
    if (set & CAIRN_SEAL_SHRINK) seals |= F_SEAL_SHRINK;
    if (set & CAIRN_SEAL_GROW) seals |= F_SEAL_GROW;
    if (set & CAIRN_SEAL_WRITE) seals |= F_SEAL_WRITE;
    return fcntl(fd, F_ADD_SEALS, seals);
}

int cairn_seals(int fd) {
    int seals = fcntl(fd, F_GET_SEALS), set = 0;
    if (seals < 0) return -1;
    if (seals & F_SEAL_SEAL) set |= CAIRN_SEAL_SEAL;
    if (seals & F_SEAL_SHRINK) set |= CAIRN_SEAL_SHRINK;
    if (seals & F_SEAL_GROW) set |= CAIRN_SEAL_GROW;
    if (seals & F_SEAL_WRITE) set |= CAIRN_SEAL_WRITE;
    return set;
}

int cairn_populate(void *address, size_t bytes) { return madvise(address, bytes, MADV_POPULATE_WRITE); }
void cairn_discard(void *address, size_t bytes) { madvise(address, bytes, MADV_DONTNEED); }
int cairn_huge_pages(void *address, size_t bytes) { return madvise(address, bytes, MADV_HUGEPAGE); }

// Debian 12's headers are older than Linux 6.1.
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
int cairn_collapse(void *address, size_t bytes) { return madvise(address, bytes, MADV_COLLAPSE); }
void cairn_touch(void *address, size_t bytes, size_t step) {
    volatile char *at = address;
    for (size_t offset = 0; offset < bytes; offset += step) at[offset] = at[offset];
}

ssize_t cairn_read_process(pid_t pid, void *to, size_t bytes, const struct iovec *pieces, unsigned count) {
    struct iovec local = {.iov_base = to, .iov_len = bytes};
    return process_vm_readv(pid, &local, 1, pieces, count, 0);
}

int cairn_eventfd(void) { return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); }
int cairn_eventfd_signal(int fd) { return eventfd_write(fd, 1); }
uint64_t cairn_eventfd_drain(int fd) {
    eventfd_t count;
    return eventfd_read(fd, &count) == 0 ? count : 0;
}
int cairn_clock_state(void) {
    struct timex clock = {0};
    int state = adjtimex(&clock);
    return state < 0 ? -1 : (clock.status & STA_UNSYNC) ? 0 : 1;
}
ssize_t cairn_random(void *to, size_t bytes) { return getrandom(to, bytes, 0); }

int cairn_poll(int fd, int readable, int writable, int milliseconds) {
    struct pollfd entry = {.fd = fd, .events = (short)((readable ? POLLIN : 0) | (writable ? POLLOUT : 0) | POLLRDHUP)};
    int result = poll(&entry, 1, milliseconds);
    if (result <= 0) return result;
    return ((entry.revents & POLLIN) ? 1 : 0) | ((entry.revents & POLLOUT) ? 2 : 0)
        | ((entry.revents & (POLLRDHUP | POLLHUP)) ? 4 : 0) | ((entry.revents & (POLLERR | POLLNVAL)) ? 8 : 0);
}

const char *cairn_errno_name(int code) { return strerrorname_np(code); }
const char *cairn_errno_text(int code) { return strerrordesc_np(code); }
