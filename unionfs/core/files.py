"""Open files: the descriptor behind each handle, and what read and write do with it.

A file of a lower layer may be open for reading when somebody else changes it: the copy-up then puts
the upper file's descriptor in the place of the lower one (`copyup._swap`), so the old reader sees
the new data.

Source: Linux fs/overlayfs/file.c.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from unionfs.core import attrs, copyup
from unionfs.core.config import Fsync
from unionfs.core.jobs import Job
from unionfs.core.nodes import Dir, File
from unionfs.core.state import State
from unionfs.linux import at, fileops
from unionfs.names import Handle

if TYPE_CHECKING:
    from unionfs.core.readdir import OpenDirectory

__all__ = ["FileTable", "OpenFile", "fill", "keep", "let_go", "may_go_on", "open_file", "settle"]

KEPT: Final = 1024
"""How many files without a name are held on to. The kernel forgets most of them at once, if it has a CPU for that."""

_ACCESS: Final = os.O_ACCMODE
_KEPT: Final = os.O_SYNC | os.O_DSYNC
"""Of the caller's flags, those that also matter for the real file. O_APPEND does not: the kernel gives offsets."""


_UNREAD: Final = -1

_PAGE: Final = 4096
"""What is read without fault ends with one; the end of a file rarely does, and then it is asked for once more."""


@final
class OpenFile:
    """One open file of the union. `fd` may be replaced by a copy-up, so it is never kept elsewhere."""

    __slots__ = ("_fd", "flags", "handle", "node", "real_flags", "writable_layer")

    def __init__(self, node: File, fd: int, flags: int, real_flags: int) -> None:
        self.node = node
        self._fd = fd
        self.flags = flags
        """What the caller asked for."""
        self.real_flags = real_flags
        """What a copy of the real file is to be opened with."""
        self.writable_layer = node.place.layer.writable and node.data is None
        """True if `fd` is a file of the upper layer."""
        self.handle = Handle(0)

    @property
    def fd(self) -> int:
        """The descriptor of the real file; a lower file that was opened before is opened by the first who asks."""
        if self._fd < 0:
            place, name = self.node.data or (self.node.place, self.node.real)
            self._fd = at.open_unnoticed(place.fd(), name)
        return self._fd

    def replace(self, fd: int) -> None:
        """Have *fd* instead, from now on."""
        self.close()
        self._fd = fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


@final
class FileTable:
    """Every open file and directory, by handle. Handles are not reused."""

    __slots__ = ("directories", "files", "kept", "last")

    def __init__(self) -> None:
        self.last = 0
        """The last number that was handed out."""
        self.files: dict[int, OpenFile] = {}
        self.directories: dict[int, OpenDirectory] = {}
        self.kept: dict[int, OpenFile | bytes] = {}
        """By node id, oldest first: what `keep` holds on to. A file, or the target of a symlink."""

    def number(self) -> Handle:
        self.last += 1
        return Handle(self.last)

    def skip(self, handle: int) -> None:
        """Never hand out a number up to *handle*."""
        self.last = max(self.last, handle)

    def renumber(self, handle: int, wanted: int) -> None:
        """Give an open file the handle *wanted*, which its opener has."""
        opened = self.files.pop(handle)
        opened.handle = Handle(wanted)
        self.files[wanted] = opened

    def add(self, opened: OpenFile, handle: int | None = None) -> Handle:
        """Note an open file, under *handle* if its opener has that already."""
        handle = self.number() if handle is None else Handle(handle)
        opened.handle = handle
        self.files[handle] = opened
        _attach(opened)
        return handle

    def __getitem__(self, fh: int) -> OpenFile:
        try:
            return self.files[fh]
        except KeyError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None


def _attach(opened: OpenFile) -> None:
    if opened.node.opens is None:
        opened.node.opens = [opened]
    else:
        opened.node.opens.append(opened)


