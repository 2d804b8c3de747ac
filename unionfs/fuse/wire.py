"""The layouts of the FUSE protocol: bytes in, values out, and the reverse.

Rule 1: pure functions; whoever calls them reads and writes the descriptor.
Rule 2: a request that is too short raises `struct.error`, a name that is not closed `Malformed`;
        nothing here reads beyond what it was given.

A request's *body* is what follows its header of 40 bytes. Replies are encoded without theirs, which
`reply` puts in front. Numbers are in the machine's byte order and sizes are bytes.

Source: Linux include/uapi/linux/fuse.h, protocol 7.45; the structure names stand beside the layouts.
"""

import os
from struct import Struct
from typing import Final, NamedTuple

from unionfs.core.request import NOW, Changes
from unionfs.fuse.protocol import MAJOR, MAX_BACKGROUND, MAX_WRITE, Attribute, Negotiated, Notify

__all__ = [
    "ATTRIBUTES",
    "BATCH_FORGET",
    "COPY",
    "CREATE",
    "DIRENT",
    "DIRENTPLUS",
    "ENTRY",
    "FALLOCATE",
    "FORGET",
    "FORGET_ONE",
    "FSYNC",
    "GETATTR",
    "GETXATTR",
    "HEADER",
    "INIT",
    "INITED",
    "INIT_FLAGS2",
    "INTERRUPT",
    "INVAL_ENTRY",
    "INVAL_INODE",
    "IOCTL",
    "IOCTL_DONE",
    "LINK",
    "LSEEK",
    "MAJOR_ONLY",
    "MKDIR",
    "MKNOD",
    "OFFSET",
    "OPEN",
    "OPENED",
    "READ",
    "RELEASE",
    "RENAME",
    "RENAME2",
    "REPLY",
    "SETATTR",
    "SETXATTR",
    "SETXATTR_EXT",
    "SIZE",
    "STATFS",
    "STATX",
    "STATXED",
    "STATX_BODY",
    "STORE",
    "WRITE",
    "WRITTEN",
    "Init",
    "Ioctl",
    "Malformed",
    "SetAttr",
    "attr_fields",
    "attributes",
    "dirent",
    "direntplus",
    "entry",
    "failure",
    "forgets",
    "init",
    "inited",
    "ioctl",
    "name",
    "names",
    "negative",
    "notification",
    "reply",
    "setattr_changes",
    "setxattr",
    "statfs",
    "statxed",
    "write_data",
]

Buffer = bytes | bytearray | memoryview

HEADER: Final = Struct("=IIQQIIIHH")
"""len, opcode, unique, nodeid, uid, gid, pid (of the thread), length of extensions / 8, padding (fuse_in_header)."""
REPLY: Final = Struct("=IiQ")
"""len, -errno, unique (fuse_out_header)."""

# Requests. What a structure pads or leaves unused is skipped (x).
FORGET: Final = Struct("=Q")  # fuse_forget_in: nlookup
FORGET_ONE: Final = Struct("=QQ")  # fuse_forget_one: nodeid, nlookup
BATCH_FORGET: Final = Struct("=I4x")  # fuse_batch_forget_in: count
GETATTR: Final = Struct("=I4xQ")  # fuse_getattr_in: flags, fh
SETATTR: Final = Struct("=I4xQQ8xqqqIIII4xII4x")  # fuse_setattr_in, see `setattr_changes`
MKNOD: Final = Struct("=III4x")  # fuse_mknod_in: mode, rdev, umask
MKDIR: Final = Struct("=II")  # fuse_mkdir_in: mode, umask
RENAME: Final = Struct("=Q")  # fuse_rename_in: newdir
RENAME2: Final = Struct("=QI4x")  # fuse_rename2_in: newdir, flags
LINK: Final = Struct("=Q")  # fuse_link_in: oldnodeid
OPEN: Final = Struct("=II")  # fuse_open_in: flags, open_flags
CREATE: Final = Struct("=IIII")  # fuse_create_in: flags, mode, umask, open_flags
READ: Final = Struct("=QQI20x")  # fuse_read_in: fh, offset, size
WRITE: Final = Struct("=QQII16x")  # fuse_write_in: fh, offset, size, write_flags
RELEASE: Final = Struct("=QII8x")  # fuse_release_in: fh, flags, release_flags
FSYNC: Final = Struct("=QI4x")  # fuse_fsync_in: fh, fsync_flags
SETXATTR: Final = Struct("=II")  # fuse_setxattr_in up to 7.32: size, flags
SETXATTR_EXT: Final = Struct("=III4x")  # with SETXATTR_EXT: and setxattr_flags
GETXATTR: Final = Struct("=I4x")  # fuse_getxattr_in: size
INIT: Final = Struct("=IIII")  # fuse_init_in: major, minor, max_readahead, flags
INIT_FLAGS2: Final = Struct("=I")  # from 7.36 on, after INIT
INTERRUPT: Final = Struct("=Q")  # fuse_interrupt_in: unique
IOCTL: Final = Struct("=QIIQII")  # fuse_ioctl_in: fh, flags, cmd, arg, in_size, out_size
FALLOCATE: Final = Struct("=QQQI4x")  # fuse_fallocate_in: fh, offset, length, mode
LSEEK: Final = Struct("=QqI4x")  # fuse_lseek_in: fh, offset (as lseek(2) was given it), whence
COPY: Final = Struct("=QQQQQQQ")  # fuse_copy_file_range_in: fh_in, off_in, nodeid_out, fh_out, off_out, len, flags
STATX: Final = Struct("=I4xQII")  # fuse_statx_in: getattr_flags, fh, sx_flags, sx_mask

