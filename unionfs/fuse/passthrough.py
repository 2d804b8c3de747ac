"""Which open file gets which I/O mode: by way of the page cache, or passed through to the real file.

The problem. The kernel can read, write and map a file of ours without asking us, straight from the
real file below (Linux 6.9, CAP_SYS_ADMIN in the initial user namespace). But an inode has one mode
at a time, and in passthrough one real file: an open in the other mode, or on another real file,
fails with EIO. A union changes the real file under an open inode, at copy-up; and whoever opened
the file before must see what is written after.

The choice:

* A file of the upper layer is passed through, unless a cached open of its inode is left. Its real
  file never changes again.
* A file of a lower layer is read by way of the page cache, where it belongs to the inode and not to
  the real file: at copy-up the union swaps the descriptor below, writers go on in the same cache, and
  readers and mappings see what they write. Once the last of these opens is gone, the next finds
  the file in the upper layer, and passes it through.
* Small lower files are put into the page cache together with the answer to their first open, which
  saves the request that would read them.
* A union that cannot change has neither problem, and a better way (``frozen.py``).

Rejected: passing lower files through and refusing, delaying or redirecting the writer. Refusing is
visible, waiting may be forever, and a second inode under the same name (the kernel overlayfs's own
way) leaves the reader with the old data.

What the kernel cannot see itself in passthrough is told or kept from it:

* A mapping changes times and blocks behind its back. So attributes are not cached while a file is
  open for reading and writing, and those cached before are dropped.
* A write must take set-user-id bits off a file, unless the writer has CAP_FSETID, and the kernel leaves
  that to the server, which sees no write. So the real file is lent without that capability to anybody
  but root, and the real file system does it. Whoever else opens a file that was lent to root gets mappings
  passed through, while his writes come to us. A file that has such bits already is not lent for writing.
* Pages cached while the file was not passed through may be older than what was written since. The
  first cached open after a time of passthrough drops them.

Source: Linux fs/fuse/iomode.c, passthrough.c, backing.c.
"""

import errno
import os
from typing import TYPE_CHECKING, Final

from unionfs.fuse import wire
from unionfs.fuse.protocol import Notify, OpenReply
from unionfs.linux import capabilities, fusedev

if TYPE_CHECKING:
    from unionfs.core.union import OpenFile, Union

__all__ = ["Cached", "Passthrough"]

STORE_LIMIT: Final = 128 << 10
"""Bytes up to which a lower file is stored into the page cache when it is opened; one read-ahead."""

_CACHED: Final = (int(OpenReply.KEEP_CACHE), 0)
_CACHED_ANEW: Final = (0, 0)
_THROUGH: Final = int(OpenReply.PASSTHROUGH)
_ASKING: Final = int(OpenReply.PASSTHROUGH | OpenReply.DIRECT_IO)
"""Mappings are passed through, reads and writes come to us."""
_SET_ID: Final = 0o6000


class _Lent:
    """The real file behind the passthrough opens of one node."""

    __slots__ = ("backing", "count", "to_root")

    def __init__(self, backing: int, *, to_root: bool) -> None:
        self.backing = backing
        self.count = 0
        self.to_root = to_root
        """Lent with our own capabilities: only root may write through it."""


