#!/usr/bin/python3
"""faultfs.py ROOT MOUNT RULES: a FUSE filesystem that passes calls on to ROOT, and fails, slows or shortens those that RULES names.

RULES is read anew whenever it changes; none is a healthy filesystem. A line is one of
    OPERATION ERRNO [AFTER]     after so many calls that go well
    OPERATION sleep SECONDS
    write short                 half of each write is taken
Each time that one strikes, a byte is added to RULES.struck.
Runs with the system's Python, whose fusepy it needs."""

import errno
import os
import sys
import time

from fusepy import FUSE, FuseOSError, Operations

STATUS = ("st_atime", "st_blocks", "st_ctime", "st_gid", "st_ino", "st_mode", "st_mtime", "st_nlink", "st_size", "st_uid")
SPACE = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_favail", "f_ffree", "f_files", "f_flag", "f_frsize", "f_namemax")


class FaultFs(Operations):
    def __init__(self, root, rules):
        self.root, self.path = root, rules
        self.changed, self.rules, self.calls = 0, {}, {}

    def rule(self, operation):
        """Fails or sleeps as told; gives the rule that struck."""
        try:
            changed = os.stat(self.path).st_mtime_ns
        except FileNotFoundError:
            self.changed, self.rules = 0, {}
            return None
        if changed != self.changed:
            with open(self.path) as opened:
                self.rules = {words[0]: words[1:] for words in map(str.split, opened) if words}
            self.changed, self.calls = changed, {}
        said = self.rules.get(operation)
        if not said:
            return None
        self.calls[operation] = self.calls.get(operation, 0) + 1
        if said[0] not in ("short", "sleep") and len(said) > 1 and self.calls[operation] <= int(said[1]):
            return None
        with open(self.path + ".struck", "ab") as struck:
            struck.write(b".")
        if said[0] == "sleep":
            time.sleep(float(said[1]))
        elif said[0] != "short":
            raise FuseOSError(getattr(errno, said[0]))
        return said

    def real(self, path):
        return self.root + path

    def getattr(self, path, handle=None):
        self.rule("getattr")
        found = os.lstat(self.real(path))
        return {name: getattr(found, name) for name in STATUS}

    def readdir(self, path, handle):
        self.rule("readdir")
        return [".", "..", *os.listdir(self.real(path))]

    def open(self, path, flags):
        self.rule("open")
        return os.open(self.real(path), flags & ~os.O_DIRECT)

    def create(self, path, mode, info=None):
        self.rule("create")
        return os.open(self.real(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def read(self, path, size, offset, handle):
        self.rule("read")
        return os.pread(handle, size, offset)

    def write(self, path, data, offset, handle):
        if self.rule("write") == ["short"] and len(data) > 4096:
            data = data[: len(data) // 8192 * 4096]
        return os.pwrite(handle, data, offset)

    def truncate(self, path, length, handle=None):
        self.rule("truncate")
        os.truncate(self.real(path), length)

    def fsync(self, path, data_only, handle):
        self.rule("fsync")
        os.fsync(handle)

    def fsyncdir(self, path, data_only, handle):
        self.rule("fsyncdir")

    def release(self, path, handle):
        os.close(handle)

    def link(self, target, source):
        self.rule("link")
        os.link(self.real(source), self.real(target))

    def rename(self, old, new):
        self.rule("rename")
        os.rename(self.real(old), self.real(new))

    def unlink(self, path):
        self.rule("unlink")
        os.unlink(self.real(path))

    def mkdir(self, path, mode):
        self.rule("mkdir")
        os.mkdir(self.real(path), mode)

    def rmdir(self, path):
        self.rule("rmdir")
        os.rmdir(self.real(path))

    def chmod(self, path, mode):
        os.chmod(self.real(path), mode)

    def chown(self, path, uid, gid):
        os.chown(self.real(path), uid, gid)

    def utimens(self, path, times=None):
        os.utime(self.real(path), times)

    def statfs(self, path):
        self.rule("statfs")
        found = os.statvfs(self.real(path))
        return {name: getattr(found, name) for name in SPACE}


FUSE(FaultFs(sys.argv[1], sys.argv[3]), sys.argv[2], foreground=True, big_writes=True, allow_other=True, use_ino=True)
