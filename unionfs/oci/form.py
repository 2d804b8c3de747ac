"""The two forms a layer's directory takes: root's, and the one an ordinary user can write.

Root gives every file what it is: owner, mode, type, attributes; marks are ``trusted.overlay.*``. A user
can do little of that. There, owner, mode and type are kept in ``user.containers.override_stat``, devices
and fifos are empty files that say so, attributes that only root may set stand behind a prefix, and marks
are ``user.overlay.*``. Mounted, both forms show the same tree.

What a user's form cannot keep is the owner of a symlink: no filesystem lets one carry ``user.*``.
"""

import errno
import os
from abc import ABC, abstractmethod
from typing import Final

from unionfs.core.ondisk import (
    OPAQUE,
    TRUSTED,
    USER,
    WHITEOUT_MODE,
    WRITTEN_OVERRIDE,
    XWHITEOUTS,
    Override,
    XattrSet,
    encode_override,
)
from unionfs.errors import ImageError
from unionfs.linux import at, xattr
from unionfs.oci.entry import Entry, Kind

__all__ = ["KEPT_PREFIX", "Form", "RootForm", "UserForm", "form_here", "is_users"]

KEPT_PREFIX: Final = "user.containers.override_"
"""Before the name of an attribute that only root may set: how containers/storage has a user keep it."""

_OVERRIDE_STAT: Final = WRITTEN_OVERRIDE[2]
_REFUSED: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP})
_UNFIT: Final = _REFUSED | {errno.EINVAL, errno.ERANGE, errno.E2BIG}
"""What a filesystem answers to an attribute that it cannot have; a full disk is not of them."""
_OPTIONAL: Final = ("security.selinux", "security.ima", "security.evm", "security.apparmor", "trusted.", "system.")
"""Attributes whose loss is noted and survived: they mean something on the machine that made them."""


class Form(ABC):
    """How attributes, whiteouts and devices are written; the base is what both forms share."""

    marks: XattrSet

    def __init__(self) -> None:
        self.notes: list[str] = []
        """What could not be kept, for people."""
        self.not_kept: set[str] = set()
        """Attributes that were not, since somebody last cleared this."""

    @abstractmethod
    def attributes(self, fd: int, entry: Entry) -> None:
        """Give the open file or directory *fd* all that *entry* says, except times of directories."""

    @abstractmethod
    def node(self, dirfd: int, name: bytes, entry: Entry) -> None:
        """Make the device or fifo *entry*."""

    @abstractmethod
    def symlink(self, dirfd: int, name: bytes, entry: Entry) -> None:
        """Make the symlink *entry*."""

    def whiteout(self, dirfd: int, name: bytes) -> None:
        """Hide *name*; where the filesystem has no such device, with attributes the kernel reads too."""
        try:
            os.mknod(name, WHITEOUT_MODE, 0, dir_fd=dirfd)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            fd = at.open_file(dirfd, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                xattr.set(fd, self.marks.whiteout, b"y")
            finally:
                os.close(fd)
            if xattr.get(dirfd, self.marks.opaque) is None:
                xattr.set(dirfd, self.marks.opaque, XWHITEOUTS)

    def opaque(self, fd: int) -> None:
        """Hide everything below the directory."""
        xattr.set(fd, self.marks.opaque, OPAQUE)

    def _set_xattr(self, target: int | bytes, path: bytes, name: str, stored: str, value: bytes) -> None:
        """Set the attribute *name*, which is called *stored* on disk."""
        try:
            xattr.set(target, stored, value)
        except OSError as error:
            if name.startswith(_OPTIONAL):
                self.notes.append(f"{os.fsdecode(path)}: {name} is not kept")
                self.not_kept.add(name)
                return
            if error.errno not in _UNFIT:
                raise
            raise ImageError(f"{os.fsdecode(path)!r}: this filesystem cannot keep {name}: {error.strerror}") from error


class RootForm(Form):
    """Files are what they are."""

    marks = TRUSTED

    def attributes(self, fd: int, entry: Entry) -> None:
        """See `Form.attributes`."""
        os.fchown(fd, entry.uid, entry.gid)
        for name, value in entry.xattrs:  # after the owner: chown clears capabilities
            self._set_xattr(fd, entry.path, name, self.marks.on_disk(name), value)
        os.fchmod(fd, entry.mode)  # after both: chown clears set-id bits
        if entry.kind is Kind.FILE:
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def node(self, dirfd: int, name: bytes, entry: Entry) -> None:
        """See `Form.node`."""
        try:
            os.mknod(name, entry.st_mode, entry.rdev, dir_fd=dirfd)
        except PermissionError as error:
            raise ImageError(f"device {os.fsdecode(entry.path)!r} cannot be made without CAP_MKNOD") from error
        os.chown(name, entry.uid, entry.gid, dir_fd=dirfd, follow_symlinks=False)
        os.chmod(name, entry.mode, dir_fd=dirfd)
        self._finish(dirfd, name, entry)

    def symlink(self, dirfd: int, name: bytes, entry: Entry) -> None:
        """See `Form.symlink`."""
        os.symlink(entry.link, name, dir_fd=dirfd)
        os.chown(name, entry.uid, entry.gid, dir_fd=dirfd, follow_symlinks=False)
        self._finish(dirfd, name, entry)

    def _finish(self, dirfd: int, name: bytes, entry: Entry) -> None:
        for key, value in entry.xattrs:
            self._set_xattr(at.proc_path(dirfd, name), entry.path, key, self.marks.on_disk(key), value)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=dirfd, follow_symlinks=False)


