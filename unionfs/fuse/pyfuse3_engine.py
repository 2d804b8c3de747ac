"""The reference engine: pyfuse3 and libfuse speak with the kernel, and trio runs the handlers.

It is portable and a well-kept library carries it, so it is the one to compare the direct engine
with. A handler unwraps the request, asks the union, and wraps the answer; it decides nothing. What
pyfuse3 3.5 cannot carry, with what users see of it (the direct engine has none of these limits):

* fallocate, lseek, copy_file_range, tmpfile and ioctl have no handler. ``fallocate``, ``chattr`` and
  O_TMPFILE answer EOPNOTSUPP; SEEK_DATA sees a file without holes, and a copy goes through the page cache.
* DONT_MASK is not negotiated: the kernel applies the caller's umask before it asks, so an object
  made in a directory with a default ACL loses the bits of the umask all the same.
* Up to libfuse 3.14 HANDLE_KILLPRIV is negotiated, and a write does not say who writes: set-id bits
  are dropped by every write and truncation, also by root's, where the kernel would let root keep them. Set-group-id
  without group-execute stays, whoever changes the file: the kernel takes it from who is not in the group.
* Setting "now" as a time carries the daemon's clock, a moment later than the kernel's.
* One number is both the name of an inode for the kernel and its st_ino: where two files of the
  union have one number (more than 256 file systems, an accident, or names of a lower hard link, which are files of
  their own without an index), one of them shows another, and after a remount perhaps the other one.
  The root always shows 1.
* No passthrough: each page that is not cached is read through this process.

Handlers run one at a time between their awaits, and they await only long work (jobs.py), so the
union needs no lock.
"""

import errno
import logging
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyfuse3

from unionfs.core.mountoptions import MountOptions
from unionfs.fuse.device import Device
from unionfs.fuse.jobs import Jobs
from unionfs.fuse.reply import Replying, caller, changes, entry_attributes, negative_entry, statvfs_data

if TYPE_CHECKING:
    from unionfs.core.nodes import Node
    from unionfs.core.union import Entry, Union
    from unionfs.fuse.state import Record
    from unionfs.fuse.supervisor import Link

__all__ = ["REFUSED", "Handlers", "Pyfuse3Engine"]

log = logging.getLogger(__name__)


def is_worth_a_line(record: logging.LogRecord) -> bool:
    """Keep pyfuse3 silent about answers that nobody waits for any more, as at every unmount in use."""
    return not (record.msg.endswith("fuse_reply_* failed with %s") and record.args == (os.strerror(errno.ENOENT),))


logging.getLogger("pyfuse3").addFilter(is_worth_a_line)

REFUSED: Final = {
    "access": "default_permissions: the kernel checks by itself and never asks",
    "poll": "every file is always ready, and the kernel knows that from ENOSYS",
    "init": "nothing is left to do: the union is open before the mount is made",
    "stacktrace": "a debugging aid of pyfuse3, kept as it is",
}
"""Handlers of `pyfuse3.Operations` that are left as they are, each with its reason."""

DOTS: Final = {b".", b".."}