def keep(state: State, node: File, st: os.stat_result) -> None:
    """Hold on to an upper file that is about to lose its last name: somebody may have found it, and be about to open.

    Otherwise that is ESTALE. The kernel then looks for the name once more, but of a file that is replaced again and
    again the second one may be gone as well. What a lower layer has needs no holding: it is still there.
    """
    has_more_names = node.links is not None and len(node.links) > 1
    if node.lookups <= 0 or node.data is not None or not node.is_upper or has_more_names:
        return
    kept = state.files.kept
    with contextlib.suppress(OSError):
        if stat.S_ISREG(st.st_mode):
            fd = at.open_unnoticed(node.place.fd(), node.real)
            kept[node.nodeid] = opened = OpenFile(node, fd, os.O_RDONLY, os.O_RDONLY)
            _attach(opened)
        elif stat.S_ISLNK(st.st_mode):
            kept[node.nodeid] = os.readlink(node.real, dir_fd=node.place.fd())
    if len(kept) > KEPT:
        let_go(state, next(iter(kept)))


def let_go(state: State, nodeid: int) -> None:
    """Hold on to the file no more."""
    opened = state.files.kept.pop(nodeid, None)
    if isinstance(opened, OpenFile):
        _detach(state, opened)


def open_file(state: State, node: File, flags: int, *, again: bool) -> Handle:
    """Open *node*; for writing it is copied up first, without its data if they are to be truncated.

    *again*: it was opened before and its data may be in somebody's cache, so a lower file is opened for nobody yet.
    """
    if flags & _ACCESS == os.O_RDONLY and not flags & os.O_TRUNC:
        place, name = node.data or (node.place, node.real)
        kept = os.O_RDONLY
        if again and not place.layer.writable:
            return state.files.add(OpenFile(node, _UNREAD, flags, kept))
        notes = place.layer.writable and state.noting.files and not flags & os.O_NOATIME
        noticed = notes or node.is_gone
        fd = _descriptor(node, place.fd(), name, kept) if noticed else at.open_unnoticed(place.fd(), name)
        copyup.refuse_metacopy(state, fd, place)
        return state.files.add(OpenFile(node, fd, flags, kept))
    state.writable()
    copyup.file(state, node, 0 if flags & os.O_TRUNC else None)
    kept = os.O_RDWR | (flags & _KEPT)  # the kernel may have to read the rest of a page it writes
    fd = _descriptor(node, node.place.fd(), node.real, kept | (flags & os.O_TRUNC), flags)
    copyup.refuse_metacopy(state, fd, node.place)
    return state.files.add(OpenFile(node, fd, flags, kept))


def _descriptor(node: File, dirfd: int, name: bytes, flags: int, asked: int = 0) -> int:
    if node.is_gone:
        return _reopen(node, flags)
    try:
        return at.open_file(dirfd, name, flags)
    except PermissionError:
        if asked & os.O_APPEND and not flags & os.O_APPEND:  # it may be append-only (chattr +a)
            return _descriptor(node, dirfd, name, flags | os.O_APPEND, asked)
        if flags & _ACCESS != os.O_RDWR or asked & _ACCESS != os.O_WRONLY:
            raise
        return at.open_file(dirfd, name, (flags & ~_ACCESS) | os.O_WRONLY)  # ours, but write-only


def _reopen(node: File, flags: int) -> int:
    """Open a file that has no name any more, through one of its open files or where a lower layer has it."""
    if not node.opens:
        if node.is_upper or node.data is not None or flags & _ACCESS:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return at.open_unnoticed(node.place.fd(), node.real)
    return os.open(b"/proc/self/fd/%d" % node.opens[0].fd, flags | os.O_CLOEXEC)


def fill(fd: int, data: bytearray | memoryview, offset: int) -> int:
    """Read into *data* from *offset*; return the bytes read, fewer than asked for only at the end of the file.

    A read that meets a fault returns the pages before it, and the next one the error. Taken for the end of the
    file, that would make the file shorter without a word.

    Raises:
        OSError: EIO, a part of what was asked for cannot be read.
    """
    done = os.preadv(fd, (data,), offset)
    while may_go_on(done, len(data)):
        more = os.preadv(fd, (memoryview(data)[done:],), offset + done)
        if not more:
            break
        done += more
    return done


