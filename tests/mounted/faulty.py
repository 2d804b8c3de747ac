"""A real filesystem that refuses changes when it is told to, for a layer to lie on.

``python -m tests.mounted.faulty DIRECTORY MOUNTPOINT ORDERS`` shows a directory through FUSE, as it is. ORDERS is a
file of a few bytes, which `Refusal` writes: after how many more requests that would change something this filesystem
answers with an errno, as a full disk, one that became read-only or a server that trusts no root does.
"""

import errno
import mmap
import os
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, final

import pyfuse3
import trio

from tests.mounting import ROOT
from unionfs.linux import at, mount

__all__ = ["Refusal", "faulty"]

_ORDERS: Final = struct.Struct("qqqq")  # an errno or 0, how many changes come before it, how many it is for, and was


@final
class Refusal:
    """What the filesystem is told, and what it did."""

    def __init__(self, orders: Path) -> None:
        if not orders.exists():
            orders.write_bytes(bytes(_ORDERS.size))
        with orders.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _ORDERS.size)

    def begin(self, code: int, after: int, most: int) -> None:
        """Let so many changes pass, and answer the next one with *code*, or as many as *most* says."""
        _ORDERS.pack_into(self._map, 0, code, after, most, 0)

    def end(self) -> int:
        """Let everything pass again; return how many changes were refused."""
        refused: int = _ORDERS.unpack_from(self._map)[3]
        _ORDERS.pack_into(self._map, 0, 0, 0, 0, 0)
        return refused

    def pass_(self) -> None:
        """Be asked for a change."""
        code, left, most, refused = _ORDERS.unpack_from(self._map)
        if code and left <= 0 and refused < most:
            _ORDERS.pack_into(self._map, 0, code, 0, most, refused + 1)
            raise pyfuse3.FUSEError(code)
        _ORDERS.pack_into(self._map, 0, code, left - 1, most, refused)

    def close(self) -> None:
        self._map.close()


@contextmanager
def faulty(directory: Path, mountpoint: Path) -> Iterator[Refusal]:
    """Show *directory* at *mountpoint*, until the block ends."""
    orders = mountpoint.with_name(f"{mountpoint.name}.orders")
    refusal = Refusal(orders)
    command = [sys.executable, "-m", "tests.mounted.faulty", *map(str, (directory, mountpoint, orders))]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        while not mountpoint.is_mount():
            assert process.poll() is None, "the filesystem did not start"
            time.sleep(0.01)
        yield refusal
        mount.umount(str(mountpoint))
        assert process.wait(10) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        with suppress(OSError):
            mount.umount(str(mountpoint), mount.MNT_DETACH)
        refusal.close()


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise pyfuse3.FUSEError(exc.errno or errno.EIO) from exc


