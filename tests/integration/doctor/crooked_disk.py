#!/usr/bin/env python3
"""A file system in memory that is wrong in a chosen way, for the time that a command takes.

    crooked_disk.py FOLDER FLAW=VALUE.. -- COMMAND..

Mounts itself over FOLDER in a namespace of mounts of its own, runs COMMAND there and ends as it ended. Speaks the kernel's FUSE
protocol (version 7.31) over /dev/fuse; needs root, and the standard library only.

    rename=refused   onto a name that is there: EEXIST, as some bridges to object stores do
    rename=torn      a copy in two halves, a moment apart, as others do
    fsync=refused    EIO
    fsync=SECONDS    each takes that long
    files=NUMBER     there is room for so many, folders too: ENOSPC
    list=SECONDS     a listing shows a new name that late, as a cache of listings would
"""
import contextlib
import ctypes
import errno
import os
import select
import stat
import struct
import subprocess
import sys
import time

ROOT = 1
HALF_WAY = 0.005  # seconds between the halves of a torn rename
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18
DIRECT_IO = 1     # no page cache: each read comes here
FATTR_SIZE = 8
NO_REPLY = (2, 36, 42)  # FORGET, INTERRUPT, BATCH_FORGET


class Node:
    def __init__(self, number, mode):
        self.number, self.mode, self.data, self.mtime = number, mode, bytearray(), time.time()
        self.names = {}  # of a folder: name: (node, since when)

    def attributes(self):
        seconds, rest = int(self.mtime), int(self.mtime % 1 * 1e9)
        size = len(self.data)
        return struct.pack("<6Q10I", self.number, size, -(-size // 512), seconds, seconds, seconds, rest, rest, rest,
                           self.mode, 1, 0, 0, 0, 4096, 0)

    def entry(self):
        return struct.pack("<4Q2I", self.number, 0, 0, 0, 0, 0) + self.attributes()


class Disk:
    """Answers requests; `unfinished`: what is to be done when."""

    def __init__(self, flaws):
        self.flaws, self.unfinished, self.freed = flaws, [], 0
        self.nodes = {ROOT: Node(ROOT, stat.S_IFDIR | 0o755)}
        self.answers = {1: self.lookup, 3: self.getattr, 4: self.setattr, 9: self.mkdir, 10: self.unlink, 11: self.rmdir, 12: lambda folder, body: self.rename(folder, body, names_at=8),
                        14: self.open, 15: self.read, 16: self.write, 17: self.statfs, 18: self.nothing, 20: self.fsync, 25: self.nothing,
                        26: self.init, 27: self.open, 28: self.readdir, 29: self.nothing, 30: self.fsync, 34: self.nothing,
                        35: self.create, 38: self.nothing, 45: lambda folder, body: self.rename(folder, body, names_at=16)}

    def answer(self, request):
        """The reply, None where none is expected."""
        _, code, unique, number = struct.unpack_from("<IIQQ", request)
        if code in NO_REPLY:
            return None
        error, body = 0, b""
        try:
            if code not in self.answers:
                raise OSError(errno.ENOSYS, "")
            body = self.answers[code](self.nodes.get(number), request[40:])
        except OSError as refusal:
            error = -refusal.errno
        return struct.pack("<IiQ", 16 + len(body), error, unique) + body

    def finish(self):
        due = [what for when, what in self.unfinished if when <= time.monotonic()]
        self.unfinished = [(when, what) for when, what in self.unfinished if when > time.monotonic()]
        for what in due:
            what()

    def find(self, folder, name):
        if name not in folder.names:
            raise OSError(errno.ENOENT, "")
        return folder.names[name][0]

    def add(self, folder, name, mode):
        if len(self.nodes) - 1 - self.freed >= int(self.flaws.get("files", 1 << 20)):
            raise OSError(errno.ENOSPC, "")
        node = Node(max(self.nodes) + 1, mode)
        self.nodes[node.number] = node
        folder.names[name] = (node, time.monotonic())
        return node

    def nothing(self, _node, _body):
        return b""

    def init(self, _node, _body):
        return struct.pack("<4IHHIIHH8I", 7, 31, 0, 0, 8, 8, 1 << 16, 1, 16, 0, *[0] * 8)

    def lookup(self, folder, body):
        return self.find(folder, body[:-1]).entry()

    def getattr(self, node, _body):
        return struct.pack("<QII", 0, 0, 0) + node.attributes()

    def setattr(self, node, body):
        valid, _, _, size = struct.unpack_from("<IIQQ", body)
        if valid & FATTR_SIZE:
            node.data = node.data[:size].ljust(size, b"\0")
        return self.getattr(node, body)

    def mkdir(self, folder, body):
        return self.add(folder, body[8:-1], stat.S_IFDIR | 0o755).entry()

    def create(self, folder, body):
        return self.add(folder, body[16:-1], stat.S_IFREG | 0o644).entry() + self.open(None, b"")

    def open(self, _node, _body):
        return struct.pack("<QII", 0, DIRECT_IO, 0)

    def unlink(self, folder, body):
        self.find(folder, body[:-1])
        del folder.names[body[:-1]]
        self.freed += 1
        return b""

    def rmdir(self, folder, body):
        if self.find(folder, body[:-1]).names:
            raise OSError(errno.ENOTEMPTY, "")
        return self.unlink(folder, body)

    def rename(self, folder, body, names_at):
        to = self.nodes[struct.unpack_from("<Q", body)[0]]
        old, new = body[names_at:-1].split(b"\0")
        node = self.find(folder, old)
        how = self.flaws.get("rename")
        if new in to.names and how == "refused":
            raise OSError(errno.EEXIST, "")
        del folder.names[old]
        self.freed += new in to.names
        to.names[new] = (node, time.monotonic())
        if how == "torn":
            whole, node.data = node.data, node.data[:len(node.data) // 2]
            self.unfinished.append((time.monotonic() + HALF_WAY, lambda: setattr(node, "data", whole)))
        return b""

    def read(self, node, body):
        offset, size = struct.unpack_from("<QI", body, 8)
        return bytes(node.data[offset:offset + size])

    def write(self, node, body):
        offset, size = struct.unpack_from("<QI", body, 8)
        node.data[offset:offset + size] = body[40:40 + size]
        node.mtime = time.time()
        return struct.pack("<II", size, 0)

    def fsync(self, _node, _body):
        how = self.flaws.get("fsync", "0")
        if how == "refused":
            raise OSError(errno.EIO, "")
        time.sleep(float(how))
        return b""

    def readdir(self, folder, body):
        offset, size = struct.unpack_from("<QI", body, 8)
        late = float(self.flaws.get("list", "0"))
        shown = [(name, node) for name, (node, since) in folder.names.items() if time.monotonic() - since >= late]
        listing = b""
        for place, (name, node) in list(enumerate(shown, 1))[offset:]:
            one = struct.pack("<QQII", node.number, place, len(name), node.mode >> 12) + name
            one += b"\0" * (-len(one) % 8)
            if len(listing) + len(one) > size:
                break
            listing += one
        return listing

    def statfs(self, _node, _body):
        return struct.pack("<5Q4I6I", 1 << 24, 1 << 24, 1 << 24, 1 << 20, 1 << 20, 4096, 255, 4096, 0, *[0] * 6)


def must(result, what):
    if result != 0:
        sys.exit(f"crooked_disk.py: {what}: {os.strerror(ctypes.get_errno())}")


def main():
    folder, *rest = sys.argv[1:]
    ours, command = rest[:rest.index("--")], rest[rest.index("--") + 1:]
    libc = ctypes.CDLL(None, use_errno=True)
    must(libc.unshare(CLONE_NEWNS), "a namespace of mounts")
    must(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "private mounts")
    kernel = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    must(libc.mount(b"crooked", os.fsencode(folder), b"fuse", 0, b"fd=%d,rootmode=40000,user_id=0,group_id=0" % kernel), f"mount {folder}")
    disk = Disk(dict(one.split("=") for one in ours))
    child = subprocess.Popen(command)
    over = os.pidfd_open(child.pid)
    while True:
        ready, _, _ = select.select([kernel, over], [], [], HALF_WAY)
        disk.finish()
        if kernel in ready:
            with contextlib.suppress(FileNotFoundError):  # the asking process has been killed meanwhile
                if reply := disk.answer(os.read(kernel, (1 << 16) + 4096)):
                    os.write(kernel, reply)
        elif over in ready:
            sys.exit(child.wait())


if __name__ == "__main__":
    main()
