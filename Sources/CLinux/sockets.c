// Unix sockets and the descriptors that travel over them.
#define _GNU_SOURCE
#include "clinux.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum { MOST_DESCRIPTORS = 253 };

int cairn_unix_socket(int nonblocking) {
    return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | (nonblocking ? SOCK_NONBLOCK : 0), 0);
}
int cairn_unix_datagram(void) { return socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0); }
int cairn_unix_pair(int fds[2]) { return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds); }

static int address(struct sockaddr_un *to, socklen_t *size, const char *path, size_t bytes, int abstract_name) {
    memset(to, 0, sizeof *to);
    to->sun_family = AF_UNIX;
    if (bytes == 0 || bytes >= sizeof to->sun_path) { errno = ENAMETOOLONG; return -1; }
    memcpy(to->sun_path + (abstract_name ? 1 : 0), path, bytes);
    *size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + bytes + 1);
    return 0;
}

int cairn_unix_bind(int fd, const char *path, size_t bytes) {
    struct sockaddr_un to;
    socklen_t size;
    if (address(&to, &size, path, bytes, 0) < 0) return -1;
    return bind(fd, (struct sockaddr *)&to, size);
}

int cairn_unix_connect(int fd, const char *path, size_t bytes, int abstract_name) {
    struct sockaddr_un to;
    socklen_t size;
    if (address(&to, &size, path, bytes, abstract_name) < 0) return -1;
    return connect(fd, (struct sockaddr *)&to, size);
}

int cairn_unix_accept(int fd) { return accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK); }

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif
int cairn_unix_refuse_descriptors(int fd) {
    int pass = 0;
    return setsockopt(fd, SOL_SOCKET, SO_PASSRIGHTS, &pass, sizeof pass);
}

int cairn_unix_send_timeout(int fd, int milliseconds) {
    struct timeval limit = {.tv_sec = milliseconds / 1000, .tv_usec = (milliseconds % 1000) * 1000};
    return setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

int cairn_unix_peer(int fd, int32_t *pid, uint32_t *uid, uint32_t *gid) {
    struct ucred found;
    socklen_t size = sizeof found;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &found, &size) < 0) return -1;
    *pid = found.pid;
    *uid = found.uid;
    *gid = found.gid;
    return 0;
}

ssize_t cairn_receive(int fd, void *to, size_t bytes, int wait) { return recv(fd, to, bytes, wait ? 0 : MSG_DONTWAIT); }

ssize_t cairn_receive_descriptors(int fd, void *to, size_t bytes, int wait, int *fds, int room, int *count, int *truncated) {
    union { char bytes[CMSG_SPACE(sizeof(int) * MOST_DESCRIPTORS)]; struct cmsghdr aligned; } control;
    if (room > MOST_DESCRIPTORS) room = MOST_DESCRIPTORS;
    struct iovec part = {.iov_base = to, .iov_len = bytes};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes,
                             .msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)room)};
    *count = 0;
    *truncated = 0;
    ssize_t result = recvmsg(fd, &message, MSG_CMSG_CLOEXEC | (wait ? 0 : MSG_DONTWAIT));
    if (result < 0) return -1;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(&message); part; part = CMSG_NXTHDR(&message, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
        int found = (int)((part->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        for (int i = 0; i < found; i++) {
            int received;
            memcpy(&received, CMSG_DATA(part) + sizeof(int) * (size_t)i, sizeof received);
            if (*count < room) fds[(*count)++] = received;
            else { close(received); *truncated = 1; }       // CMSG_SPACE's padding can hold one more than asked for
        }
    }
    if (message.msg_flags & MSG_CTRUNC) *truncated = 1;
    return result;
}

ssize_t cairn_send(int fd, const void *from, size_t bytes, int wait, const int *fds, int count) {
    union { char bytes[CMSG_SPACE(sizeof(int) * MOST_DESCRIPTORS)]; struct cmsghdr aligned; } control;
    struct iovec part = {.iov_base = (void *)from, .iov_len = bytes};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (count > MOST_DESCRIPTORS) { errno = EINVAL; return -1; }
    if (count > 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count);
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
        memcpy(CMSG_DATA(head), fds, sizeof(int) * (size_t)count);
    }
    return sendmsg(fd, &message, MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT));
}

#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif
int cairn_peer_groups(int fd, uint32_t *groups, int room) {
    socklen_t size = (socklen_t)(room * (int)sizeof *groups);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size) < 0) return -1;
    return (int)(size / sizeof *groups);
}
