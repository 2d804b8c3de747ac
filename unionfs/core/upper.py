"""The upper layer as something to write to: staging, whiteouts, opaque marks, clearing away.

What must appear whole is made under a temporary name in the work directory and moved into place by
one rename. A whiteout is a hard link to one character device in the work directory: a link is
cheaper than a mknod, and a thousand deletions take one inode.

Source: Linux fs/overlayfs/dir.c, ovl_whiteout(), ovl_cleanup_and_whiteout(), ovl_clear_empty().
"""

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, final

from unionfs.core import ondisk
from unionfs.core.layer import Layer, Place
from unionfs.linux import at, fileops, xattr
from unionfs.linux.remove import remove

if TYPE_CHECKING:
    from unionfs.core.index import Index

__all__ = ["Upper", "despite_flags", "with_access"]

_MARK_REFUSED: Final = frozenset({errno.EOPNOTSUPP, errno.EPERM})


@final
class Upper:
    """The one layer the union writes to, and its work directory."""

    __slots__ = (
        "_serial",
        "_umask",
        "_umask_before",
        "_whiteout",
        "base_fd",
        "can_mknod",
        "device",
        "gid",
        "index",
        "layer",
        "syncs",
        "syncs_directories",
        "uid",
        "work_fd",
    )

    def __init__(self, layer: Layer, work_fd: int, *, syncs: bool) -> None:
        self.layer = layer
        self.device = os.fstat(work_fd).st_dev
        self.uid, self.gid = os.geteuid(), os.getegid()
        """Whose the objects are that the daemon makes, unless it gives them to somebody."""
        self.work_fd = work_fd
        """An open, empty directory on the upper's filesystem."""
        self.base_fd = -1
        """The work directory given by the user, in which `work_fd` and the index are; it holds the lock."""
        self.index: Index | None = None
        """None without index=on."""
        self.syncs = syncs
        """Data reach the disk before a copy-up is published."""
        self.syncs_directories = False
        """And so does the name, after it."""
        self._serial = itertools.count()
        self._whiteout: bytes | None = None
        self._umask: int | None = None
        self._umask_before = 0
        self.can_mknod = True
        """False once the kernel refused to make a whiteout device: then attributes are used."""

    def temporary(self) -> bytes:
        """Return a fresh name for the work directory."""
        return b"#%x" % next(self._serial)

    @contextmanager
    def staged(self) -> Iterator[bytes]:
        """A fresh name in the work directory; whatever is there afterwards was not published and goes."""
        temp = self.temporary()
        self.use_umask(0)
        try:
            yield temp
        except BaseException:
            self.discard(temp)
            raise

    def discard(self, temp: bytes) -> None:
        """Remove what is under *temp* in the work directory, a tree if it is one; a missing one is fine.

        What cannot be removed now is no failure of what it was made for, and goes with the next mount.
        """
        with contextlib.suppress(OSError):
            remove(self.work_fd, temp)

    def use_umask(self, umask: int) -> None:
        """Let the kernel apply *umask*, which it leaves out where the directory has a default ACL."""
        if umask != self._umask:
            before = os.umask(umask)
            if self._umask is None:
                self._umask_before = before
            self._umask = umask

    def restore_umask(self) -> None:
        """Leave the process as it was found."""
        if self._umask is not None:
            os.umask(self._umask_before)
            self._umask = None

    def put_whiteout(self, place: Place, name: bytes) -> None:
        """Make *name*, which is not in the upper directory *place*, a whiteout.

        An append-only directory would take one more name, but here that is a name less.
        """
        if at.is_protected(place.fd(), b""):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        place.will_hold(name)
        self.expect_whiteouts(place)
        try:
            self._link_whiteout(place.fd(), name)
        except PermissionError as exc:
            if not self.can_mknod or exc.errno != errno.EPERM:
                raise
            self.can_mknod = False  # kernels before 5.8 make whiteouts for root only
            self.put_whiteout(place, name)

    def replace_by_whiteout(self, place: Place, name: bytes) -> None:
        """Turn the file *name* of the upper directory *place* into a whiteout, in one step."""
        with self.staged() as temp:
            self._link_whiteout(self.work_fd, temp)
            self.expect_whiteouts(place)
            at.rename(self.work_fd, temp, place.fd(), name)

    def replace_directory_by_whiteout(self, place: Place, name: bytes) -> None:
        """Turn the directory *name*, which may hold whiteouts, into a whiteout, in one step."""
        with self.staged() as temp:
            self._link_whiteout(self.work_fd, temp)
            self.expect_whiteouts(place)
            self._exchange(temp, place, name)
        self.discard(temp)

    def _exchange(self, temp: bytes, place: Place, name: bytes) -> None:
        move = partial(at.rename, self.work_fd, temp, place.fd(), name, at.RENAME_EXCHANGE)
        with_access(move, (place.fd(), name), (self.work_fd, temp))

    def remove_directory(self, place: Place, name: bytes) -> None:
        """Remove the directory *name*, which may hold whiteouts, in one step."""
        try:
            os.rmdir(name, dir_fd=place.fd())
        except OSError as exc:
            if exc.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            temp = self.temporary()
            with_access(partial(at.rename, place.fd(), name, self.work_fd, temp), (place.fd(), name))
            self.discard(temp)
        place.has_lost(name)

    def clear(self, place: Place, name: bytes) -> None:
        """Replace the directory *name*, which holds nothing but whiteouts, by an empty opaque one.

        Its owner, mode and attributes stay; used before something is renamed over it.
        """
        old = place.child(name)
        st = os.fstat(old.fd())
        with self.staged() as temp:
            os.mkdir(temp, 0o700, dir_fd=self.work_fd)
            target = at.proc_path(self.work_fd, temp)
            os.chown(temp, st.st_uid, st.st_gid, dir_fd=self.work_fd)
            kept = self.layer.owners.override if self.layer.owners is not None else ""
            xattr.copy(
                old.fd(),
                target,
                xattr.names(old.fd()),
                lambda each: each if each == kept else self.layer.xattrs.copied(each),
            )
            xattr.set(target, self.layer.xattrs.opaque, ondisk.OPAQUE)
            os.chmod(temp, stat.S_IMODE(st.st_mode), dir_fd=self.work_fd)
            self._exchange(temp, place, name)
        old.close()
        self.discard(temp)

    def set_opaque(self, place: Place) -> None:
        """Hide everything below *place*, whose attribute whiteouts go: the mark cannot say that there are some."""
        for name in [os.fsencode(entry.name) for entry in place.scan()] if place.xwhiteouts else ():
            if place.is_whiteout(name, place.lstat(name)):
                os.unlink(name, dir_fd=place.fd())
                place.has_lost(name)
        place.xwhiteouts = False
        self._mark(place, self.layer.xattrs.opaque, ondisk.OPAQUE)
        place.opaque = True

    def set_redirect(self, place: Place, redirect: bytes) -> None:
        """Let the layers below *place* be searched under *redirect*."""
        self._mark(place, self.layer.xattrs.redirect, redirect)
        place.redirect = redirect

    def set_impure(self, place: Place) -> None:
        """Note that *place* holds copied-up files, whose inode numbers are those of their origin."""
        if place.impure:
            return
        try:
            despite_flags(place.fd(), lambda: self._mark(place, self.layer.xattrs.impure, ondisk.IMPURE))
        except OSError as exc:
            if exc.errno not in _MARK_REFUSED:
                raise
        place.impure = True

    def expect_whiteouts(self, place: Place) -> None:
        """Prepare *place* for whiteouts, which are attributes where devices cannot be made."""
        if not self.can_mknod and not place.xwhiteouts:
            self._mark(place, self.layer.xattrs.opaque, ondisk.XWHITEOUTS)
            place.xwhiteouts = True

    def _mark(self, place: Place, mark: str, value: bytes) -> None:
        with_access(lambda: xattr.set(place.fd(), mark, value), (place.fd(), b""))

    def _link_whiteout(self, dirfd: int, name: bytes) -> None:
        """Give the whiteout a further name; make a new one where there is none, or it has too many."""
        if self._whiteout is not None:
            try:
                os.link(self._whiteout, name, src_dir_fd=self.work_fd, dst_dir_fd=dirfd, follow_symlinks=False)
            except OSError as exc:
                if exc.errno not in {errno.EMLINK, errno.ENOENT, errno.EPERM}:
                    raise
                self._whiteout = None
            else:
                return
        fresh = self.temporary()
        if self.can_mknod:
            os.mknod(fresh, ondisk.WHITEOUT_MODE, ondisk.WHITEOUT_RDEV, dir_fd=self.work_fd)
        else:
            os.close(at.open_file(self.work_fd, fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            if not self.can_mknod:
                xattr.set(at.proc_path(self.work_fd, fresh), self.layer.xattrs.whiteout, b"y")
            os.link(fresh, name, src_dir_fd=self.work_fd, dst_dir_fd=dirfd, follow_symlinks=False)
        except BaseException:
            self.discard(fresh)
            raise
        self._whiteout = fresh


def despite_flags(dirfd: int, act: Callable[[], None]) -> None:
    """Do *act*, which changes the directory *dirfd* only as its layer sees it: a copy gets in, times are put back.

    The union's users may change a file in an immutable directory, so the real flag is lifted for that moment.
    """
    try:
        act()
    except PermissionError as exc:
        if exc.errno != errno.EPERM or not at.is_protected(dirfd, b""):
            raise
        flags = fileops.get_flags(dirfd)
        fileops.set_flags(dirfd, flags & ~(fileops.FS_APPEND | fileops.FS_IMMUTABLE))
        try:
            act()
        finally:
            fileops.set_flags(dirfd, flags)


def with_access(act: Callable[[], None], *directories: tuple[int, bytes]) -> None:
    """Do *act*, which changes *directories*, although their modes may not let even their owner.

    Only a daemon without privilege needs this. Users may change a file in a read-only directory, and
    its copy has to get in there; and a directory that moves to another parent is changed too. For
    that moment the directory's owner, and nobody else, has the rights that he could give himself at
    any time.
    """
    try:
        act()
    except PermissionError as exc:
        if exc.errno != errno.EACCES:
            raise
        with contextlib.ExitStack() as undo:
            opened = [undo.enter_context(_opened_up(*each)) for each in directories]
            if not any(opened):
                raise
            act()


@contextmanager
def _opened_up(dirfd: int, name: bytes) -> Iterator[bool]:
    """Give the owner of a directory all rights in it; False if it was no lack of those."""
    fd = at.open_path(dirfd, name or b".")
    try:
        st = os.fstat(fd)
        lacks = stat.S_ISDIR(st.st_mode) and st.st_uid == os.geteuid() and st.st_mode & 0o700 != 0o700
        if lacks:
            os.chmod(at.itself(fd), stat.S_IMODE(st.st_mode) | 0o700)
        yield lacks
        if lacks:
            os.chmod(at.itself(fd), stat.S_IMODE(st.st_mode))
    finally:
        os.close(fd)


def restore_times(dirfd: int, before: os.stat_result) -> None:
    """Give a directory, in which a copy has just got its name, the times it had: users have changed nothing in it.

    The copy is there by now, so a refusal is no reason to call the whole a failure.
    """
    times = (before.st_atime_ns, before.st_mtime_ns)
    with contextlib.suppress(OSError):
        despite_flags(dirfd, lambda: at.set_times(dirfd, times))
