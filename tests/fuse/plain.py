"""A union of one plain directory: what the engines ask of `core.Union`, without a union behind it.

Engine tests use it where they test the engine: a request goes wrong here only if the engine did it.
Nodes are O_PATH descriptors, so a file is the same file whatever becomes of its name.
"""

# ruff: noqa: ARG002 - the interface has parameters that a single directory does not need

import errno
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unionfs.core.accesstimes import Noting
from unionfs.core.jobs import Deferred, Job
from unionfs.core.request import NOW, Caller, Changes, DirEntry


@dataclass
class Node:
    fd: int
    nodeid: int
    ino: int
    lookups: int = 0
    path: bytes = b""

    def __post_init__(self) -> None:
        self.path = b"/proc/self/fd/%d" % self.fd


@dataclass
class OpenFile:
    fd: int
    node: Node
    flags: int
    writable_layer: bool = True
    handle: int = 0


@dataclass
class Listing:
    node: Node
    entries: list[DirEntry] = field(default_factory=list)


Entry = tuple[Node, os.stat_result]


class PlainUnion:
    """One directory as a union."""

    def __init__(self, root: Path) -> None:
        fd = os.open(root, os.O_PATH)
        self.nodes = {1: Node(fd, 1, os.fstat(fd).st_ino)}
        self.by_real: dict[tuple[int, int], Node] = {}
        self.handles: dict[int, OpenFile | Listing] = {}
        self.next = 2
        self.slow: list[Job] = []
        """Jobs that the next opens for writing must wait for, first one first."""
        self.writable_layer = True
        self.noting = Noting()

    def on_renumbering(self, call: object) -> None:
        """Numbers never change here."""

    def on_merging(self, call: object) -> None:
        """Nothing is merged here."""

    def is_reading_noted(self, _fh: int) -> bool:
        return False

    def is_listing_noted(self, _nodeid: int) -> bool:
        return False

    def close(self) -> None:
        for node in self.nodes.values():
            os.close(node.fd)
        self.nodes.clear()

    def _number(self) -> int:
        self.next += 1
        return self.next

    def _enter(self, fd: int) -> Entry:
        st = os.fstat(fd)
        node = self.by_real.get((st.st_dev, st.st_ino))
        if node is not None:
            os.close(fd)
        else:
            node = Node(fd, self._number(), st.st_ino)
            self.nodes[node.nodeid] = self.by_real[st.st_dev, st.st_ino] = node
        node.lookups += 1
        return node, st

    def lookup(self, parent: int, name: bytes) -> Entry:
        return self._enter(os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=self.nodes[parent].fd))

    def find(self, parent: int, name: bytes) -> Entry | None:
        try:
            return self.lookup(parent, name)
        except FileNotFoundError:
            return None

    def lookup_all(self, parent: int, names: Sequence[bytes]) -> list[Entry | OSError | None]:
        return [self.find(parent, name) for name in names]

    def forget(self, nodeid: int, nlookup: int) -> None:
        node = self.nodes[nodeid]
        node.lookups -= nlookup
        if node.lookups <= 0 and nodeid != 1:
            st = os.fstat(node.fd)
            del self.nodes[nodeid], self.by_real[st.st_dev, st.st_ino]
            os.close(node.fd)

    def getattr(self, nodeid: int, fh: int | None = None) -> Entry:
        node = self.nodes[nodeid]
        return node, os.fstat(node.fd)

    def setattr(self, nodeid: int, changes: Changes, fh: int | None = None) -> Entry:
        node = self.nodes[nodeid]
        if changes.size is not None:
            os.truncate(node.path, changes.size)
        if changes.uid is not None or changes.gid is not None:
            ids = (-1 if changes.uid is None else changes.uid, -1 if changes.gid is None else changes.gid)
            os.chown(node.path, *ids)
        if changes.mode is not None:
            os.chmod(node.path, changes.mode)
        if changes.kill_priv:
            os.chmod(node.path, os.fstat(node.fd).st_mode & 0o1777)
        if changes.atime_ns is not None or changes.mtime_ns is not None:
            st = os.fstat(node.fd)
            os.utime(node.path, ns=(_time(changes.atime_ns, st.st_atime_ns), _time(changes.mtime_ns, st.st_mtime_ns)))
        return node, os.fstat(node.fd)

    def readlink(self, nodeid: int) -> bytes:
        return os.readlink(b"", dir_fd=self.nodes[nodeid].fd)

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Entry:
        os.mknod(name, mode & ~caller.umask, rdev, dir_fd=self.nodes[parent].fd)
        return self._made(parent, name, caller)

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Entry:
        os.mkdir(name, mode & ~caller.umask, dir_fd=self.nodes[parent].fd)
        return self._made(parent, name, caller)

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Entry:
        os.symlink(target, name, dir_fd=self.nodes[parent].fd)
        return self._made(parent, name, caller)

    def _made(self, parent: int, name: bytes, caller: Caller) -> Entry:
        os.chown(name, caller.uid, caller.gid, dir_fd=self.nodes[parent].fd, follow_symlinks=False)
        return self.lookup(parent, name)

    def link(self, nodeid: int, newparent: int, newname: bytes) -> Entry:
        os.link(self.nodes[nodeid].path, newname, dst_dir_fd=self.nodes[newparent].fd, follow_symlinks=True)
        return self.lookup(newparent, newname)

    def unlink(self, parent: int, name: bytes) -> None:
        os.unlink(name, dir_fd=self.nodes[parent].fd)

    def rmdir(self, parent: int, name: bytes) -> None:
        os.rmdir(name, dir_fd=self.nodes[parent].fd)

    def rename(self, parent: int, name: bytes, newparent: int, newname: bytes, flags: int = 0) -> None:
        if flags:
            raise OSError(errno.EINVAL, "no flags here")
        os.rename(name, newname, src_dir_fd=self.nodes[parent].fd, dst_dir_fd=self.nodes[newparent].fd)

    def create(
        self, parent: int, name: bytes, mode: int, flags: int, caller: Caller
    ) -> tuple[Node, os.stat_result, int]:
        dir_fd = self.nodes[parent].fd
        fd = os.open(name, (flags | os.O_CREAT) & ~os.O_DIRECT, mode & ~caller.umask, dir_fd=dir_fd)
        os.fchown(fd, caller.uid, caller.gid)
        node, st = self.lookup(parent, name)
        return node, st, self._opened(OpenFile(fd, node, flags, self.writable_layer))

    def tmpfile(self, parent: int, mode: int, flags: int, caller: Caller) -> tuple[Node, os.stat_result, int]:
        fd = os.open(self.nodes[parent].path, flags | os.O_TMPFILE | os.O_RDWR, mode & ~caller.umask)
        os.fchown(fd, caller.uid, caller.gid)
        node, st = self._enter(os.open(f"/proc/self/fd/{fd}", os.O_PATH))
        return node, st, self._opened(OpenFile(fd, node, flags, self.writable_layer))

    def _opened(self, handle: "OpenFile | Listing") -> int:
        number = self._number()
        self.handles[number] = handle
        if isinstance(handle, OpenFile):
            handle.handle = number
        return number

    def open(self, nodeid: int, flags: int, *, again: bool = False) -> int:
        if self.slow and flags & os.O_ACCMODE != os.O_RDONLY:
            if not self.slow[0].done:
                raise Deferred(self.slow[0])
            self.slow.pop(0)
        node = self.nodes[nodeid]
        fd = os.open(node.path, flags & ~(os.O_NOFOLLOW | os.O_DIRECT))
        return self._opened(OpenFile(fd, node, flags, self.writable_layer))

    def file(self, fh: int) -> OpenFile:
        handle = self.handles[fh]
        assert isinstance(handle, OpenFile)
        return handle

    def read(self, fh: int, size: int, offset: int) -> bytes:
        return os.pread(self.file(fh).fd, size, offset)

    def write(self, fh: int, data: bytes, offset: int) -> int:
        return os.pwrite(self.file(fh).fd, data, offset)

    def release(self, fh: int) -> None:
        handle = self.handles.pop(fh)
        assert isinstance(handle, OpenFile)
        os.close(handle.fd)

    def fsync(self, fh: int, datasync: bool) -> Job | None:
        fd = self.file(fh).fd
        return Job(lambda: os.fsync(fd))

    def flush(self, fh: int) -> None:
        pass

    def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        if mode:
            raise OSError(errno.EOPNOTSUPP, "no modes here")
        os.posix_fallocate(self.file(fh).fd, offset, length)

    def lseek(self, fh: int, offset: int, whence: int) -> int:
        return os.lseek(self.file(fh).fd, offset, whence)

    def copy_file_range(self, fh_in: int, off_in: int, fh_out: int, off_out: int, length: int, flags: int) -> int:
        return os.copy_file_range(self.file(fh_in).fd, self.file(fh_out).fd, length, off_in, off_out)

    def listing(self, nodeid: int) -> list[DirEntry]:
        handle = self.opendir(nodeid)
        try:
            return self.readdir(handle, 0)
        finally:
            self.releasedir(handle)

    def opendir(self, nodeid: int) -> int:
        return self._opened(Listing(self.nodes[nodeid]))

    def readdir(self, fh: int, offset: int) -> list[DirEntry]:
        listing = self.handles[fh]
        assert isinstance(listing, Listing)
        if offset == 0:
            with os.scandir(os.fsdecode(listing.node.path)) as found:
                names = [(os.fsencode(e.name), e.inode(), e.stat(follow_symlinks=False).st_mode >> 12) for e in found]
            dots = [(name, listing.node.ino, 4) for name in (b".", b"..")]
            listing.entries = [DirEntry(*entry) for entry in dots + names]
        return listing.entries

    def releasedir(self, fh: int) -> None:
        del self.handles[fh]

    def fsyncdir(self, fh: int, datasync: bool) -> Job | None:
        return None

    def statfs(self) -> os.statvfs_result:
        return os.statvfs(self.nodes[1].path)

    def syncfs(self) -> Job | None:
        return Job(os.sync)

    def getxattr(self, nodeid: int, name: bytes) -> bytes:
        return os.getxattr(self.nodes[nodeid].path, name)

    def listxattr(self, nodeid: int) -> list[bytes]:
        return [os.fsencode(name) for name in os.listxattr(self.nodes[nodeid].path)]

    def setxattr(self, nodeid: int, name: bytes, value: bytes, flags: int = 0) -> None:
        os.setxattr(self.nodes[nodeid].path, name, value, flags)

    def removexattr(self, nodeid: int, name: bytes) -> None:
        os.removexattr(self.nodes[nodeid].path, name)

    def getflags(self, nodeid: int) -> int:
        return 0x80000

    def setflags(self, nodeid: int, flags: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "no flags here")

    def stats(self) -> dict[str, int]:
        return {"nodes": len(self.nodes), "open files": len(self.handles)}


def _time(ns: int | None, now: int) -> int:
    if ns == NOW:
        return time.time_ns()
    return now if ns is None else ns