# Replies.
ATTR: Final = (
    "QQQqqqIIIIIIIIII"  # fuse_attr: ino, size, blocks, 3 times, 3 nsec, mode, nlink, ids, rdev, blksize, flags
)
ENTRY: Final = Struct(f"=QQQQII{ATTR}")  # fuse_entry_out: nodeid, generation, entry_valid, attr_valid, 2 nsec
ATTRIBUTES: Final = Struct(f"=QII{ATTR}")  # fuse_attr_out: attr_valid, nsec, dummy
OPENED: Final = Struct("=QIi")  # fuse_open_out: fh, open_flags, backing_id
WRITTEN: Final = Struct("=I4x")  # fuse_write_out: size
SIZE: Final = Struct("=I4x")  # fuse_getxattr_out: size
OFFSET: Final = Struct("=Q")  # fuse_lseek_out, fuse_copy_file_range_out
STATFS: Final = Struct("=QQQQQIII28x")  # fuse_kstatfs: blocks, bfree, bavail, files, ffree, bsize, namelen, frsize
IOCTL_DONE: Final = Struct("=iIII")  # fuse_ioctl_out: result, flags, in_iovs, out_iovs
INITED: Final = Struct("=IIIIHHIIHHII24x")  # fuse_init_out; 64 bytes since 7.23
MAJOR_ONLY: Final = Struct("=II")  # fuse_init_out before anything is agreed: major, minor
DIRENT: Final = Struct("=QQII")  # fuse_dirent: ino, next offset, namelen, type
DIRENTPLUS: Final = Struct(f"=QQQQII{ATTR}QQII")  # fuse_direntplus: an ENTRY and a DIRENT
STATXED: Final = Struct("=QII16x")  # fuse_statx_out: attr_valid, nsec, flags; then struct statx
STATX_BODY: Final = Struct("=IIQIIIH2xQQQQqI4xqI4xqI4xqI4xIIII112x")
"""fuse_statx: mask, blksize, attributes, nlink, uid, gid, mode, ino, size, blocks, attributes_mask,
atime, btime, ctime, mtime as seconds and nanoseconds, then the device numbers."""

# Notifications, after a REPLY header whose errno field holds the code and whose unique is 0.
INVAL_INODE: Final = Struct("=Qqq")  # fuse_notify_inval_inode_out: nodeid, offset (< 0: attributes only), length
INVAL_ENTRY: Final = Struct("=QII")  # fuse_notify_inval_entry_out: parent, namelen, flags
STORE: Final = Struct("=QQI4x")  # fuse_notify_store_out: nodeid, offset, size

_NS: Final = 1_000_000_000
_PADDING: Final = (b"", b"\0" * 7, b"\0" * 6, b"\0" * 5, b"\0" * 4, b"\0" * 3, b"\0" * 2, b"\0")
_STATX_BASIC: Final = 0x7FF
_STATX_BTIME: Final = 0x800


class Malformed(ValueError):
    """A request that no kernel sends."""


class SetAttr(NamedTuple):
    """A decoded SETATTR."""

    changes: Changes
    fh: int | None
    """The open file it came through, if any."""


class Ioctl(NamedTuple):
    """A decoded IOCTL."""

    fh: int
    cmd: int
    out_size: int
    """Bytes the caller's buffer takes."""
    data: bytes