class Cached:
    """The mode of every open file where nothing can be passed through: the page cache."""

    def __init__(self, union: "Union", device: int) -> None:
        self._union = union
        self._device = device
        self._stored: set[int] = set()
        self.changing: dict[int, int] = {}
        """Nodes whose attributes may change unseen, and how many open files may do it."""
        self.lent: dict[int, _Lent] = {}
        """Nodes whose real files the kernel reads and writes itself."""

    def opened(self, file: "OpenFile", uid: int) -> tuple[int, int]:
        """Return the OpenReply flags and the backing id of a file that *uid* just opened."""
        del uid
        self.store(file.node.nodeid, file)
        return _CACHED_ANEW if self._union.is_reading_noted(file.handle) else _CACHED

    def released(self, nodeid: int, flags: int) -> None:
        """Note that a file that was opened with *flags* is closed."""

    def restore(self, nodeid: int, flags: int, backing: int, *, to_root: bool) -> None:
        """Take over a file that the last server opened with *flags*, and lent to the kernel if *backing* is not 0."""

    def forgotten(self, nodeid: int) -> None:
        """Note that the kernel dropped the inode, and its pages with it."""
        self._stored.discard(nodeid)

    def has_opened(self, nodeid: int) -> bool:
        """Tell whether a lower file was opened since the kernel knows it, so that its pages may be in the cache."""
        return nodeid in self._stored

    def drop_attributes(self, nodeid: int) -> None:
        """Have the kernel ask again for the attributes of *nodeid*."""
        self._notify(wire.notification(Notify.INVAL_INODE, wire.INVAL_INODE.pack(nodeid, -1, 0)))

    def drop_listing(self, nodeid: int) -> None:
        """Have the kernel list the directory *nodeid* anew."""
        self._notify(wire.notification(Notify.INVAL_INODE, wire.INVAL_INODE.pack(nodeid, 0, 0)))

    def store(self, nodeid: int, file: "OpenFile") -> None:
        """Fill the page cache with a small lower file, the first time it is opened."""
        if file.writable_layer or nodeid in self._stored:
            return
        self._stored.add(nodeid)
        try:
            data = os.pread(file.fd, STORE_LIMIT + 1, 0)
        except OSError:  # a reader will be told
            return
        if 0 < len(data) <= STORE_LIMIT:
            head = wire.notification(Notify.STORE, wire.STORE.pack(nodeid, 0, len(data)), len(data))
            self._notify(head, data)

    def _notify(self, *parts: bytes) -> None:
        try:
            os.writev(self._device, parts)
        except OSError as exc:
            if exc.errno not in {errno.ENOENT, errno.ENODEV, errno.ECONNABORTED}:  # the kernel has no such inode
                raise


class Passthrough(Cached):
    """The mode of each open file where the kernel can pass through."""

    def __init__(self, union: "Union", device: int) -> None:
        super().__init__(union, device)
        self._cached: dict[int, int] = {}
        """Nodes with cached opens, and how many."""

    def opened(self, file: "OpenFile", uid: int) -> tuple[int, int]:
        nodeid, access = file.node.nodeid, file.flags & os.O_ACCMODE
        writes = access != os.O_RDONLY
        lent = self.lent.get(nodeid)
        if lent is None:
            passable = file.writable_layer and nodeid not in self._cached
            lent = self._lend(nodeid, file.fd, to_root=uid == 0 or not writes) if passable else None
            if lent is None:
                return self._open_cached(nodeid, file)
        lent.count += 1
        if access == os.O_RDWR:
            self._map(nodeid)
        return (_ASKING if writes and lent.to_root and uid else _THROUGH), lent.backing

    def _open_cached(self, nodeid: int, file: "OpenFile") -> tuple[int, int]:
        others = self._cached.get(nodeid, 0)
        self._cached[nodeid] = others + 1
        self.store(nodeid, file)
        return _CACHED_ANEW if file.writable_layer and not others else _CACHED

    def _lend(self, nodeid: int, fd: int, *, to_root: bool) -> _Lent | None:
        try:
            if to_root:
                backing = fusedev.backing_open(self._device, fd)
            elif os.fstat(fd).st_mode & _SET_ID:
                return None
            else:
                with capabilities.without(capabilities.FSETID):
                    backing = fusedev.backing_open(self._device, fd)
        except OSError:  # a stacked or exotic file system below
            return None
        lent = self.lent[nodeid] = _Lent(backing, to_root=to_root)
        return lent

    def restore(self, nodeid: int, flags: int, backing: int, *, to_root: bool) -> None:
        if not backing:
            self._cached[nodeid] = self._cached.get(nodeid, 0) + 1
            return
        self.lent.setdefault(nodeid, _Lent(backing, to_root=to_root)).count += 1
        if flags & os.O_ACCMODE == os.O_RDWR:
            self._map(nodeid)

    def _map(self, nodeid: int) -> None:
        others = self.changing.get(nodeid, 0)
        self.changing[nodeid] = others + 1
        if not others:
            self.drop_attributes(nodeid)

    def released(self, nodeid: int, flags: int) -> None:
        lent = self.lent.get(nodeid)
        if lent is None:
            _count_down(self._cached, nodeid)
            return
        if flags & os.O_ACCMODE == os.O_RDWR:
            _count_down(self.changing, nodeid)
        lent.count -= 1
        if not lent.count:
            del self.lent[nodeid]
            fusedev.backing_close(self._device, lent.backing)


def _count_down(counts: dict[int, int], key: int) -> None:
    left = counts.get(key, 1) - 1
    if left:
        counts[key] = left
    else:
        counts.pop(key, None)