class Handlers(pyfuse3.Operations):
    """One method a request: unwrap, ask, wrap."""

    supports_dot_lookup = True
    enable_writeback_cache = False

    def __init__(self, union: "Union", options: MountOptions) -> None:
        super().__init__()
        self.enable_acl = not union.config.noacl
        self.requests: Counter[str] = Counter()
        self._union = union
        self._options = options
        self._jobs = Jobs()
        self._directories: dict[int, int] = {}
        """Of each open directory its inode, which pyfuse3 does not tell again."""

    def _answering(self, request: str) -> Replying:
        return Replying(request, self.requests)

    def _wrap(self, entry: "Entry") -> pyfuse3.EntryAttributes:
        node, st = entry
        return entry_attributes(node.nodeid, st, self._options)

    # Names

    async def lookup(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        with self._answering("lookup"):
            found = self._union.find(parent, name)
            return negative_entry(self._options) if found is None else self._wrap(found)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        with self._answering("forget"):
            for inode, count in inode_list:
                self._union.forget(inode, count)

    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        with self._answering("readlink"):
            return self._union.readlink(inode)

    async def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        with self._answering("mknod"):
            return self._wrap(await self._jobs.ask(lambda: self._union.mknod(parent, name, mode, rdev, caller(ctx))))

    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        with self._answering("mkdir"):
            return self._wrap(await self._jobs.ask(lambda: self._union.mkdir(parent, name, mode, caller(ctx))))

    async def symlink(
        self, parent: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        with self._answering("symlink"):
            return self._wrap(await self._jobs.ask(lambda: self._union.symlink(parent, name, target, caller(ctx))))

    async def link(
        self, inode: int, newparent: int, newname: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        with self._answering("link"):
            return self._wrap(await self._jobs.ask(lambda: self._union.link(inode, newparent, newname)))

    async def unlink(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        with self._answering("unlink"):
            await self._jobs.ask(lambda: self._union.unlink(parent, name))

    async def rmdir(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        with self._answering("rmdir"):
            await self._jobs.ask(lambda: self._union.rmdir(parent, name))

    async def rename(
        self, parent: int, name: bytes, newparent: int, newname: bytes, flags: int, ctx: pyfuse3.RequestContext
    ) -> None:
        with self._answering("rename"):
            await self._jobs.ask(lambda: self._union.rename(parent, name, newparent, newname, flags))

    # Attributes

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        with self._answering("getattr"):
            return self._wrap(self._union.getattr(inode))

    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        with self._answering("setattr"):
            wanted = changes(attr, fields)
            return self._wrap(await self._jobs.ask(lambda: self._union.setattr(inode, wanted, fh)))

    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        with self._answering("getxattr"):
            return self._union.getxattr(inode, name)

    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        with self._answering("listxattr"):
            return self._union.listxattr(inode, ctx.uid)

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext) -> None:
        with self._answering("setxattr"):  # pyfuse3 has looked after XATTR_CREATE and XATTR_REPLACE
            await self._jobs.ask(lambda: self._union.setxattr(inode, name, value))

    async def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        with self._answering("removexattr"):
            await self._jobs.ask(lambda: self._union.removexattr(inode, name))

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        with self._answering("statfs"):
            return statvfs_data(self._union.statfs())

    # Files

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        with self._answering("create"):
            made = await self._jobs.ask(lambda: self._union.create(parent, name, mode, flags, caller(ctx)))
            node, st, handle = made
            return pyfuse3.FileInfo(fh=handle, keep_cache=True), self._wrap((node, st))

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        with self._answering("open"):
            handle = await self._jobs.ask(lambda: self._union.open(inode, flags))
            return pyfuse3.FileInfo(fh=handle, keep_cache=not self._union.is_reading_noted(handle))

    async def read(self, fh: int, off: int, size: int) -> bytes:
        with self._answering("read"):
            return self._union.read(fh, size, off)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        with self._answering("write"):
            return await self._jobs.ask(lambda: self._union.write(fh, buf, off, kill_priv=True))

    async def flush(self, fh: int) -> None:
        with self._answering("flush"):
            self._union.flush(fh)

    async def fsync(self, fh: int, datasync: bool) -> None:
        with self._answering("fsync"):
            await self._jobs.complete(self._union.fsync(fh, datasync))

    async def release(self, fh: int) -> None:
        with self._answering("release"):
            self._union.release(fh)

    # Directories

    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        with self._answering("opendir"):
            handle = self._union.opendir(inode)
            self._directories[handle] = inode
            return handle

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        with self._answering("readdir"):
            entries = self._union.readdir(fh, start_id)
            for at in range(start_id, len(entries)):
                if not self._list(fh, entries[at].name, at + 1, token):
                    return

    def _list(self, fh: int, name: bytes, cookie: int, token: pyfuse3.ReaddirToken) -> bool:
        """Add one name to a listing, looked up for the kernel; False if there was no more room."""
        try:
            node, st = self._union.lookup(self._directories[fh], name)
        except (
            OSError
        ):  # removed since the listing was taken, or damaged: the library can list only what it can look up
            return True
        fits = pyfuse3.readdir_reply(token, name, entry_attributes(node.nodeid, st, self._options), cookie)
        if not fits or name in DOTS:  # the kernel counts neither as looked up
            self._union.forget(node.nodeid, 1)
        return fits

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        with self._answering("fsyncdir"):
            await self._jobs.complete(self._union.fsyncdir(fh, datasync))

    async def releasedir(self, fh: int) -> None:
        with self._answering("releasedir"):
            del self._directories[fh]
            self._union.releasedir(fh)


class Pyfuse3Engine:
    """One mount, served through pyfuse3; a process can have one at a time, for that is pyfuse3's limit."""

    name = "pyfuse3"

    def __init__(self, union: "Union", mountpoint: Path, options: MountOptions) -> None:
        self._mountpoint = mountpoint
        self._options = options
        self._union = union
        self._handlers = Handlers(union, options)
        self._device: Device | None = None

    @staticmethod
    def unfit() -> str | None:
        return None

    number = None

    def hand_over(self, link: "Link", record: "Record") -> str | None:
        del link, record
        return "pyfuse3 cannot take over a mount that it did not make"

    def finish(self) -> None:
        """Nobody goes on after this engine."""

    def mount(self) -> None:
        self._device = Device.mount(self._mountpoint, self._options)
        ours = os.dup(self._device.fd)  # libfuse closes what it is given
        pyfuse3.init(self._handlers, f"/dev/fd/{ours}", set())
        self._union.on_merging(_drop_attributes)

    def start(self) -> bool:
        return False

    async def serve(self) -> None:
        try:
            await pyfuse3.main()
        except* OSError as group:
            if any(exc.errno != errno.ECONNABORTED for exc in _leaves(group)):
                raise
        finally:
            self.unmount()
            pyfuse3.close(unmount=False)

    def unmount(self) -> None:
        device, self._device = self._device, None
        if device is None:
            return
        try:
            device.unmount()
        except OSError as exc:
            log.warning("%s cannot be unmounted: %s", self._mountpoint, exc.strerror)
        device.close()

    def statistics(self) -> dict[str, int]:
        return dict(self._handlers.requests)


def _drop_attributes(node: "Node") -> None:
    """Have the kernel ask for them again."""
    with suppress(OSError):  # it has no such inode
        pyfuse3.invalidate_inode(pyfuse3.InodeT(node.nodeid), attr_only=True)


def _leaves(group: BaseExceptionGroup[OSError]) -> list[OSError]:
    """Return the exceptions in a group of groups. ECONNABORTED among them: somebody aborted the connection."""
    found: list[OSError] = []
    for exc in group.exceptions:
        found.extend(_leaves(exc) if isinstance(exc, BaseExceptionGroup) else [exc])
    return found
