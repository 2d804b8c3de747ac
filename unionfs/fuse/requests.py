"""What each request asks of the union: unwrap, ask, wrap.

A handler takes the node, the body of the request and its header, and returns the body of the reply;
None where the protocol wants no reply; a `Job`, when the reply is empty and comes after it; a `Span`
of a file, which is the reply but better not read; or a number, which is an errno so common that an
exception would cost more than the request. Otherwise errors are exceptions: an `OSError` is an answer,
`Deferred` asks to be called again, anything else is a bug. Nothing here reads or writes the device, waits,
or decides where a name is.

What the union is not asked for, and why:

* Locks (GETLK, SETLK, SETLKW) are not negotiated: the kernel keeps them itself, for all openers of
  an inode, and they survive copy-up because the inode does.
* FLUSH is answered ENOSYS, once, after which the kernel stops sending it: with no writeback cache
  there is nothing to flush, and one request for each close would be the most frequent of all.
* Most files have no extended attribute, and are asked for some all the same: security.capability before the
  first write after each look at their attributes, a label and an ACL by each ``ls -l``. So the first
  question is answered by listing them, and where there are none, so are all the others.
* OPENDIR and RELEASEDIR are answered ENOSYS, once: see ``listing.py``. With strictatime they are answered.
* ACCESS never comes with default_permissions; BMAP and POLL are for devices.
"""

import errno
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from unionfs.core import files
from unionfs.core.jobs import Job
from unionfs.core.mountoptions import FOREVER_S, MountOptions
from unionfs.core.nodes import File, Node
from unionfs.core.request import Caller, Changes
from unionfs.fuse import fsioctl, wire
from unionfs.fuse.listing import Listing, Listings, Page
from unionfs.fuse.protocol import (
    FSYNC_FDATASYNC,
    OPEN_KILL_SUIDGID,
    SETXATTR_ACL_KILL_SGID,
    WRITE_KILL_SUIDGID,
    Feature,
    Opcode,
)
from unionfs.fuse.setid import dropping_group_bit
from unionfs.fuse.splicing import SMALLEST, Span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unionfs.core.union import Entry, Union
    from unionfs.fuse.notes import Notes
    from unionfs.fuse.passthrough import Cached

__all__ = ["Answer", "Handler", "Head", "Requests"]

Head = tuple[int, int, int, int, int, int, int, int, int]
"""A decoded `wire.HEADER`."""

Answer = bytes | memoryview | Span | Job | int | None

Handler = Callable[[int, memoryview, Head], Answer]

COPY_LIMIT: Final = 16 << 20
"""Bytes copied by one COPY_FILE_RANGE: the caller asks for the rest, others are served between."""

_DONE: Final = b""
_SET_ID: Final = stat.S_ISUID | stat.S_ISGID
_CAPABILITY: Final = b"security.capability"
_NAMESPACES: Final = (b"user.", b"security.", b"trusted.", b"system.posix_acl_")
"""Of attributes in others it matters whether there are any such, which the layer's file system says."""
_DOTS: Final = (b".", b"..")
_NO_ENTRY: Final = bytes(wire.ENTRY.size)


