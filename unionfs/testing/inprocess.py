"""The driver for a `core.Union` in this process: what the kernel decides before a filesystem is asked.

The union answers requests about inodes and single names; paths, symlinks, "exists already" and
"is a directory" are the kernel's business and decided here, in the kernel's order (Linux fs/namei.c), so
that an errno compared with a mount's is the one a program would get. Permissions are not checked.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple, final

from unionfs.core.request import NOW, Caller, Changes, DirEntry
from unionfs.core.union import Union
from unionfs.testing.driver import Status, status_of
from unionfs.testing.mounted import UMASK
from unionfs.testing.vfs import MAX_LINKS, Place, Slot, Vfs, failure

__all__ = ["InProcess"]

_LETTERS: Final = {stat.S_IFDIR >> 12: "d", stat.S_IFREG >> 12: "f", stat.S_IFLNK >> 12: "l"}
_NOREPLACE: Final = 1
_EXCHANGE: Final = 2
_RENAME_FLAGS: Final = 7
_XATTR_NAME_MAX: Final = 255
_KEEP_SIZE: Final = 1
_PUNCH_HOLE: Final = 2
_MKDIR_MODES: Final = 0o1777
"""What is left of mkdir's mode when a filesystem sees it. Source: vfs_mkdir() in Linux fs/namei.c."""


class _Opened(NamedTuple):
    fh: int
    nodeid: int
    flags: int


