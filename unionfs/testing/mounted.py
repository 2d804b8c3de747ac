"""The driver for a directory of the host: a bare one, a kernel overlay, our FUSE mount."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, final

from unionfs.linux import at, fileops, flock
from unionfs.testing.driver import Status, status_of

__all__ = ["UMASK", "Mounted", "acting_as"]

UMASK: Final = 0o022
"""What the drivers make new files with: a union in this very process sets the process's umask as it needs it."""

_FLAGS: Final = fileops.FS_APPEND | fileops.FS_IMMUTABLE | fileops.FS_NOATIME
"""Of the flags of chattr(1), those that are compared."""


@contextmanager
def acting_as(uid: int, gid: int, groups: tuple[int, ...] = ()) -> Iterator[None]:
    """Do what the block does as somebody else. Needs root; effective ids only, so that the way back is open."""
    old_groups, old_gid, old_uid = os.getgroups(), os.getegid(), os.geteuid()
    os.setgroups(groups)
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(old_uid)
        os.setegid(old_gid)
        os.setgroups(old_groups)


@final
class Mounted:
    """The `Driver` that makes real system calls below *root*.

    Locks and the flags of chattr(1) are the kernel's business or partly so: only this driver has them.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._open: dict[str, int] = {}

    def close_all(self) -> None:
        """Close what labels still hold open: a mount with open files cannot go."""
        for label in list(self._open):
            self.close(label)

    def _at(self, path: str) -> str:
        return f"{self.root}/{path}" if path else str(self.root)

    def mkdir(self, path: str, mode: int = 0o755) -> None:
        os.umask(UMASK)
        os.mkdir(self._at(path), mode)

    def mknod(self, path: str, mode: int, rdev: int = 0) -> None:
        os.umask(UMASK)
        os.mknod(self._at(path), mode, rdev)

    def symlink(self, path: str, target: str) -> None:
        os.symlink(target, self._at(path))

    def link(self, old: str, new: str) -> None:
        os.link(self._at(old), self._at(new), follow_symlinks=False)

    def unlink(self, path: str) -> None:
        os.unlink(self._at(path))

    def rmdir(self, path: str) -> None:
        os.rmdir(self._at(path))

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        old_dir, old_name = os.path.split(self._at(old))
        new_dir, new_name = os.path.split(self._at(new))
        with _directory(old_dir) as old_fd, _directory(new_dir) as new_fd:
            at.rename(old_fd, os.fsencode(old_name), new_fd, os.fsencode(new_name), flags)

    def create(self, path: str, data: bytes = b"", mode: int = 0o644, flags: int = os.O_EXCL) -> None:
        self._refuse_special(path, flags | os.O_CREAT)
        os.umask(UMASK)
        fd = os.open(self._at(path), os.O_WRONLY | os.O_CREAT | flags, mode)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)

    def read(self, path: str) -> bytes:
        with self._opened(path, os.O_RDONLY) as fd, open(fd, "rb", closefd=False) as file:
            return file.read()

    def write(self, path: str, data: bytes, offset: int = 0, flags: int = 0) -> int:
        with self._opened(path, os.O_WRONLY | flags) as fd:
            return os.pwrite(fd, data, offset)

    @contextmanager
    def _opened(self, path: str, flags: int) -> Iterator[int]:
        self._refuse_special(path, flags)
        fd = os.open(self._at(path), flags)
        try:
            yield fd
        finally:
            os.close(fd)

    def _refuse_special(self, path: str, flags: int) -> None:
        if flags & os.O_EXCL:
            return
        try:
            mode = os.stat(self._at(path), follow_symlinks=not flags & os.O_NOFOLLOW).st_mode
        except FileNotFoundError:
            return
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))

    def truncate(self, path: str, size: int) -> None:
        os.truncate(self._at(path), size)

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._at(path), mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        os.lchown(self._at(path), uid, gid)

    def utime(self, path: str, atime_ns: int, mtime_ns: int) -> None:
        os.utime(self._at(path), ns=(atime_ns, mtime_ns), follow_symlinks=False)

    def touch(self, path: str) -> None:
        """Set both times to now, which others than the owner may do where they may write."""
        os.utime(self._at(path), follow_symlinks=False)

    def setxattr(self, path: str, name: str, value: bytes, flags: int = 0) -> None:
        os.setxattr(self._at(path), name, value, flags, follow_symlinks=False)

    def getxattr(self, path: str, name: str) -> bytes:
        return os.getxattr(self._at(path), name, follow_symlinks=False)

    def removexattr(self, path: str, name: str) -> None:
        os.removexattr(self._at(path), name, follow_symlinks=False)

    def listxattr(self, path: str) -> list[str]:
        return os.listxattr(self._at(path), follow_symlinks=False)

    def readlink(self, path: str) -> str:
        return os.readlink(self._at(path))

    def lstat(self, path: str) -> os.stat_result:
        return os.lstat(self._at(path))

    def inode(self, path: str) -> int:
        return self.lstat(path).st_ino

    def listdir(self, path: str) -> list[tuple[str, str]]:
        with os.scandir(self._at(path)) as found:
            return [(entry.name, _letter(entry)) for entry in found]

    def numbers(self, path: str) -> dict[str, int]:
        with os.scandir(self._at(path)) as found:
            return {entry.name: entry.inode() for entry in found}

    def open(self, label: str, path: str, flags: int, mode: int = 0o644) -> None:
        self._refuse_special(path, flags)
        os.umask(UMASK)
        self._keep(label, os.open(self._at(path), flags, mode))

    def tmpfile(self, label: str, path: str, flags: int, mode: int = 0o644) -> None:
        os.umask(UMASK)
        self._keep(label, os.open(self._at(path), flags | os.O_TMPFILE, mode))

    def _keep(self, label: str, fd: int) -> None:
        if label in self._open:
            self.close(label)
        self._open[label] = fd

    def close(self, label: str) -> None:
        os.close(self._open.pop(label))

    def pread(self, label: str, size: int, offset: int = 0) -> bytes:
        return os.pread(self._open[label], size, offset)

    def pwrite(self, label: str, data: bytes, offset: int = 0) -> int:
        return os.pwrite(self._open[label], data, offset)

    def fstat(self, label: str) -> Status:
        return status_of(os.fstat(self._open[label]))

    def ftruncate(self, label: str, size: int) -> None:
        os.ftruncate(self._open[label], size)

    def fchmod(self, label: str, mode: int) -> None:
        os.fchmod(self._open[label], mode)

    def fallocate(self, label: str, mode: int, offset: int, length: int) -> None:
        fileops.fallocate(self._open[label], mode, offset, length)

    def lseek(self, label: str, offset: int, whence: int) -> int:
        return os.lseek(self._open[label], offset, whence)

    def copy_range(self, source: str, target: str, offsets: tuple[int, int], length: int) -> int:
        return os.copy_file_range(self._open[source], self._open[target], length, *offsets)

    def flock(self, label: str, shared: bool) -> bool:
        """Try to lock the open file until it is closed."""
        return flock.lock_descriptor(self._open[label], shared=shared)

    def ofd_lock(self, label: str, shared: bool, start: int, length: int) -> bool:
        """Try to lock a range of the open file for as long as it is open: a lock of its own, not the process's."""
        return flock.lock_range(self._open[label], start, length, shared=shared)

    def getflags(self, path: str) -> int:
        with self._opened(path, os.O_RDONLY | os.O_NOFOLLOW) as fd:
            return fileops.get_flags(fd) & _FLAGS

    def setflags(self, path: str, flags: int) -> None:
        with self._opened(path, os.O_RDONLY | os.O_NOFOLLOW) as fd:
            fileops.set_flags(fd, fileops.get_flags(fd) & ~_FLAGS | flags)

    def link_open(self, label: str, path: str) -> None:
        directory, name = os.path.split(self._at(path))
        with _directory(directory) as fd:
            at.link_descriptor(self._open[label], fd, os.fsencode(name))


@contextmanager
def _directory(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _letter(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "l"
    if entry.is_dir(follow_symlinks=False):
        return "d"
    return "f" if entry.is_file(follow_symlinks=False) else "?"