def may_go_on(done: int, size: int) -> bool:
    """Tell whether a read of *size* bytes that returned *done* may have met a fault, and not the end of the file."""
    return 0 < done < size and not done % _PAGE


def write(state: State, fh: int, data: bytes | bytearray | memoryview, offset: int, *, kill_priv: bool = False) -> int:
    opened = _for_change(state, fh)
    if kill_priv:
        attrs.drop_set_id(opened.node, opened.fd)
    return os.pwrite(opened.fd, data, offset)


def _for_change(state: State, fh: int) -> OpenFile:
    opened = state.files[fh]
    if opened.flags & _ACCESS == os.O_RDONLY or not opened.writable_layer:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return opened


def release(state: State, fh: int) -> None:
    """Close the file; one that is not open is ignored, as close-on-exit may come twice after a restart."""
    opened = state.files.files.pop(fh, None)
    if opened is None:
        return
    _detach(state, opened)


def _detach(state: State, opened: OpenFile) -> None:
    opened.close()
    node = opened.node
    if node.opens is not None:
        node.opens.remove(opened)
    if not node.opens:
        node.opens = None
        state.nodes.drop_if_unused(node)


def fsync(state: State, fh: int, datasync: bool) -> Job | None:
    """Return the work of writing the file through; None where nothing was or need be written."""
    opened = state.files[fh]
    if not opened.writable_layer or state.config.fsync is Fsync.VOLATILE:
        return None
    return _sync_job(opened.fd, os.fdatasync if datasync else os.fsync)


def fsync_directory(state: State, node: Dir, datasync: bool) -> Job | None:
    """Return the work of writing a directory through; None if no layer of it was ever written."""
    place = node.upper
    if place is None or node.is_gone or state.config.fsync is Fsync.VOLATILE:
        return None
    return _sync_job(place.fd(), os.fdatasync if datasync else os.fsync)


def settle(*nodes: Dir) -> None:
    """Write through directories that have just been changed, as dirsync asks; others wait meanwhile.

    Raises:
        OSError: EIO, the disk did not take it, though the change was made.
    """
    for node in dict.fromkeys(nodes):
        if node.upper is not None and not node.is_gone:
            os.fsync(node.upper.fd())


def sync_upper(state: State) -> Job | None:
    """Return the work of writing the upper layer's whole filesystem through."""
    if state.upper is None or state.config.fsync is Fsync.VOLATILE:
        return None
    return _sync_job(state.upper.work_fd, fileops.syncfs)


def _sync_job(fd: int, sync: Callable[[int], None]) -> Job:
    own = os.dup(fd)  # the original may be closed while the job runs

    def done(error: BaseException | None) -> None:
        os.close(own)
        if error is not None:
            raise error

    return Job(lambda: sync(own), done)


def fallocate(state: State, fh: int, mode: int, offset: int, length: int) -> None:
    """Allocate, punch, zero, collapse or insert, as fallocate(2) with *mode*."""
    opened = _for_change(state, fh)
    fileops.fallocate(opened.fd, mode, offset, length)


def lseek(state: State, fh: int, offset: int, whence: int) -> int:
    """Find data or a hole (SEEK_DATA, SEEK_HOLE); the other ways of seeking the kernel does itself."""
    return os.lseek(state.files[fh].fd, offset, whence)


def copy_file_range(state: State, source: tuple[int, int], target: tuple[int, int], length: int) -> int:
    """Copy *length* bytes between two open files, each given as handle and offset; return the bytes done."""
    opened, into = state.files[source[0]], _for_change(state, target[0])
    return os.copy_file_range(opened.fd, into.fd, length, source[1], target[1])
