"""What a copy of a file is made of, and in which order: the steps between a lower file and its staged copy.

The order is the table `STEPS`, each step with its reason. Nothing here knows a name of the union or a
table of it, so a worker thread may run it. Where the copy goes, and when, is decided in ``copyup.py``.

Source: Linux fs/overlayfs/copy_up.c, ovl_copy_up_data(), ovl_copy_up_metadata().
"""

import errno
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from unionfs.linux import at, filecopy, xattr

if TYPE_CHECKING:
    from unionfs.core.upper import Upper

__all__ = ["STEPS", "Copy", "fill", "run"]


@final
class Copy:
    """One file on its way up. A worker thread may have it: it holds descriptors and values only."""

    def __init__(
        self, st: os.stat_result, source: int | bytes, data: int, size: int, upper: "Upper", temp: bytes
    ) -> None:
        self.st = st
        """The source's attributes."""
        self.source = source
        """How the xattr calls reach the source."""
        self.data = data
        """A descriptor for reading the data, or -1."""
        self.size = size
        """Bytes of data to copy."""
        self.upper = upper
        self.temp = temp
        self.link = b""
        """The target of a symlink."""
        self.metadata_only = False
        self.origin: bytes | None = None
        self.flags = 0
        """The source's file flags (chattr) that the copy is to have."""
        self.names: list[str] | None = None
        """The source's extended attributes; None if nobody has asked yet."""
        self.target_fd = -1
        self.copied = 0

    @property
    def target(self) -> int | bytes:
        """How the xattr calls reach the copy: by its descriptor where there is one, which is four times faster."""
        return self.target_fd if self.target_fd >= 0 else at.proc_path(self.upper.work_fd, self.temp)

    @property
    def is_cut(self) -> bool:
        """Whether it gets less data than there are: who asked for that has changed the file."""
        return not self.metadata_only and stat.S_ISREG(self.st.st_mode) and self.size < self.st.st_size

    def close(self) -> None:
        own = {self.data, self.target_fd, self.source if isinstance(self.source, int) else -1}
        for fd in own - {-1}:
            os.close(fd)
        self.data = self.target_fd = self.source = -1


def make(copy: Copy) -> None:
    kind = stat.S_IFMT(copy.st.st_mode)
    dirfd = copy.upper.work_fd
    if kind == stat.S_IFREG:
        copy.target_fd = at.open_file(dirfd, copy.temp, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    elif kind == stat.S_IFDIR:
        os.mkdir(copy.temp, 0o700, dir_fd=dirfd)
    elif kind == stat.S_IFLNK:
        os.symlink(copy.link, copy.temp, dir_fd=dirfd)
    elif copy.upper.layer.owners is not None:
        copy.upper.layer.owners.make_node(dirfd, copy.temp, kind | 0o600, copy.st.st_rdev)
    else:
        os.mknod(copy.temp, kind | 0o600, copy.st.st_rdev, dir_fd=dirfd)


def copy_data(copy: Copy) -> None:
    if copy.metadata_only:
        os.ftruncate(copy.target_fd, copy.st.st_size)
    elif copy.target_fd >= 0 and copy.data >= 0:
        has_holes = copy.st.st_blocks * 512 < copy.st.st_size
        devices = (copy.st.st_dev, copy.upper.device)
        copy.copied = filecopy.copy_data(copy.data, copy.target_fd, copy.size, devices, has_holes=has_holes)


def copy_owner(copy: Copy) -> None:
    if copy.upper.layer.owners is not None:
        copy.upper.layer.owners.give(copy.target, copy.st)
        return
    if (copy.st.st_uid, copy.st.st_gid) == (copy.upper.uid, copy.upper.gid):
        return  # as it was made
    os.chown(copy.temp, copy.st.st_uid, copy.st.st_gid, dir_fd=copy.upper.work_fd, follow_symlinks=False)


def copy_xattrs(copy: Copy) -> None:
    marks, acls = copy.upper.layer.xattrs, () if copy.upper.layer.owners is None else xattr.ACLS
    names = xattr.names(copy.source) if copy.names is None else copy.names
    if names:
        xattr.copy(copy.source, copy.target, names, lambda name: None if name in acls else marks.copied(name))


def copy_mode(copy: Copy) -> None:
    if copy.upper.layer.owners is not None:
        copy.upper.layer.owners.set_mode(copy.target, copy.st)
    elif copy.target_fd >= 0:
        os.fchmod(copy.target_fd, stat.S_IMODE(copy.st.st_mode))
    elif not stat.S_ISLNK(copy.st.st_mode):
        os.chmod(copy.temp, stat.S_IMODE(copy.st.st_mode), dir_fd=copy.upper.work_fd)


def copy_times(copy: Copy) -> None:
    mtime_ns = os.fstat(copy.target_fd).st_mtime_ns if copy.is_cut else copy.st.st_mtime_ns
    times = (copy.st.st_atime_ns, mtime_ns)
    if copy.target_fd >= 0:
        os.utime(copy.target_fd, ns=times)
    else:
        os.utime(copy.temp, ns=times, dir_fd=copy.upper.work_fd, follow_symlinks=False)


def write_marks(copy: Copy) -> None:
    marks = copy.upper.layer.xattrs
    if copy.metadata_only:
        xattr.set(copy.target, marks.metacopy, b"")
    if copy.origin is None:
        return
    try:
        xattr.set(copy.target, marks.origin, copy.origin)
    except OSError as exc:  # a symlink takes no user.* attribute: its number will change with the next mount
        if exc.errno not in {errno.EOPNOTSUPP, errno.EPERM}:
            raise


def write_through(copy: Copy) -> None:
    upper = copy.upper
    if copy.target_fd >= 0 and (upper.syncs_directories if copy.metadata_only else upper.syncs):
        os.fsync(copy.target_fd)


Step = Callable[[Copy], None]

STEPS: Final[tuple[Step, ...]] = (
    make,
    copy_data,
    copy_owner,  # after data: writing clears the set-id bits; before xattrs: chown drops security.capability
    copy_xattrs,
    write_marks,  # before mode: a read-only file takes no user.* attribute from an ordinary user
    copy_mode,  # after owner, which clears the set-id bits, and after ACLs, which carry a mode of their own
    copy_times,  # after data, which moves mtime
    write_through,  # last: all of the above must be on the disk before the name is
)


def run(copy: Copy) -> None:
    for step in STEPS:
        step(copy)


def fill(copy: Copy) -> None:
    """Write the data into a copy that has all but them; its attributes stay, but for the time of one that is cut."""
    capability = xattr.get(copy.target_fd, xattr.CAPABILITY)
    devices = (os.fstat(copy.data).st_dev, copy.upper.device)
    mtime_ns = copy.st.st_mtime_ns
    try:
        copy.copied = filecopy.copy_data(copy.data, copy.target_fd, copy.size, devices)
        os.ftruncate(copy.target_fd, copy.size)
        if copy.is_cut:
            mtime_ns = os.fstat(copy.target_fd).st_mtime_ns
    finally:  # also after a failure: readers find the data below, but the attributes here
        if capability is not None:
            xattr.set(copy.target_fd, xattr.CAPABILITY, capability)  # writing has dropped it
        os.fchmod(copy.target_fd, stat.S_IMODE(copy.st.st_mode))
        os.utime(copy.target_fd, ns=(copy.st.st_atime_ns, mtime_ns))
    write_through(copy)