@final
class InProcess:
    """The `Driver` over *union*, which stays the caller's to close. *remember*: see `vfs`."""

    def __init__(self, union: Union, *, remember: bool = False) -> None:
        self._union = union
        self._vfs = Vfs(union, remember=remember)
        self._caller = Caller(0, 0, UMASK)
        self._open: dict[str, _Opened] = {}

    def close_all(self) -> None:
        """Close and forget everything, as the kernel does at umount."""
        for label in list(self._open):
            self.close(label)
        self._vfs.forget_all()

    def mkdir(self, path: str, mode: int = 0o755) -> None:
        with self._vfs.operation():
            slot = self._vfs.free(path)
            node, _ = self._union.mkdir(*slot.key, mode & _MKDIR_MODES, self._caller)
            self._vfs.resolved(slot, node.nodeid)

    def mknod(self, path: str, mode: int, rdev: int = 0) -> None:
        with self._vfs.operation():
            slot = self._vfs.free(path)
            node, _ = self._union.mknod(*slot.key, mode, rdev, self._caller)
            self._vfs.resolved(slot, node.nodeid)

    def symlink(self, path: str, target: str) -> None:
        with self._vfs.operation():
            slot = self._vfs.free(path)
            node, _ = self._union.symlink(*slot.key, os.fsencode(target), self._caller)
            self._vfs.resolved(slot, node.nodeid)

    def link(self, old: str, new: str) -> None:
        with self._vfs.operation():
            source = self._vfs.walk(old)
            slot = self._vfs.free(new)
            if source.is_dir:
                raise failure(errno.EPERM)
            node, _ = self._union.link(source.nodeid, *slot.key)
            self._vfs.resolved(slot, node.nodeid)

    def link_open(self, label: str, path: str) -> None:
        with self._vfs.operation():
            slot = self._vfs.free(path)
            node, _ = self._union.link(self._open[label].nodeid, *slot.key)
            self._vfs.resolved(slot, node.nodeid)

    def unlink(self, path: str) -> None:
        with self._vfs.operation():
            slot, victim = self._vfs.taken(path)
            if victim.is_dir:
                raise failure(errno.EISDIR)
            self._union.unlink(*slot.key)
            self._vfs.drop(*slot.key)

    def rmdir(self, path: str) -> None:
        with self._vfs.operation():
            slot, victim = self._vfs.taken(path)
            if not victim.is_dir:
                raise failure(errno.ENOTDIR)
            self._union.rmdir(*slot.key)
            self._vfs.drop(*slot.key)

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        with self._vfs.operation():
            old_slot, new_slot = self._vfs.slot(old), self._vfs.slot(new)
            if not old_slot.name or not new_slot.name:
                raise failure(errno.EBUSY)
            if flags & ~_RENAME_FLAGS or (flags & _EXCHANGE and flags != _EXCHANGE):
                raise failure(errno.EINVAL)
            source, target = self._vfs.occupant(old_slot), self._vfs.occupant(new_slot)
            if source is None or (target is None and flags & _EXCHANGE):
                raise failure(errno.ENOENT)
            if target is not None and flags & _NOREPLACE:
                raise failure(errno.EEXIST)
            _check_ancestry(source, target, (old_slot, new_slot), exchange=bool(flags & _EXCHANGE))
            if target is not None and target.nodeid == source.nodeid:
                return
            if target is not None and not flags & _EXCHANGE:
                _check_types(source, target)
            self._union.rename(*old_slot.key, *new_slot.key, flags)
            self._vfs.move(old_slot, new_slot, exchange=bool(flags & _EXCHANGE))

    def truncate(self, path: str, size: int) -> None:
        with self._vfs.operation():
            place = self._vfs.walk(path, follow=True)
            if not place.is_file:
                raise failure(errno.EISDIR if place.is_dir else errno.EINVAL)
            self._union.setattr(place.nodeid, Changes(size=size))

    def chmod(self, path: str, mode: int) -> None:
        with self._vfs.operation():
            self._union.setattr(self._vfs.walk(path, follow=True).nodeid, Changes(mode=mode))

    def chown(self, path: str, uid: int, gid: int) -> None:
        """Root's chown, too, takes set-id bits and capabilities from what is not a directory."""
        with self._vfs.operation():
            place = self._vfs.walk(path)
            mode = None
            if not place.is_dir:
                kept = _without_set_id(place.st.st_mode)
                mode = kept if kept != stat.S_IMODE(place.st.st_mode) else None
                self._remove_capability(place.nodeid)
            changes = Changes(mode=mode, uid=None if uid < 0 else uid, gid=None if gid < 0 else gid)
            self._union.setattr(place.nodeid, changes)

    def _remove_capability(self, nodeid: int) -> None:
        if b"security.capability" in self._union.listxattr(nodeid):
            self._union.removexattr(nodeid, b"security.capability")

    def utime(self, path: str, atime_ns: int, mtime_ns: int) -> None:
        with self._vfs.operation():
            self._union.setattr(self._vfs.walk(path).nodeid, Changes(atime_ns=atime_ns, mtime_ns=mtime_ns))

    def touch(self, path: str) -> None:
        with self._vfs.operation():
            self._union.setattr(self._vfs.walk(path).nodeid, Changes(atime_ns=NOW, mtime_ns=NOW))

    def setxattr(self, path: str, name: str, value: bytes, flags: int = 0) -> None:
        with self._vfs.operation():
            place = self._vfs.walk(path)
            _check_xattr_name(place, name, errno.EPERM)
            self._union.setxattr(place.nodeid, os.fsencode(name), value, flags)

    def getxattr(self, path: str, name: str) -> bytes:
        with self._vfs.operation():
            place = self._vfs.walk(path)
            _check_xattr_name(place, name, errno.ENODATA)
            return self._union.getxattr(place.nodeid, os.fsencode(name))

    def removexattr(self, path: str, name: str) -> None:
        with self._vfs.operation():
            place = self._vfs.walk(path)
            _check_xattr_name(place, name, errno.EPERM)
            self._union.removexattr(place.nodeid, os.fsencode(name))

    def listxattr(self, path: str) -> list[str]:
        with self._vfs.operation():
            return [os.fsdecode(name) for name in self._union.listxattr(self._vfs.walk(path).nodeid)]

    def readlink(self, path: str) -> str:
        with self._vfs.operation():
            place = self._vfs.walk(path)
            if not place.is_symlink:
                raise failure(errno.EINVAL)
            return os.fsdecode(self._union.readlink(place.nodeid))

    def lstat(self, path: str) -> os.stat_result:
        with self._vfs.operation():
            return self._vfs.walk(path).st

    def inode(self, path: str) -> int:
        with self._vfs.operation():
            return self._union.getattr(self._vfs.walk(path).nodeid)[0].ino

    def listdir(self, path: str) -> list[tuple[str, str]]:
        return [(os.fsdecode(name), _LETTERS.get(kind, "?")) for name, _, kind in self._listing(path)]

    def numbers(self, path: str) -> dict[str, int]:
        return {os.fsdecode(name): ino for name, ino, _ in self._listing(path)}

    def _listing(self, path: str) -> list[DirEntry]:
        with self._vfs.operation():
            place = self._vfs.walk(path, follow=True)
            if not place.is_dir:
                raise failure(errno.ENOTDIR)
            fh = self._union.opendir(place.nodeid)
            try:
                return [entry for entry in self._union.readdir(fh, 0) if entry.name not in {b".", b".."}]
            finally:
                self._union.releasedir(fh)

    def create(self, path: str, data: bytes = b"", mode: int = 0o644, flags: int = os.O_EXCL) -> None:
        with self._file(path, os.O_WRONLY | os.O_CREAT | flags, mode) as file:
            self._append(file, data, 0)

    def read(self, path: str) -> bytes:
        with self._file(path, os.O_RDONLY) as file:
            return self._read_all(file.fh)

    def write(self, path: str, data: bytes, offset: int = 0, flags: int = 0) -> int:
        with self._file(path, os.O_WRONLY | flags) as file:
            return self._append(file, data, offset)

    def _append(self, file: _Opened, data: bytes, offset: int) -> int:
        """Write, at the end where O_APPEND says so: the kernel knows the size and sends an offset."""
        if file.flags & os.O_APPEND:
            offset = self._union.getattr(file.nodeid, file.fh)[1].st_size
        return self._union.write(file.fh, data, offset) if data else 0

    def _read_all(self, fh: int) -> bytes:
        parts: list[bytes] = []
        while part := self._union.read(fh, 1 << 17, sum(map(len, parts))):
            parts.append(bytes(part))
        return b"".join(parts)

    @contextmanager
    def _file(self, path: str, flags: int, mode: int = 0o644) -> Iterator[_Opened]:
        label = "\0now"
        self.open(label, path, flags, mode)
        try:
            if self._open[label].flags & os.O_DIRECTORY:
                raise failure(errno.EISDIR)
            yield self._open[label]
            self._union.flush(self._open[label].fh)
        finally:
            self.close(label)

    def open(self, label: str, path: str, flags: int, mode: int = 0o644) -> None:
        with self._vfs.operation():
            found = self._to_open(path, flags)
            if isinstance(found, Slot):
                node, _, fh = self._union.create(*found.key, stat.S_IFREG | mode, flags, self._caller)
                self._vfs.resolved(found, node.nodeid)
                self._keep(label, _Opened(fh, node.nodeid, flags))
            elif found.is_dir:
                fh = self._union.opendir(found.nodeid)
                self._keep(label, _Opened(fh, found.nodeid, flags | os.O_DIRECTORY))
            else:
                self._keep(label, _Opened(self._union.open(found.nodeid, flags), found.nodeid, flags))

    def _keep(self, label: str, file: _Opened) -> None:
        """Give *file* the label; what had it is closed, but only now that the new one is open."""
        self._vfs.use(file.nodeid)
        if label in self._open:
            self.close(label)
        self._open[label] = file

    def _to_open(self, path: str, flags: int, links: int = 0) -> Slot | Place:
        """Decide what an open means: the file it finds, or the free name to create."""
        if links > MAX_LINKS:
            raise failure(errno.ELOOP)
        slot = self._vfs.slot(path)
        found = self._vfs.occupant(slot)
        if found is None:
            if flags & os.O_CREAT:
                return slot
            raise failure(errno.ENOENT)
        if flags & os.O_CREAT and flags & os.O_EXCL:
            raise failure(errno.EEXIST)
        if found.is_symlink:
            if flags & os.O_NOFOLLOW:
                raise failure(errno.ELOOP)
            target = os.fsdecode(self._union.readlink(found.nodeid))
            return self._to_open(f"{path.rpartition('/')[0]}/{target}", flags, links + 1)
        _check_openable(found, flags)
        return found

    def tmpfile(self, label: str, path: str, flags: int, mode: int = 0o644) -> None:
        with self._vfs.operation():
            parent = self._vfs.walk(path, follow=True)
            node, _, fh = self._union.tmpfile(parent.nodeid, stat.S_IFREG | mode, flags, self._caller)
            self._vfs.counted(node.nodeid)
            self._keep(label, _Opened(fh, node.nodeid, flags))

    def close(self, label: str) -> None:
        file = self._open.pop(label)
        if file.flags & os.O_DIRECTORY:
            self._union.releasedir(file.fh)
        else:
            self._union.release(file.fh)
        self._vfs.leave(file.nodeid)

    def pread(self, label: str, size: int, offset: int = 0) -> bytes:
        self._may(label, os.O_RDONLY, errno.EBADF)
        return bytes(self._union.read(self._open[label].fh, size, offset))

    def pwrite(self, label: str, data: bytes, offset: int = 0) -> int:
        self._may(label, os.O_WRONLY, errno.EBADF)
        return self._append(self._open[label], data, offset)

    def _may(self, label: str, access: int, refusal: int) -> None:
        if access == os.O_RDONLY and self._open[label].flags & os.O_DIRECTORY:
            raise failure(errno.EISDIR)
        if self._open[label].flags & os.O_ACCMODE not in {access, os.O_RDWR}:
            raise failure(refusal)

    def fstat(self, label: str) -> Status:
        file = self._open[label]
        return status_of(self._union.getattr(file.nodeid, file.fh)[1])

    def ftruncate(self, label: str, size: int) -> None:
        self._may(label, os.O_WRONLY, errno.EINVAL)
        file = self._open[label]
        self._union.setattr(file.nodeid, Changes(size=size), file.fh)

    def fchmod(self, label: str, mode: int) -> None:
        self._union.setattr(self._open[label].nodeid, Changes(mode=mode))

    def fallocate(self, label: str, mode: int, offset: int, length: int) -> None:
        if mode & _PUNCH_HOLE and not mode & _KEEP_SIZE:  # asked before the file is looked at, see vfs_fallocate()
            raise failure(errno.EOPNOTSUPP)
        self._may(label, os.O_WRONLY, errno.EBADF)
        self._union.fallocate(self._open[label].fh, mode, offset, length)

    def lseek(self, label: str, offset: int, whence: int) -> int:
        return self._union.lseek(self._open[label].fh, offset, whence)

    def copy_range(self, source: str, target: str, offsets: tuple[int, int], length: int) -> int:
        for label in (source, target):
            if self._open[label].flags & os.O_DIRECTORY:
                raise failure(errno.EISDIR)
        if self._open[target].flags & os.O_APPEND:
            raise failure(errno.EBADF)
        self._may(source, os.O_RDONLY, errno.EBADF)
        self._may(target, os.O_WRONLY, errno.EBADF)
        fh_in, fh_out = self._open[source].fh, self._open[target].fh
        return self._union.copy_file_range(fh_in, offsets[0], fh_out, offsets[1], length, 0)