class Init(NamedTuple):
    """What the kernel offers."""

    major: int
    minor: int
    max_readahead: int
    flags: int
    """Both words: bits from 32 on come from the second."""


def name(body: Buffer) -> bytes:
    """Decode a body, or the rest of one, that is a single name."""
    text = bytes(body)
    if text[-1:] != b"\0":
        raise Malformed("a name without its end")
    return text[:-1]


def names(body: Buffer) -> tuple[bytes, bytes]:
    r"""Decode two names in a row.

    >>> names(b"from\0to\0")
    (b'from', b'to')
    """
    parts = bytes(body).split(b"\0")
    if len(parts) != 3 or parts[2]:
        raise Malformed("not two names")
    return parts[0], parts[1]


def setattr_changes(body: Buffer) -> SetAttr:
    """Decode a SETATTR. A ctime is ignored: only writeback caches send one, and it cannot be set."""
    valid, fh, size, atime, mtime, _, atimensec, mtimensec, _, mode, uid, gid = SETATTR.unpack_from(body)
    changes = Changes(
        mode=mode & 0o7777 if valid & Attribute.MODE else None,
        uid=uid if valid & Attribute.UID else None,
        gid=gid if valid & Attribute.GID else None,
        size=size if valid & Attribute.SIZE else None,
        atime_ns=_time(valid & Attribute.ATIME, valid & Attribute.ATIME_NOW, atime * _NS + atimensec),
        mtime_ns=_time(valid & Attribute.MTIME, valid & Attribute.MTIME_NOW, mtime * _NS + mtimensec),
        kill_priv=bool(valid & Attribute.KILL_SUIDGID),
    )
    return SetAttr(changes, fh if valid & Attribute.FH else None)


def _time(counts: int, now: int, ns: int) -> int | None:
    if not counts:
        return None
    return NOW if now else ns


def forgets(body: Buffer) -> list[tuple[int, int]]:
    """Decode a BATCH_FORGET: nodeid and number of lookups to take back, for each."""
    (count,) = BATCH_FORGET.unpack_from(body)
    end = BATCH_FORGET.size + count * FORGET_ONE.size
    if end > len(body):
        raise Malformed("fewer forgets than announced")
    return list(FORGET_ONE.iter_unpack(body[BATCH_FORGET.size : end]))


def write_data(body: Buffer) -> tuple[int, int, int, memoryview]:
    """Decode a WRITE: handle, offset, flags and the data, which is not copied."""
    fh, offset, size, flags = WRITE.unpack_from(body)
    data = memoryview(body)[WRITE.size : WRITE.size + size]
    if len(data) != size:
        raise Malformed("less data than announced")
    return fh, offset, flags, data


def setxattr(body: Buffer, layout: Struct) -> tuple[bytes, bytes, int, int]:
    """Decode a SETXATTR: name, value, flags and the protocol's own flags."""
    size, flags, *extra = layout.unpack_from(body)
    key, end, rest = bytes(body[layout.size :]).partition(b"\0")
    if not end or len(rest) < size:
        raise Malformed("less of an attribute than announced")
    return key, rest[:size], flags, extra[0] if extra else 0


def ioctl(body: Buffer) -> Ioctl:
    """Decode an IOCTL with its argument."""
    fh, _flags, cmd, _arg, in_size, out_size = IOCTL.unpack_from(body)
    data = bytes(body[IOCTL.size : IOCTL.size + in_size])
    if len(data) != in_size:
        raise Malformed("less of an argument than announced")
    return Ioctl(fh, cmd, out_size, data)


def init(body: Buffer) -> Init:
    """Decode an INIT; kernels before 7.36 send no second word of flags."""
    major, minor, max_readahead, flags = INIT.unpack_from(body)
    if len(body) >= INIT.size + INIT_FLAGS2.size:
        flags |= INIT_FLAGS2.unpack_from(body, INIT.size)[0] << 32
    return Init(major, minor, max_readahead, flags)


def inited(agreed: Negotiated, *, stack_depth: int) -> bytes:
    """Answer an INIT. *stack_depth*: 1 lets backing files lie on a plain file system, 2 on a stacked one."""
    flags = int(agreed.features)
    return INITED.pack(
        MAJOR,
        agreed.minor,
        agreed.max_readahead,
        flags & 0xFFFFFFFF,
        MAX_BACKGROUND,
        MAX_BACKGROUND * 3 // 4,
        MAX_WRITE,
        1,  # time granularity: nanoseconds
        MAX_WRITE // 4096,
        0,
        flags >> 32,
        stack_depth,
    )


