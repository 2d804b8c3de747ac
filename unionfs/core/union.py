"""The union behind one method per request: node ids and handles in, plain values out.

This is a facade; the rules are in the modules it calls. It is synchronous and belongs to one thread.
Attributes are `os.stat_result` values of the real files, except that their st_ino is the layer's
own: what users see is ``node.ino``. A method that hands out a node counts one lookup of it, which
`forget` takes back, as in the kernel's protocol.
"""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, final

from unionfs.core import attrs, dirops, fileflags, files, find, readdir, xattrs
from unionfs.core import rename as renaming
from unionfs.core.accesstimes import Noting
from unionfs.core.config import Config, Fsync
from unionfs.core.files import OpenFile
from unionfs.core.find import Entry
from unionfs.core.jobs import Job
from unionfs.core.nodes import Dir, File, Node
from unionfs.core.readdir import OpenDirectory
from unionfs.core.request import Caller, Changes, DirEntry
from unionfs.core.stack import close_stack, descriptors_of, open_stack
from unionfs.linux import fileops
from unionfs.names import Handle

if TYPE_CHECKING:
    from unionfs.core.awaited import Known
    from unionfs.core.restore import Restoring

__all__ = ["Entry", "OpenFile", "Opened", "Union"]

Opened = tuple[Node, os.stat_result, Handle]
_Result = TypeVar("_Result")
Buffer = bytes | bytearray | memoryview


