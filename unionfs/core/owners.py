"""Owners and modes that are not shown as they are on disk: id maps, squashing, and attributes that stand for them.

An ordinary user cannot give a file to somebody else, set-user-id bits of a file of his mean him, and
he cannot make devices. With ``xattr_permissions`` the union keeps what was asked for in an extended
attribute and shows that; the real file belongs to the daemon, who can always read and write it. A
device, and where the attribute is a ``user.*`` one a fifo or socket too (which take none), is an
empty regular file that the attribute gives its type. A symlink takes no ``user.*`` attribute at all:
it shows its real owner, and a chown of it is accepted and not kept.

Id maps are applied to whatever was read, from the inode or the attribute, and to whatever is
written, in reverse. An owner outside of the map shows as the kernel's overflow id; making something
for such a user, or giving something to him, fails with EOVERFLOW. A squashed owner is the same for
every file and cannot be changed.

Whom to believe: a ``security.*`` attribute was written by root. A ``user.*`` one may have been
written by whoever owned the layer's files and would make a set-user-id root program of his own, so a
union made by root believes it only if ``xattr_permissions`` says so; one made by an ordinary user or
in a user namespace gives nothing that he has not got.

A layer needs none of this unless `of_layer` says so; then requests cost one comparison with None.

Sources: containers/storage pkg/idtools (the attribute); fuse-overlayfs main.c (maps, detection).
"""

import errno
import os
import stat
from collections.abc import Sequence
from typing import Final, NamedTuple, final

from unionfs.core import acl, ondisk
from unionfs.core.attrs import replaced, without_set_id
from unionfs.core.config import Config, IdMap, Squash
from unionfs.core.request import Changes
from unionfs.errors import BadMark
from unionfs.linux import at, xattr

__all__ = ["Owners", "find_override", "of_layer", "to_shown", "to_stored"]

OVERFLOW_ID: Final = 65534
"""Shown for an owner outside of the map. Source: DEFAULT_OVERFLOWUID, Linux include/linux/highuid.h."""

NOBODY: Final = Squash()
"""No owner is squashed."""

_NODES: Final = frozenset({stat.S_IFBLK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK})


def to_shown(ranges: Sequence[IdMap], number: int) -> int:
    """Return what an owner on disk is called in the mount.

    >>> to_shown((IdMap(100000, 0, 65536),), 100033), to_shown((IdMap(100000, 0, 65536),), 33)
    (33, 65534)
    """
    for stored, shown, length in ranges:
        if stored <= number < stored + length:
            return shown + number - stored
    return OVERFLOW_ID if ranges else number


def to_stored(ranges: Sequence[IdMap], number: int) -> int:
    """Return what an owner in the mount is called on disk; the reverse of `to_shown`.

    Raises:
        OSError: EOVERFLOW, the map has no such owner.
    """
    for stored, shown, length in ranges:
        if shown <= number < shown + length:
            return stored + number - shown
    if ranges:
        raise OSError(errno.EOVERFLOW, os.strerror(errno.EOVERFLOW))
    return number