class Requests:
    """The handlers of one mount, by opcode, over one union."""

    copies_up = True
    """False where no file ever changes its layer."""

    def __init__(self, union: "Union", modes: "Cached", options: "MountOptions", features: Feature) -> None:
        self._union = union
        self._modes = modes
        self._entry_valid = wire.validity(options.entry_timeout)
        self._attr_valid = wire.validity(options.attr_timeout)
        self._negative = wire.negative(wire.validity(options.negative_timeout))
        self._setxattr = wire.SETXATTR_EXT if features & Feature.SETXATTR_EXT else wire.SETXATTR
        self._bare: set[int] = set()
        """Nodes made here, which have no security.capability."""
        self._plain: set[int] = set()
        """Nodes that were found to have no extended attribute at all."""
        self._listings = Listings(union)
        self._keeps_pages = not union.noting.always and min(options.entry_timeout, options.attr_timeout) >= FOREVER_S
        union.on_renumbering(self._renumbered)
        union.on_merging(self._merged)
        self._notes: Notes | None = None
        """Where it is written down which nodes the kernel knows; None where nobody will take this mount over."""
        self._data = memoryview(bytearray(1 << 20))
        self.table: dict[int, Handler] = {int(Opcode[name.upper()]): getattr(self, name) for name in _LOOKING}
        self.table |= {int(Opcode[name.upper()]): self._changing(getattr(self, name)) for name in _CHANGING}
        if union.noting.always:  # a listing in the kernel's cache would not be noted
            self.table |= {int(Opcode.OPENDIR): self.opendir, int(Opcode.RELEASEDIR): self.releasedir}

    def note_in(self, notes: "Notes") -> None:
        """Begin to write down what a successor must know; before the first request."""
        self._notes = notes
        self._union.on_nameless_copy(notes.nameless)

    def _renumbered(self, node: Node) -> None:
        self._listings.pages.clear()  # it may be a job that did it, for nobody who still waits
        self._modes.drop_listing(node.parent.nodeid)

    def _merged(self, node: Node) -> None:
        self._listings.pages.clear()
        self._modes.drop_attributes(node.nodeid)

    def _changing(self, handler: Handler) -> Handler:
        """Return *handler* for a request after which listings may say something else."""
        clear = self._listings.pages.clear

        def change(nodeid: int, body: memoryview, head: Head) -> Answer:
            clear()
            return handler(nodeid, body, head)

        return change

    # Names and nodes.

    def lookup(self, nodeid: int, body: memoryview, _head: Head) -> Answer:
        found = self._union.find(nodeid, bytes(body[:-1]))
        return self._negative if found is None else self._entry(found)

    def forget(self, nodeid: int, body: memoryview, _head: Head) -> Answer:
        self._forget([(nodeid, wire.FORGET.unpack_from(body)[0])])
        return None

    def batch_forget(self, _nodeid: int, body: memoryview, _head: Head) -> Answer:
        self._forget(wire.forgets(body))
        if self._notes is not None:
            self._notes.tidy()
        return None

    def _forget(self, forgets: "Sequence[tuple[int, int]]") -> None:
        """Take back lookups: of which nodes, and how many."""
        if self._notes is not None:
            self._notes.forgotten(forgets)
        for nodeid, count in forgets:
            self._bare.discard(nodeid)
            self._plain.discard(nodeid)
            self._modes.forgotten(nodeid)
            self._union.forget(nodeid, count)

    def getattr(self, nodeid: int, _body: memoryview, _head: Head) -> Answer:
        return self._attributes(self._union.getattr(nodeid))

    def statx(self, nodeid: int, _body: memoryview, _head: Head) -> Answer:
        """Asked only by who wants to know the birth time; everybody else sends GETATTR."""
        node, st = self._union.getattr(nodeid)
        return wire.statxed(node.ino, st, self._union.birth_time_ns(nodeid), self._valid(node, st))

    def setattr(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        changes, fh = wire.setattr_changes(body)
        if not head[4] or (changes.uid, changes.gid, changes.size) == (None, None, None):
            return self._attributes(self._union.setattr(nodeid, changes, fh))
        with dropping_group_bit(self._union, nodeid, head):
            self._union.setattr(nodeid, changes, fh)
        return self._attributes(self._union.getattr(nodeid))

    def readlink(self, nodeid: int, _body: memoryview, _head: Head) -> Answer:
        return self._union.readlink(nodeid)

    def mknod(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        mode, rdev, umask = wire.MKNOD.unpack_from(body)
        name = wire.name(body[wire.MKNOD.size :])
        return self._entry(self._union.mknod(nodeid, name, mode, rdev, _caller(head, umask)))

    def mkdir(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        mode, umask = wire.MKDIR.unpack_from(body)
        name = wire.name(body[wire.MKDIR.size :])
        return self._entry(self._union.mkdir(nodeid, name, mode, _caller(head, umask)))

    def symlink(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        name, target = wire.names(body)
        return self._entry(self._union.symlink(nodeid, name, target, _caller(head, 0)))

    def link(self, nodeid: int, body: memoryview, _head: Head) -> Answer:
        (old,) = wire.LINK.unpack_from(body)
        return self._entry(self._union.link(old, nodeid, wire.name(body[wire.LINK.size :])))

    def unlink(self, nodeid: int, body: memoryview, _head: Head) -> Answer:
        self._union.unlink(nodeid, wire.name(body))
        return _DONE

    def rmdir(self, nodeid: int, body: memoryview, _head: Head) -> Answer:
        self._union.rmdir(nodeid, wire.name(body))
        return _DONE

    def rename(self, nodeid: int, body: memoryview, _head: Head) -> Answer:
        (target,) = wire.RENAME.unpack_from(body)
        old, new = wire.names(body[wire.RENAME.size :])
        self._union.rename(nodeid, old, target, new)
        return _DONE

    def rename2(self, nodeid: int, body: memoryview, _head: Head) -> Answer:
        target, flags = wire.RENAME2.unpack_from(body)
        old, new = wire.names(body[wire.RENAME2.size :])
        self._union.rename(nodeid, old, target, new, flags)
        return _DONE

    # Open files.

    def create(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        flags, mode, umask, _ = wire.CREATE.unpack_from(body)
        name = wire.name(body[wire.CREATE.size :])
        node, st, fh = self._union.create(nodeid, name, mode, flags, _caller(head, umask))
        self._bare.add(node.nodeid)
        opened = self._opened(fh, head)  # first: the mode decides how long attributes hold
        return self._entry((node, st)) + opened

    def tmpfile(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        flags, mode, umask, _ = wire.CREATE.unpack_from(body)
        node, st, fh = self._union.tmpfile(nodeid, mode, flags, _caller(head, umask))
        self._bare.add(node.nodeid)
        opened = self._opened(fh, head)
        return self._entry((node, st)) + opened

    def open(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        flags, kill = wire.OPEN.unpack_from(body)
        if kill & OPEN_KILL_SUIDGID:
            fh = self._union.open(nodeid, flags)
            self._drop_set_id(nodeid, fh, head)
        else:
            fh = self._union.open(nodeid, flags, again=self._modes.has_opened(nodeid))
        return self._opened(fh, head)

    def _opened(self, fh: int, head: Head) -> bytes:
        """Return what the kernel is told of a file that was opened for it."""
        return wire.OPENED.pack(fh, *self._modes.opened(self._union.file(fh), head[4]))

    def release(self, nodeid: int, body: memoryview, _head: Head) -> Answer:
        fh, flags, _ = wire.RELEASE.unpack_from(body)
        self._modes.released(nodeid, flags)
        self._union.release(fh)
        return _DONE

    def read(self, _nodeid: int, body: memoryview, _head: Head) -> Answer:
        return self._read(*wire.READ.unpack_from(body))

    def _read(self, fh: int, offset: int, size: int) -> memoryview | Span:
        fd = self._union.file(fh).fd
        return Span(fd, offset, size) if size >= SMALLEST else self.data(fd, offset, size)

    def data(self, fd: int, offset: int, size: int) -> memoryview:
        """Read into a buffer that is good until the next call: a fresh one would be zeroed page by page.

        The kernel takes a short answer for the end of the file; see `files.fill`.
        """
        data = self._data[:size]
        return data[: files.fill(fd, data, offset)]

    def write(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        fh, offset, flags, data = wire.write_data(body)
        if flags & WRITE_KILL_SUIDGID:
            self._drop_set_id(nodeid, fh, head)
        return wire.WRITTEN.pack(self._union.write(fh, data, offset))

    def _drop_set_id(self, nodeid: int, fh: int, head: Head) -> None:
        """Take the set-id bits from an open file before its data change, for who may not keep them.

        They are gone also where the change fails then, as under the kernel, so the kernel must ask for the mode again.
        """
        with dropping_group_bit(self._union, nodeid, head):
            self._union.drop_set_id(fh)
        self._modes.drop_attributes(nodeid)

    def fsync(self, _nodeid: int, body: memoryview, _head: Head) -> Answer:
        fh, flags = wire.FSYNC.unpack_from(body)
        return self._union.fsync(fh, bool(flags & FSYNC_FDATASYNC)) or _DONE

    def fallocate(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        fh, offset, length, mode = wire.FALLOCATE.unpack_from(body)
        if head[4]:
            self._drop_set_id(nodeid, fh, head)
        self._union.fallocate(fh, mode, offset, length)
        return _DONE

    def lseek(self, _nodeid: int, body: memoryview, _head: Head) -> Answer:
        fh, offset, whence = wire.LSEEK.unpack_from(body)
        return wire.OFFSET.pack(self._union.lseek(fh, offset, whence))

    def copy_file_range(self, _nodeid: int, body: memoryview, head: Head) -> Answer:
        return wire.WRITTEN.pack(self._copy(body, head))

    def copy_file_range_64(self, _nodeid: int, body: memoryview, head: Head) -> Answer:
        return wire.OFFSET.pack(self._copy(body, head))

    def _copy(self, body: memoryview, head: Head) -> int:
        source, at, nodeid, target, to, length, flags = wire.COPY.unpack_from(body)
        if head[4]:
            self._drop_set_id(nodeid, target, head)
        return self._union.copy_file_range(source, at, target, to, min(length, COPY_LIMIT), flags)

    def ioctl(self, nodeid: int, body: memoryview, _head: Head) -> Answer:
        request = wire.ioctl(body)
        if request.cmd not in fsioctl.KNOWN:
            return errno.ENOTTY
        answer = fsioctl.answer(self._union, nodeid, request)
        if request.cmd in fsioctl.CHANGING:
            self._modes.drop_attributes(nodeid)  # it has moved the ctime
        return answer

    # Directories.

    def opendir(self, _nodeid: int, _body: memoryview, _head: Head) -> Answer:
        return wire.OPENED.pack(0, 0, 0)

    def releasedir(self, _nodeid: int, _body: memoryview, _head: Head) -> Answer:
        return _DONE

    def fsyncdir(self, nodeid: int, body: memoryview, _head: Head) -> Answer:
        _, flags = wire.FSYNC.unpack_from(body)
        handle = self._union.opendir(nodeid)
        try:
            return self._union.fsyncdir(handle, bool(flags & FSYNC_FDATASYNC)) or _DONE
        finally:
            self._union.releasedir(handle)

    def readdir(self, nodeid: int, body: memoryview, _head: Head) -> Answer:
        _, offset, size = wire.READ.unpack_from(body)
        listing = self._listings.at(nodeid, offset)
        entries = listing.fitting(offset, size, wire.DIRENT.size)
        return self._page(nodeid, [_named(listing, index) for index in entries])

    def readdirplus(self, nodeid: int, body: memoryview, _head: Head) -> Answer:
        _, offset, size = wire.READ.unpack_from(body)
        page = self._listings.pages.get((nodeid, offset, size))
        if page is not None:
            for node in page.nodes:
                node.lookups += 1
            if self._notes is not None:
                self._notes.told_again(page.nodes)
            return page.answer
        listing = self._listings.at(nodeid, offset)
        entries = listing.fitting(offset, size, wire.DIRENTPLUS.size)  # each one that is sent must be forgotten again
        nodes: list[Node] = []
        answer = self._page(nodeid, self._described(nodeid, listing, entries, nodes))
        if self._keeps_pages and not self._modes.lent:  # what is lent changes without a request
            self._listings.pages.keep((nodeid, offset, size), Page(answer, nodes))
        return answer

    def _described(self, parent: int, listing: Listing, entries: range, nodes: "list[Node]") -> list[bytes]:
        """Return *entries* with what they are; add those of which the kernel is told so to *nodes*."""
        at = max(entries.start, min(len(_DOTS), entries.stop))
        out = [_NO_ENTRY + _named(listing, index) for index in range(entries.start, at)]
        offsets, names = listing.offsets, listing.names[at : entries.stop]
        found = self._union.lookup_all(parent, names)
        listed = [(name, each[0]) for name, each in zip(names, found, strict=True) if isinstance(each, tuple)]
        if self._notes is not None:
            self._notes.told_all(parent, listed)
        nodes += [node for _, node in listed]
        lasting, changes = (self._entry_valid, self._attr_valid), self._modes.changing or self._modes.lent
        for index, name, each in zip(range(at, entries.stop), names, found, strict=True):
            if isinstance(each, tuple):
                node, st = each
                times = lasting
                if changes or st.st_nlink > 1:
                    times = self._entry_valid, self._valid(node, st)
                out.append(wire.direntplus(node.nodeid, times, node.ino, st, offsets[index], name))
            elif each is not None:  # a lookup of its own will say what is wrong
                out.append(_NO_ENTRY + _named(listing, index))
        return out

    def _page(self, nodeid: int, records: list[bytes]) -> bytes:
        if not records:
            self._listings.end(nodeid)
        return b"".join(records)

    # Attributes beyond the inode's, and the whole file system.

    def getxattr(self, nodeid: int, body: memoryview, _head: Head) -> Answer:
        name = wire.name(body[wire.GETXATTR.size :])
        if name.startswith(_NAMESPACES) and not name.endswith(b"."):  # the mere prefix is no name, and told so
            if nodeid in self._plain or (name == _CAPABILITY and nodeid in self._bare):
                return errno.ENODATA
            if not self._union.listxattr(nodeid):
                self._plain.add(nodeid)
                return errno.ENODATA
        (size,) = wire.GETXATTR.unpack_from(body)
        return _sized(self._union.getxattr(nodeid, name), size)

    def listxattr(self, nodeid: int, body: memoryview, head: Head) -> Answer:
        (size,) = wire.GETXATTR.unpack_from(body)
        return _sized(b"".join(name + b"\0" for name in self._union.listxattr(nodeid, head[4])), size)

    def setxattr(self, nodeid: int, body: memoryview, _head: Head) -> Answer:
        name, value, flags, extra = wire.setxattr(body, self._setxattr)
        self._bare.discard(nodeid)
        self._plain.discard(nodeid)
        self._union.setxattr(nodeid, name, value, flags)
        if extra & SETXATTR_ACL_KILL_SGID:
            mode = self._union.getattr(nodeid)[1].st_mode
            if mode & stat.S_ISGID:
                self._union.setattr(nodeid, Changes(mode=mode & 0o7777 & ~stat.S_ISGID))
        return _DONE

    def removexattr(self, nodeid: int, body: memoryview, _head: Head) -> Answer:
        self._union.removexattr(nodeid, wire.name(body))
        return _DONE

    def statfs(self, _nodeid: int, _body: memoryview, _head: Head) -> Answer:
        return wire.statfs(self._union.statfs())

    def syncfs(self, _nodeid: int, _body: memoryview, _head: Head) -> Answer:
        return self._union.syncfs() or _DONE

    def destroy(self, _nodeid: int, _body: memoryview, _head: Head) -> Answer:
        return _DONE

    # Wrapping.

    def _entry(self, found: "Entry") -> bytes:
        node, st = found
        if self._notes is not None:
            self._notes.told(node, node.parent.nodeid, node.name)
        return wire.entry(node.nodeid, node.ino, st, self._entry_valid, self._valid(node, st))

    def _attributes(self, found: "Entry") -> bytes:
        node, st = found
        return wire.attributes(node.ino, st, self._valid(node, st))

    def _valid(self, node: Node, st: os.stat_result) -> wire.Validity:
        """Return for how long the kernel need not ask again: not at all while it would miss a change."""
        modes, nodeid = self._modes, node.nodeid
        if st.st_nlink > 1 and self.copies_up and isinstance(node, File) and not node.is_upper:
            return wire.NEVER  # an open for writing may change number and links, and its reply cannot say so
        if nodeid in modes.changing or (st.st_mode & _SET_ID and nodeid in modes.lent):
            return wire.NEVER
        return self._attr_valid


_LOOKING: Final = (
    *("lookup", "getattr", "statx", "release", "lseek", "readdir", "readdirplus"),
    *("getxattr", "listxattr", "statfs", "destroy"),
)
_CHANGING: Final = (
    *("forget", "batch_forget", "setattr", "mknod", "mkdir", "symlink", "link", "unlink", "rmdir", "rename", "rename2"),
    *("create", "tmpfile", "open", "write", "fsync", "fallocate", "copy_file_range", "copy_file_range_64", "ioctl"),
    *("fsyncdir", "setxattr", "removexattr", "syncfs", "read", "readlink"),  # the last two an access time
)
"""Requests with a handler of their name; every other opcode is answered ENOSYS."""


def _named(listing: Listing, index: int) -> bytes:
    return wire.dirent(listing.inos[index], listing.offsets[index], listing.kinds[index], listing.names[index])


def _caller(head: Head, umask: int) -> Caller:
    return tuple.__new__(Caller, (head[4], head[5], umask, head[6]))  # without a call of its own in between


def _sized(value: bytes, size: int) -> bytes:
    """Answer a question that is asked twice: first for the size (0), then for the value."""
    if size == 0:
        return wire.SIZE.pack(len(value))
    if len(value) > size:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    return value