class Handlers(pyfuse3.Operations):
    """One descriptor for each file that the kernel knows, and a call of the same name for each request."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, directory: str, refusal: Refusal) -> None:
        super().__init__()
        self._refusal = refusal
        self._fds = {pyfuse3.ROOT_INODE: os.open(directory, os.O_PATH)}
        self._known: dict[int, int] = {}
        """How often the kernel looked each of them up."""

    @contextmanager
    def _changing(self) -> Iterator[None]:
        self._refusal.pass_()
        with _answering():
            yield

    def _path(self, inode: int) -> str:
        return f"/proc/self/fd/{self._fds[inode]}"

    def _attributes(self, fd: int, inode: int) -> pyfuse3.EntryAttributes:
        found = pyfuse3.EntryAttributes()
        st = os.fstat(fd)
        for name in ("mode", "nlink", "uid", "gid", "rdev", "size", "blocks", "blksize"):
            setattr(found, f"st_{name}", getattr(st, f"st_{name}"))
        for name in ("atime_ns", "mtime_ns", "ctime_ns"):
            setattr(found, f"st_{name}", getattr(st, f"st_{name}"))
        found.st_ino = inode
        found.entry_timeout = found.attr_timeout = 0
        return found

    def _found(self, parent: int, name: bytes) -> pyfuse3.EntryAttributes:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=self._fds[parent])
        inode = os.fstat(fd).st_ino + pyfuse3.ROOT_INODE  # of one filesystem, whose own root has a lesser number
        if inode in self._fds:
            os.close(fd)
        else:
            self._fds[inode] = fd
        self._known[inode] = self._known.get(inode, 0) + 1
        return self._attributes(self._fds[inode], inode)

    async def lookup(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        with _answering():
            return self._found(parent, name)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for inode, count in inode_list:
            self._known[inode] -= count
            if not self._known[inode]:
                del self._known[inode]
                os.close(self._fds.pop(inode))

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        with _answering():
            return self._attributes(self._fds[inode], inode)

    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        with _answering():
            return os.readlink(b"", dir_fd=self._fds[inode])

    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        with self._changing():
            path = self._path(inode)
            if fields.update_size:
                os.truncate(path, attr.st_size)
            if fields.update_uid or fields.update_gid:
                os.chown(path, attr.st_uid if fields.update_uid else -1, attr.st_gid if fields.update_gid else -1)
            if fields.update_mode:
                os.chmod(path, stat.S_IMODE(attr.st_mode))
            if fields.update_atime or fields.update_mtime:
                old = os.fstat(self._fds[inode])
                atime = attr.st_atime_ns if fields.update_atime else old.st_atime_ns
                os.utime(path, ns=(atime, attr.st_mtime_ns if fields.update_mtime else old.st_mtime_ns))
            return self._attributes(self._fds[inode], inode)

    async def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        with self._changing():
            os.mknod(name, mode, rdev, dir_fd=self._fds[parent])
            return self._found(parent, name)

    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        with self._changing():
            os.mkdir(name, mode, dir_fd=self._fds[parent])
            return self._found(parent, name)

    async def symlink(
        self, parent: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        with self._changing():
            os.symlink(target, name, dir_fd=self._fds[parent])
            return self._found(parent, name)

    async def link(
        self, inode: int, newparent: int, newname: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        with self._changing():
            at.link_descriptor(self._fds[inode], self._fds[newparent], newname)
            return self._found(newparent, newname)

    async def unlink(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        with self._changing():
            os.unlink(name, dir_fd=self._fds[parent])

    async def rmdir(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        with self._changing():
            os.rmdir(name, dir_fd=self._fds[parent])

    async def rename(
        self, parent: int, name: bytes, newparent: int, newname: bytes, flags: int, ctx: pyfuse3.RequestContext
    ) -> None:
        with self._changing():
            at.rename(self._fds[parent], name, self._fds[newparent], newname, flags)

    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        with _answering():
            return os.getxattr(self._path(inode), name)

    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        with _answering():
            return [os.fsencode(name) for name in os.listxattr(self._path(inode))]

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext) -> None:
        with self._changing():
            os.setxattr(self._path(inode), name, value)

    async def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        with self._changing():
            os.removexattr(self._path(inode), name)

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        with self._changing():
            fd = os.open(name, flags | os.O_CREAT, mode, dir_fd=self._fds[parent])
            return pyfuse3.FileInfo(fh=fd), self._found(parent, name)

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        if flags & os.O_TRUNC:
            self._refusal.pass_()
        with _answering():
            return pyfuse3.FileInfo(fh=os.open(self._path(inode), flags & ~os.O_NOFOLLOW))

    async def read(self, fh: int, off: int, size: int) -> bytes:
        with _answering():
            return os.pread(fh, size, off)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        with self._changing():
            return os.pwrite(fh, buf, off)

    async def release(self, fh: int) -> None:
        os.close(fh)

    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        return inode

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        with _answering():
            names = [os.fsencode(name) for name in os.listdir(self._path(fh))]
            for number, name in enumerate(names[start_id:], start_id + 1):
                attributes = self._found(fh, name)
                if not pyfuse3.readdir_reply(token, name, attributes, number):
                    await self.forget([(attributes.st_ino, 1)])
                    break

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        found, st = pyfuse3.StatvfsData(), os.fstatvfs(self._fds[pyfuse3.ROOT_INODE])
        for name in ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail", "namemax"):
            setattr(found, f"f_{name}", getattr(st, f"f_{name}"))
        return found


def main(directory: str, mountpoint: str, orders: str) -> None:
    os.umask(0)
    pyfuse3.init(Handlers(directory, Refusal(Path(orders))), mountpoint, {"fsname=faulty", "default_permissions"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