@final
class Owners(NamedTuple):
    """How the owners and modes of one layer's files are shown, and how they are changed."""

    users: tuple[IdMap, ...] = ()
    groups: tuple[IdMap, ...] = ()
    squash: Squash = NOBODY
    override: str = ""
    """The attribute that stands for owner, mode and type; empty if the layer has none."""
    writes: bool = False
    """Changes go into the attribute too: this is the upper layer, and ``xattr_permissions`` is set."""

    def shown(self, st: os.stat_result, target: int | bytes, *, is_exact: bool = False) -> os.stat_result:
        """Return what a stat shows of the file *target*, whose real attributes are *st*.

        Raises:
            BadMark: its attribute is none that we understand; showing the real mode might show too much.
            OSError: EOVERFLOW, with *is_exact*: an owner is outside of the map.
        """
        uid, gid, mode, rdev = st.st_uid, st.st_gid, st.st_mode, st.st_rdev
        value = xattr.get(target, self.override) if self.override else None
        if value is not None:
            uid, gid, mode, rdev = _overridden(ondisk.decode_override(value), st)
        elif not stat.S_ISLNK(mode):
            mode = acl.narrowed(xattr.get(target, xattr.ACCESS_ACL), mode)
        if is_exact and not (_is_mapped(self.users, uid) and _is_mapped(self.groups, gid)):
            raise OSError(errno.EOVERFLOW, os.strerror(errno.EOVERFLOW))
        uid = to_shown(self.users, uid) if self.squash.uid is None else self.squash.uid
        gid = to_shown(self.groups, gid) if self.squash.gid is None else self.squash.gid
        return replaced(st, st_uid=uid, st_gid=gid, st_mode=mode, st_rdev=rdev)

    def is_kept(self, mode: int) -> bool:
        """Tell whether a file of this type has the attribute, rather than an owner and mode of its own."""
        return self.writes and not (stat.S_ISLNK(mode) and self.override.startswith("user."))

    def make_node(self, dirfd: int, name: bytes, mode: int, rdev: int) -> None:
        """Make a device, fifo, socket or empty file, or a regular file that will show as one."""
        kind = stat.S_IFMT(mode)
        if not self.writes or (kind in _NODES and not self.override.startswith("user.")):
            try:
                os.mknod(name, mode, rdev, dir_fd=dirfd)
            except PermissionError:
                if not self.writes:
                    raise
            else:
                return
        os.close(at.open_file(dirfd, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))

    def settle(self, target: int | bytes, looks: os.stat_result) -> None:
        """Make *target*, which the daemon has just made, show the owner, mode, type and device of *looks*."""
        self.give(target, looks)
        self.set_mode(target, looks)

    def give(self, target: int | bytes, looks: os.stat_result) -> None:
        """The first half of `settle`: the real owner."""
        if not self.writes:
            self.chown(target, looks.st_uid, looks.st_gid)

    def set_mode(self, target: int | bytes, looks: os.stat_result) -> None:
        """The second half of `settle`: the real mode, and the attribute."""
        mode = looks.st_mode
        is_kept = self.is_kept(mode)
        if not stat.S_ISLNK(mode):  # chmod(2) would follow it
            os.chmod(_path(target), _real_mode(mode) if is_kept else stat.S_IMODE(mode))
        if is_kept:
            self._keep(target, looks.st_uid, looks.st_gid, mode, looks.st_rdev)

    def kind(self, target: int | bytes) -> int:
        """Return the type bits that a regular file shows."""
        value = xattr.get(target, self.override) if self.override else None
        try:
            kind = stat.S_IFREG if value is None else stat.S_IFMT(ondisk.decode_override(value).mode)
        except BadMark:
            return stat.S_IFREG
        return kind if kind in _NODES else stat.S_IFREG

    def drop_set_id(self, fd: int) -> None:
        """Take from an open file what a write by an ordinary user takes: the set-id bits, and capabilities."""
        shown = self.shown(os.fstat(fd), fd)
        mode = without_set_id(shown.st_mode)
        if not self.is_kept(mode):
            os.fchmod(fd, stat.S_IMODE(mode))
            return
        self._drop_capability(fd)
        if mode != shown.st_mode:
            self._keep(fd, shown.st_uid, shown.st_gid, mode, shown.st_rdev)

    def mark_root(self, fd: int) -> None:
        """Give the root of the upper layer the attribute, by which the next union knows that it has some."""
        if self.writes and xattr.get(fd, self.override) is None:
            st = os.fstat(fd)
            value = ondisk.encode_override(ondisk.Override(st.st_uid, st.st_gid, st.st_mode))
            xattr.set(fd, self.override, value)

    def _keep(self, target: int | bytes, uid: int, gid: int, mode: int, rdev: int) -> None:
        """Write the attribute; owners are those that users see."""
        owner = (to_stored(self.users, uid), to_stored(self.groups, gid))
        xattr.set(target, self.override, ondisk.encode_override(ondisk.Override(*owner, mode, rdev)))

    def _drop_capability(self, target: int | bytes) -> None:
        name = ondisk.CAPABILITY[self.override]
        if name in xattr.names(target):
            xattr.remove(target, name)

    def chown(self, target: int | bytes, uid: int | None, gid: int | None) -> None:
        """Give the real file to the real owners; None leaves one alone.

        Raises:
            OSError: EOVERFLOW, the map has no such owner.
        """
        real_uid = _real_id(uid, self.users, self.squash.uid)
        real_gid = _real_id(gid, self.groups, self.squash.gid)
        if (real_uid, real_gid) == (-1, -1):
            return
        if isinstance(target, int):
            os.chown(at.itself(target), real_uid, real_gid)
        else:
            os.chown(target, real_uid, real_gid, follow_symlinks=False)

    def change(self, target: int | bytes, st: os.stat_result, changes: Changes) -> None:
        """Change owner and mode of a file that shows *st*, both at once where an attribute stands for them.

        A new owner takes the set-id bits and the capability from a file, as chown(2) does.
        """
        mode = st.st_mode
        if self.writes and not self.is_kept(mode):
            return
        uid = _changed(changes.uid, st.st_uid, self.squash.uid)
        gid = _changed(changes.gid, st.st_gid, self.squash.gid)
        if not self.is_kept(mode):
            self.chown(target, changes.uid, changes.gid)
            return
        if (changes.uid, changes.gid) != (None, None) and not stat.S_ISDIR(mode):
            mode = without_set_id(mode)
            self._drop_capability(target)
        if changes.mode is not None:
            if stat.S_ISLNK(mode):
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            mode = stat.S_IFMT(mode) | stat.S_IMODE(changes.mode)
            os.chmod(_path(target), _real_mode(mode))
        self._keep(target, uid, gid, mode, st.st_rdev)


