// Preloaded into cairnd: a sync that a programmer forgot. CAIRN_NOSYNC is a pattern of paths; those of folders end in '/'.
#define _GNU_SOURCE
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int forgotten(int file) {
    const char *pattern = getenv("CAIRN_NOSYNC");
    char link[64], path[4096];
    struct stat status;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 2);
    if (!pattern || length < 0 || fstat(file, &status) < 0) return 0;
    path[length] = 0;
    if (S_ISDIR(status.st_mode)) strcat(path, "/");
    return fnmatch(pattern, path, 0) == 0;
}

int fsync(int file) { return forgotten(file) ? 0 : (int)syscall(SYS_fsync, file); }
int fdatasync(int file) { return forgotten(file) ? 0 : (int)syscall(SYS_fdatasync, file); }