@final
class Union:
    """One open union. Use it as a context manager, or `close` it."""

    def __init__(self, config: Config, *, defer: bool = False, given: Sequence[int] = ()) -> None:
        """Open and lock the layers of *config*.

        With *defer*, long copy-ups raise `Deferred` instead of blocking the caller. *given* are the `descriptors`
        of a union of the same configuration, whose process has died and whose place this one takes.

        Raises:
            StackError: the layers cannot be stacked.
        """
        self.config = config
        self._state = open_stack(config, defer=defer, given=given)
        self._nodes = self._state.nodes
        self._files = self._state.files
        self._syncs_names = config.dirsync and config.fsync is not Fsync.VOLATILE

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the layers and empty the work directory. No method may be called afterwards."""
        close_stack(self._state)

    def on_copy_up(self, call: Callable[[File], None]) -> None:
        """Have *call* told of each file just before its open handles move to the upper layer."""
        self._state.on_copy_up = call

    def on_renumbering(self, call: Callable[[File], None]) -> None:
        """Have *call* told of each file that has just got another number: a listing may still show the old one."""
        self._state.on_renumbering = call

    def on_merging(self, call: Callable[[Dir], None]) -> None:
        """Have *call* told of each directory of one layer that has just become a merged one, which has one link."""
        self._state.on_merging = call

    def on_nameless_copy(self, call: Callable[[File], None]) -> None:
        """Have *call* told of each file without a name whose open handles have just moved to a copy."""
        self._state.on_nameless_copy = call

    # taking over

    def descriptors(self) -> list[int]:
        """Return the descriptors that hold the layers and their locks; who has copies of them can carry on."""
        return descriptors_of(self._state)

    def restoring(self) -> "Restoring":
        """Return the means to put back what another process knew; before any request."""
        from unionfs.core.restore import Restoring  # noqa: PLC0415 - milliseconds that no other mount need pay

        return Restoring(self._state)

    def node(self, nodeid: int) -> Node:
        return self._nodes[nodeid]

    def child(self, parent: int, name: bytes) -> Node | None:
        """Return the node of *name* if the kernel was told of it; counts no lookup."""
        above = self._nodes[parent]
        if not isinstance(above, Dir):
            return None
        node = above.children.get(name)
        awaited = self._nodes.awaited
        if node is None and awaited is not None:
            return awaited.find_named(parent, name)
        return node

    def shows(self, parent: int, name: bytes) -> bool:
        """Tell whether *name* is there; makes no node."""
        return find.is_visible(self._state, self._nodes.directory(parent), name)

    def discard(self, parent: int, name: bytes) -> None:
        """Remove *name*, whatever it is: an empty directory or anything else."""
        above = self._nodes.directory(parent)
        remove = dirops.rmdir if isinstance(find.peek(self._state, above, name), Dir) else dirops.unlink
        remove(self._state, above, name)

    def nodes(self) -> Iterator[Node]:
        """Yield every node that this process has seen and the kernel knows."""
        return iter(self._nodes)

    def next_numbers(self) -> tuple[int, int]:
        """Return the last handle and the next node id that is no inode number."""
        return self._files.last, self._nodes.next

    def awaited(self) -> Iterator["Known"]:
        """Yield those that it has not seen yet."""
        return iter(self._nodes.awaited or ())

    # names

    def lookup(self, parent: int, name: bytes) -> Entry:
        """Do what `find` does for a name that is there.

        Raises:
            FileNotFoundError: the union shows no such name.
        """
        found = self.find(parent, name)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return found

    def find(self, parent: int, name: bytes) -> Entry | None:
        """Return what *name* is, or None if the union shows no such name, which is no error where names are asked for.

        ``.`` and ``..`` are answered too. Counts one lookup.
        """
        node = self._nodes.directory(parent)
        if name in {b".", b".."}:
            node = node.parent if name == b".." else node
            node.lookups += 1
            return node, attrs.stat_of(node)
        return find.lookup(self._state, node, name)

    def lookup_all(self, parent: int, names: Sequence[bytes]) -> list[Entry | OSError | None]:
        """Find each of *names*, which are of a listing of *parent*; count one lookup of each that is found."""
        return find.lookup_all(self._state, self._nodes.directory(parent), names)

    def forget(self, nodeid: int, nlookup: int) -> None:
        """Take back *nlookup* lookups."""
        if nodeid in self._files.kept and self._nodes[nodeid].lookups <= nlookup:
            files.let_go(self._state, nodeid)
        self._nodes.forget(nodeid, nlookup)

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Entry:
        """Make a device, fifo, socket or empty regular file; *mode* has the type bits. Counts one lookup."""
        above = self._nodes.directory(parent)
        return self._settled(dirops.make(self._state, above, name, mode, rdev, caller), above)

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Entry:
        """Make a directory. Counts one lookup."""
        above = self._nodes.directory(parent)
        return self._settled(dirops.make(self._state, above, name, (mode & 0o7777) | 0o040000, 0, caller), above)

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Entry:
        """Make a symlink to *target*. Counts one lookup."""
        above = self._nodes.directory(parent)
        return self._settled(dirops.symlink(self._state, above, name, target, caller), above)

    def link(self, nodeid: int, newparent: int, newname: bytes) -> Entry:
        """Give a file a further name. Counts one lookup."""
        node = self._nodes[nodeid]
        if not isinstance(node, File):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        above = self._nodes.directory(newparent)
        st = dirops.link(self._state, node, above, newname)
        node.lookups += 1
        return self._settled((node, st), above)

    def unlink(self, parent: int, name: bytes) -> None:
        """Remove the name of anything but a directory."""
        above = self._nodes.directory(parent)
        dirops.unlink(self._state, above, name)
        if self._syncs_names:
            files.settle(above)

    def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory."""
        above = self._nodes.directory(parent)
        dirops.rmdir(self._state, above, name)
        if self._syncs_names:
            files.settle(above)

    def rename(self, parent: int, name: bytes, newparent: int, newname: bytes, flags: int = 0) -> None:
        """Rename; *flags* as renameat2(2)."""
        old = renaming.End(self._nodes.directory(parent), name)
        new = renaming.End(self._nodes.directory(newparent), newname)
        renaming.rename(self._state, old, new, flags)
        if self._syncs_names:
            files.settle(old.parent, new.parent)

    def _settled(self, result: _Result, above: Dir) -> _Result:
        if self._syncs_names:
            files.settle(above)
        return result

    def readlink(self, nodeid: int) -> bytes:
        """Return the target of a symlink."""
        node = self._nodes.file(nodeid)
        if node.is_gone and node.is_upper:
            kept = self._files.kept.get(nodeid)
            if isinstance(kept, bytes):
                return kept
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return os.readlink(node.real, dir_fd=node.place.fd())

    # attributes

    def getattr(self, nodeid: int, fh: int | None = None) -> Entry:  # noqa: ARG002 - the kernel's request has it
        """Return the attributes, also of a file that has no name any more but is open (as *fh*, for one)."""
        node = self._nodes[nodeid]
        return node, attrs.stat_of(node)

    def birth_time_ns(self, nodeid: int) -> int | None:
        """Return when the file that is shown was made, in nanoseconds; None if its layer does not say."""
        return attrs.birth_time_ns(self._nodes[nodeid])

    def setattr(self, nodeid: int, changes: Changes, fh: int | None = None) -> Entry:
        """Change attributes and return the new ones; *fh* is the open file ftruncate was called on."""
        node = self._nodes[nodeid]
        opened = self._files.files.get(fh) if fh is not None else None
        fd = opened.fd if opened is not None and opened.writable_layer else None
        attrs.change(self._state, node, changes, fd)
        return node, attrs.stat_of(node)

    def getxattr(self, nodeid: int, name: bytes) -> bytes:
        """Return an extended attribute; ENODATA if it is not set."""
        return xattrs.getxattr(self._state, self._nodes[nodeid], name)

    def listxattr(self, nodeid: int, uid: int = 0) -> list[bytes]:
        """Return the names of the extended attributes that the user *uid* may know of."""
        names = xattrs.listxattr(self._state, self._nodes[nodeid])
        return names if uid == 0 else [name for name in names if not name.startswith(b"trusted.")]

    def setxattr(self, nodeid: int, name: bytes, value: bytes, flags: int = 0) -> None:
        """Set an extended attribute; *flags* is os.XATTR_CREATE, os.XATTR_REPLACE or 0."""
        xattrs.setxattr(self._state, self._nodes[nodeid], name, value, flags)

    def removexattr(self, nodeid: int, name: bytes) -> None:
        """Remove an extended attribute; ENODATA if it is not set."""
        xattrs.removexattr(self._state, self._nodes[nodeid], name)

    def getflags(self, nodeid: int) -> int:
        """Return the file flags of chattr(1) (FS_IOC_GETFLAGS)."""
        return fileflags.of_node(self._state, self._nodes[nodeid])

    def setflags(self, nodeid: int, flags: int) -> None:
        """Set the file flags of chattr(1) (FS_IOC_SETFLAGS)."""
        fileflags.change(self._state, self._nodes[nodeid], flags)

    # open files

    def create(self, parent: int, name: bytes, mode: int, flags: int, caller: Caller) -> Opened:
        """Make and open a regular file. Counts one lookup."""
        above = self._nodes.directory(parent)
        return self._settled(dirops.create(self._state, above, name, mode, flags, caller), above)

    def tmpfile(self, parent: int, mode: int, flags: int, caller: Caller) -> Opened:
        """Make and open a regular file without a name (O_TMPFILE). Counts one lookup."""
        return dirops.tmpfile(self._state, self._nodes.directory(parent), mode, flags, caller)

    def open(self, nodeid: int, flags: int, *, again: bool = False) -> Handle:
        """Open a regular file; for writing, it is copied up first (without its data for O_TRUNC).

        *again*: the caller has opened it before and may have what he read; a lower file is then opened when it is read.
        """
        return files.open_file(self._state, self._nodes.file(nodeid), flags, again=again)

    def file(self, fh: int) -> OpenFile:
        """Return what is behind a handle, for engines that hand the descriptor to the kernel."""
        return self._files[fh]

    def has_attribute(self, nodeid: int, name: bytes) -> bool:
        try:
            self.getxattr(nodeid, name)
        except OSError as exc:
            if exc.errno != errno.ENODATA:
                raise
            return False
        return True

    def has_file(self, fh: int) -> bool:
        return fh in self._files.files

    def appended(self, fh: int, offset: int, size: int) -> int:
        """Return how many of *size* bytes a file that can only be appended to has got at *offset*, its end before."""
        file = self._files[fh]
        if not fileops.appends(file.fd):
            return 0
        return min(max(os.fstat(file.fd).st_size - offset, 0), size)

    def read(self, fh: int, size: int, offset: int) -> bytes:
        """Return up to *size* bytes from *offset*; fewer only at the end of the file."""
        fd = self._files[fh].fd
        data = os.pread(fd, size, offset)
        if not files.may_go_on(len(data), size):
            return data
        rest = bytearray(size - len(data))
        return data + bytes(rest[: files.fill(fd, rest, offset + len(data))])

    def write(self, fh: int, data: Buffer, offset: int, *, kill_priv: bool = False) -> int:
        """Write *data* at *offset*; with *kill_priv* the set-id bits go first. Returns the bytes written."""
        return files.write(self._state, fh, data, offset, kill_priv=kill_priv)

    def flush(self, fh: int) -> None:
        """Nothing: a close reports no error, because every write has already reached the layer's file."""

    def release(self, fh: int) -> None:
        """Close an open file."""
        files.release(self._state, fh)

    def fsync(self, fh: int, datasync: bool) -> Job | None:
        """Return the work of writing the file through, or None if there is nothing to do."""
        return files.fsync(self._state, fh, datasync)

    def drop_set_id(self, fh: int) -> None:
        """Take the set-id bits from an open file, whose data somebody without privilege is about to change.

        Raises:
            OSError: EBADF, it is a lower layer's, and so was not opened for a change.
        """
        opened = self._files[fh]
        if not opened.writable_layer:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        attrs.drop_set_id(opened.node, opened.fd)

    def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        """Allocate or release space, as fallocate(2)."""
        files.fallocate(self._state, fh, mode, offset, length)

    def lseek(self, fh: int, offset: int, whence: int) -> int:
        """Find data or a hole."""
        return files.lseek(self._state, fh, offset, whence)

    def copy_file_range(self, fh_in: int, off_in: int, fh_out: int, off_out: int, length: int, flags: int = 0) -> int:
        """Copy between two open files without moving the data through memory; return the bytes copied."""
        if flags:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return files.copy_file_range(self._state, (fh_in, off_in), (fh_out, off_out), length)

    @property
    def noting(self) -> Noting:
        """Return which access times reading changes."""
        return self._state.noting

    def is_reading_noted(self, fh: int) -> bool:
        """Tell whether reading the open file now would change its access time; reading it in a cache would not."""
        return self._state.noting.is_due(self._files[fh])

    # directories

    def is_listing_noted(self, nodeid: int) -> bool:
        """Tell whether listing the directory may change its access time."""
        return self._state.noting.directories and self._nodes.directory(nodeid).upper is not None

    def listing(self, nodeid: int) -> list[readdir.Listed]:
        """Return the listing of a directory as it is now, ``.`` and ``..`` first."""
        return readdir.asked_for(self._state, self._nodes.directory(nodeid))

    def opendir(self, nodeid: int) -> Handle:
        """Open a directory for listing."""
        handle = self._files.number()
        self._files.directories[handle] = OpenDirectory(self._nodes.directory(nodeid))
        return handle

    def readdir(self, fh: int, offset: int) -> list[DirEntry]:
        """Return the whole listing, ``.`` and ``..`` first, whatever *offset* is; 0 takes a new one.

        The caller goes on at entry *offset*; the offset after entry i is i + 1.
        """
        opened = self._directory(fh)
        if opened.entries is None or offset == 0:
            opened.entries = [DirEntry(*each) for each in readdir.asked_for(self._state, opened.node)]
        return opened.entries

    def _directory(self, fh: int) -> OpenDirectory:
        try:
            return self._files.directories[fh]
        except KeyError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def releasedir(self, fh: int) -> None:
        """Close an open directory."""
        self._files.directories.pop(fh, None)

    def fsyncdir(self, fh: int, datasync: bool) -> Job | None:
        """Return the work of writing a directory through, or None if it is not in the upper layer."""
        return files.fsync_directory(self._state, self._directory(fh).node, datasync)

    # the whole

    def statfs(self) -> os.statvfs_result:
        """Return the space of the top layer's filesystem."""
        return os.fstatvfs(self._state.layers[0].root.fd())

    def syncfs(self) -> Job | None:
        """Return the work of writing the upper layer's filesystem through, or None without one."""
        return files.sync_upper(self._state)

    def stats(self) -> dict[str, int]:
        """Return what is cached now and what was done so far."""
        counters = self._state.counters
        return {
            "nodes": len(self._nodes),
            "open_files": len(self._files.files),
            "open_directories": len(self._files.directories),
            "descriptors": len(self._state.descriptors.opened),
            "copying_up": len(self._state.jobs),
            "copy_ups": counters.copy_ups,
            "copied_bytes": counters.copied_bytes,
        }