def _overridden(kept: ondisk.Override, st: os.stat_result) -> tuple[int, int, int, int]:
    """Return uid, gid, mode and device of a file that the attribute *kept* stands for.

    Only a regular file may show as something else, and not as a directory or symlink, which it is not.
    """
    real, kind = stat.S_IFMT(st.st_mode), stat.S_IFMT(kept.mode) or stat.S_IFMT(st.st_mode)
    if kind != real and not (real == stat.S_IFREG and kind in _NODES):
        raise BadMark(f"override_stat: type {kind:o} on a file of type {real:o}")
    return kept.uid, kept.gid, kind | stat.S_IMODE(kept.mode), kept.rdev if kind != real else st.st_rdev


def _real_mode(mode: int) -> int:
    """Return the permission bits on disk of a file that shows *mode*: no set-id bits, and all rights to the daemon."""
    return (mode & 0o777) | (stat.S_IRWXU if stat.S_ISDIR(mode) else stat.S_IRUSR | stat.S_IWUSR)


def _path(target: int | bytes) -> bytes:
    return at.itself(target) if isinstance(target, int) else target


def _changed(wanted: int | None, shown: int, squashed: int | None) -> int:
    if wanted is None or wanted == squashed:
        return shown
    if squashed is not None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    return wanted


def _real_id(wanted: int | None, ranges: Sequence[IdMap], squashed: int | None) -> int:
    """Return the owner for chown(2); -1 leaves it alone."""
    if wanted is None or squashed is not None:
        return -1
    return to_stored(ranges, wanted)


def _is_mapped(ranges: Sequence[IdMap], number: int) -> bool:
    return not ranges or any(stored <= number < stored + length for stored, _, length in ranges)


# which layers need it


def find_override(root: int | bytes, config: Config, *, is_trusting: bool) -> str:
    """Return the attribute that a layer keeps owners in, by what its root carries; empty if there is none."""
    names = xattr.names(root)
    believed = ondisk.OVERRIDES if is_trusting or config.xattr_permissions else ondisk.OVERRIDES[:1]
    return next((name for name in believed if name in names), "")


def of_layer(config: Config, override: str, *, writable: bool) -> Owners | None:
    """Return what a layer whose root carries *override* needs; None for nothing."""
    writes = writable and bool(config.xattr_permissions)
    if writes:
        override = ondisk.WRITTEN_OVERRIDE[config.xattr_permissions]
    if not (override or config.uidmapping or config.gidmapping or config.squash):
        return None
    users, groups = config.uidmapping, config.gidmapping
    squash = config.squash or NOBODY
    return Owners(users=users, groups=groups, squash=squash, override=override, writes=writes)