def _check_ancestry(source: Place, target: Place | None, slots: tuple[Slot, Slot], *, exchange: bool) -> None:
    old, new = slots
    if source.nodeid in new.parent.chain:
        raise failure(errno.EINVAL)
    if target is not None and target.nodeid in old.parent.chain:
        raise failure(errno.EINVAL if exchange else errno.ENOTEMPTY)


def _check_types(source: Place, target: Place) -> None:
    if source.is_dir and not target.is_dir:
        raise failure(errno.ENOTDIR)
    if target.is_dir and not source.is_dir:
        raise failure(errno.EISDIR)


def _check_openable(found: Place, flags: int) -> None:
    if found.is_dir:
        if flags & (os.O_ACCMODE | os.O_CREAT | os.O_TRUNC):
            raise failure(errno.EISDIR)
    elif not found.is_file:
        raise failure(errno.ENXIO)
    elif flags & os.O_DIRECTORY:
        raise failure(errno.ENOTDIR)


def _check_xattr_name(place: Place, name: str, refusal: int) -> None:
    """Refuse what the kernel refuses for every filesystem. Source: Linux fs/xattr.c, fs/posix_acl.c."""
    if len(os.fsencode(name)) > _XATTR_NAME_MAX:
        raise failure(errno.ERANGE)
    if place.is_symlink and name.startswith("system.posix_acl_"):
        raise failure(errno.EOPNOTSUPP)
    if name.startswith("user.") and not (place.is_file or place.is_dir):
        raise failure(refusal)


def _without_set_id(mode: int) -> int:
    kept = stat.S_IMODE(mode) & ~stat.S_ISUID
    return kept & ~stat.S_ISGID if mode & stat.S_IXGRP else kept