class UserForm(Form):
    """Files are the user's own; what they would be is an attribute."""

    marks = USER

    def attributes(self, fd: int, entry: Entry) -> None:
        """See `Form.attributes`."""
        kept = Override(entry.uid, entry.gid, entry.st_mode, entry.rdev)
        xattr.set(fd, _OVERRIDE_STAT, encode_override(kept))
        for name, value in entry.xattrs:
            stored = self.marks.on_disk(name) if name.startswith("user.") else KEPT_PREFIX + name
            self._set_xattr(fd, entry.path, name, stored, value)
        # The owner must be able to read what he unpacked, whatever the image says.
        os.fchmod(fd, entry.mode & 0o777 | (0o700 if entry.is_dir else 0o600))
        if entry.kind is not Kind.DIR:
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def node(self, dirfd: int, name: bytes, entry: Entry) -> None:
        """See `Form.node`."""
        fd = at.open_file(dirfd, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            self.attributes(fd, entry)
        finally:
            os.close(fd)

    def symlink(self, dirfd: int, name: bytes, entry: Entry) -> None:
        """See `Form.symlink`."""
        os.symlink(entry.link, name, dir_fd=dirfd)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=dirfd, follow_symlinks=False)
        if entry.xattrs:
            self.notes.append(f"{os.fsdecode(entry.path)}: attributes of a symlink are not kept without root")


def form_here(dirfd: int) -> Form:
    """Return the form that this process can write in the directory *dirfd*, by trying.

    Root inside a user namespace is a user here: it can make no device and no trusted attribute.

    Raises:
        ImageError: neither form is possible: the filesystem has no extended attributes.
    """
    if os.geteuid() == 0 and _can_set(dirfd, TRUSTED.impure):
        return RootForm()
    if _can_set(dirfd, USER.impure):
        return UserForm()
    raise ImageError(
        "the store's filesystem has no extended attributes; try: UNIONFS_ROOT on ext4, xfs, btrfs or tmpfs"
    )


def is_users(fd: int) -> bool:
    """Tell whether the root directory *fd* of a layer was written in a user's form: then all in it was."""
    return xattr.get(fd, _OVERRIDE_STAT) is not None


def _can_set(dirfd: int, name: str) -> bool:
    try:
        xattr.set(dirfd, name, b"y")
        xattr.remove(dirfd, name)
    except OSError:
        return False
    return True