def attr_fields(ino: int, st: os.stat_result) -> tuple[int, ...]:
    """Return the sixteen numbers of a fuse_attr."""
    atime, mtime, ctime = st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns
    return (
        ino,
        st.st_size,
        st.st_blocks,
        atime // _NS,
        mtime // _NS,
        ctime // _NS,
        atime % _NS,
        mtime % _NS,
        ctime % _NS,
        st.st_mode,
        st.st_nlink,
        st.st_uid,
        st.st_gid,
        st.st_rdev & 0xFFFFFFFF,  # the kernel's own 32-bit form is the low half of the C library's
        st.st_blksize,
        0,
    )


Validity = tuple[int, int]
"""For how long the kernel need not ask again: seconds, and nanoseconds more."""


NEVER: Final[Validity] = (0, 0)


def validity(seconds: float) -> Validity:
    """Return *seconds* as the kernel wants them.

    >>> validity(1.5)
    (1, 500000000)
    """
    return divmod(round(seconds * _NS), _NS)


def entry(nodeid: int, ino: int, st: os.stat_result, entry_valid: Validity, attr_valid: Validity) -> bytes:
    """Encode what a name is."""
    seconds, nanoseconds = entry_valid
    return ENTRY.pack(nodeid, 0, seconds, attr_valid[0], nanoseconds, attr_valid[1], *attr_fields(ino, st))


def negative(entry_valid: Validity) -> bytes:
    """Encode that a name is nothing."""
    return ENTRY.pack(0, 0, entry_valid[0], 0, entry_valid[1], 0, *(0,) * 16)


def attributes(ino: int, st: os.stat_result, attr_valid: Validity) -> bytes:
    """Encode the reply to GETATTR and SETATTR."""
    return ATTRIBUTES.pack(*attr_valid, 0, *attr_fields(ino, st))


def statxed(ino: int, st: os.stat_result, btime_ns: int | None, attr_valid: Validity) -> bytes:
    """Encode the reply to STATX. *btime_ns* None: the file system does not keep it."""
    times: list[int] = []
    for ns in (st.st_atime_ns, btime_ns or 0, st.st_ctime_ns, st.st_mtime_ns):
        times += divmod(ns, _NS)
    mask = _STATX_BASIC | (_STATX_BTIME if btime_ns is not None else 0)
    size = (ino, st.st_size, st.st_blocks)
    owner = (st.st_nlink, st.st_uid, st.st_gid, st.st_mode)
    device = (os.major(st.st_rdev), os.minor(st.st_rdev), 0, 0)
    body = STATX_BODY.pack(mask, st.st_blksize, 0, *owner, *size, 0, *times, *device)
    return STATXED.pack(*attr_valid, 0) + body


def dirent(ino: int, cookie: int, kind: int, text: bytes) -> bytes:
    """Encode one name of a listing. *cookie* is the offset of the entry after it."""
    return DIRENT.pack(ino, cookie, len(text), kind) + text + _PADDING[len(text) & 7]


def direntplus(
    nodeid: int, valid: tuple[Validity, Validity], ino: int, st: os.stat_result, cookie: int, text: bytes
) -> bytes:
    """Encode one name of a listing with what it is: an `entry` and a `dirent`.

    *valid*: how long the kernel may keep the name, and the attributes.
    """
    (seconds, nanoseconds), (attr_seconds, attr_nanoseconds) = valid
    length = len(text)
    ends = (ino, cookie, length, st.st_mode >> 12)
    head = (nodeid, 0, seconds, attr_seconds, nanoseconds, attr_nanoseconds)
    return DIRENTPLUS.pack(*head, *attr_fields(ino, st), *ends) + text + _PADDING[length & 7]


def statfs(st: os.statvfs_result) -> bytes:
    """Encode the reply to STATFS."""
    return STATFS.pack(
        st.f_blocks, st.f_bfree, st.f_bavail, st.f_files, st.f_ffree, st.f_bsize, st.f_namemax, st.f_frsize
    )


def reply(unique: int, body: bytes = b"") -> bytes:
    """Encode a successful reply."""
    return REPLY.pack(REPLY.size + len(body), 0, unique) + body


def failure(unique: int, error: int) -> bytes:
    """Encode a reply that is the errno *error*."""
    return REPLY.pack(REPLY.size, -error, unique)


def notification(code: Notify, body: bytes, size: int = 0) -> bytes:
    """Encode a message to the kernel that is followed by *size* more bytes."""
    return REPLY.pack(REPLY.size + len(body) + size, code, 0) + body
