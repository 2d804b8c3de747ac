"""The border to pyfuse3: its types on the one side, the union's values on the other.

Nothing past this file and the engine beside it sees a pyfuse3 type, and no handler chooses an
error number: `Replying` is the one place where an exception becomes an answer.
"""

import errno
import logging
import os
from collections import Counter
from types import TracebackType
from typing import Literal

import pyfuse3

from unionfs.core.mountoptions import MountOptions
from unionfs.core.request import Caller, Changes

__all__ = ["Replying", "caller", "changes", "entry_attributes", "negative_entry", "statvfs_data"]

log = logging.getLogger(__name__)


class Replying:
    """Turn whatever a handler raises into the one error pyfuse3 accepts, and count the request.

    An OSError is an answer: the kernel gets its errno. Anything else is our bug: it is logged with
    its traceback and answered EIO, because a daemon that dies takes the files of every process on
    the mount with it. Cancellation is a BaseException and passes through.
    """

    __slots__ = ("_request",)

    def __init__(self, request: str, counts: Counter[str]) -> None:
        counts[request] += 1
        log.debug("%s", request)
        self._request = request

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        if exc is None or isinstance(exc, pyfuse3.FUSEError) or not isinstance(exc, Exception):
            return False
        if isinstance(exc, OSError):
            raise pyfuse3.FUSEError(exc.errno or errno.EIO) from exc
        log.error("bug in %s, answered EIO", self._request, exc_info=exc)
        raise pyfuse3.FUSEError(errno.EIO) from exc


def entry_attributes(number: int, st: os.stat_result, options: MountOptions) -> pyfuse3.EntryAttributes:
    """Return *st* for the kernel, under the inode number that it is to use."""
    attributes = pyfuse3.EntryAttributes()
    attributes.st_ino = pyfuse3.InodeT(number)
    attributes.entry_timeout = options.entry_timeout
    attributes.attr_timeout = options.attr_timeout
    attributes.st_mode = pyfuse3.ModeT(st.st_mode)
    attributes.st_nlink = st.st_nlink
    attributes.st_uid = st.st_uid
    attributes.st_gid = st.st_gid
    attributes.st_rdev = st.st_rdev
    attributes.st_size = st.st_size
    attributes.st_blocks = st.st_blocks
    attributes.st_blksize = st.st_blksize
    attributes.st_atime_ns = st.st_atime_ns
    attributes.st_mtime_ns = st.st_mtime_ns
    attributes.st_ctime_ns = st.st_ctime_ns
    return attributes


def negative_entry(options: MountOptions) -> pyfuse3.EntryAttributes:
    """Return the entry that lets the kernel remember that a name does not exist."""
    attributes = pyfuse3.EntryAttributes()
    attributes.st_ino = pyfuse3.InodeT(0)
    attributes.entry_timeout = options.negative_timeout
    return attributes


def caller(ctx: pyfuse3.RequestContext) -> Caller:
    return Caller(ctx.uid, ctx.gid, ctx.umask, ctx.pid)


def changes(attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields) -> Changes:
    """Return what a setattr asks for.

    libfuse before 3.15 negotiates HANDLE_KILLPRIV, which makes it our part to drop set-id bits when
    the owner or the size changes, and pyfuse3 does not tell; where the kernel does it, it is done twice.
    """
    return Changes(
        mode=attr.st_mode & 0o7777 if fields.update_mode else None,
        uid=attr.st_uid if fields.update_uid else None,
        gid=attr.st_gid if fields.update_gid else None,
        size=attr.st_size if fields.update_size else None,
        atime_ns=attr.st_atime_ns if fields.update_atime else None,
        mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        kill_priv=not fields.update_mode and (fields.update_uid or fields.update_gid or fields.update_size),
    )


def statvfs_data(st: os.statvfs_result) -> pyfuse3.StatvfsData:
    data = pyfuse3.StatvfsData()
    for name in (
        "f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail"
    ):  # fmt: skip
        setattr(data, name, getattr(st, name))
    data.f_namemax = st.f_namemax
    return data
