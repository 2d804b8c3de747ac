"""What the blocks of a tar archive say: bytes in, values out, nothing read and nothing believed.

Read here: v7, ustar, GNU (base-256 numbers, old sparse maps) and pax (paths, times, sizes, owners,
``SCHILY.xattr.*``, sparse maps 0.0, 0.1 and 1.0). Everything else is refused by name.

Sources: POSIX.1-2017 pax "ustar Interchange Format", GNU tar manual "Tar Internals".
"""

import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, NoReturn

from unionfs.errors import ImageError
from unionfs.oci.entry import Kind

__all__ = [
    "BLOCK",
    "MAX_SPECIAL",
    "XATTR_RECORD",
    "Extents",
    "Member",
    "check_header",
    "checked_extents",
    "number",
    "old_sparse_map",
    "parse_member",
    "pax_records",
    "pax_sparse_map",
    "refuse",
]

BLOCK: Final = 512
"""Archives are sequences of blocks of this many bytes."""

MAX_SPECIAL: Final = 1 << 20
"""Bytes of the largest pax header, long name or sparse map; what Go's reader allows too."""

XATTR_RECORD: Final = "SCHILY.xattr."

MAX_XATTR_NAME: Final = 255
MAX_XATTR: Final = 1 << 16
"""Bytes of an attribute's value: XATTR_SIZE_MAX of the kernel."""

Extents = tuple[tuple[int, int], ...]
"""Where a sparse file has content: (offset, length) in bytes, in order."""

_FIELDS: Final = struct.Struct("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12x")
_PAX_LENGTH: Final = re.compile(rb"([1-9][0-9]{0,6}) ")
_OCTAL: Final = re.compile(rb"[0-7]*")
_NUMBER: Final = re.compile(rb"-?[0-9]{1,20}")
_TIME: Final = re.compile(rb"(-?)([0-9]{1,15})(?:\.([0-9]*))?")
_KINDS: Final = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,  # "contiguous": nobody knows how else to read it
    b"S": Kind.FILE,
    b"1": Kind.HARDLINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHAR,
    b"4": Kind.BLOCK,
    b"5": Kind.DIR,
    b"6": Kind.FIFO,
}


class Member(NamedTuple):
    """One member as the archive says it; its names are not checked for anything yet."""

    path: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    """Bytes of a file once its holes are put back; 0 for what has no content."""
    link: bytes
    major: int
    minor: int
    xattrs: dict[str, bytes]
    stored: int
    """Bytes of content in the archive."""
    extents: Extents | None = None
    """None for a file without holes."""


def refuse(why: str) -> NoReturn:
    """Say what is wrong with the archive."""
    raise ImageError(f"not a sound tar archive: {why}")


def number(field: bytes) -> int:
    r"""Read octal digits, or GNU's base 256.

    >>> number(b"0000644\0"), number(b"\x80\0\0\0\0\0\0\x01\0\0\0\0"), number(b"\xff" * 12)
    (420, 4294967296, -1)
    """
    if field[0] & 0x80:
        if field[0] not in {0x80, 0xFF}:
            refuse(f"{field!r} where a number is expected")
        value = int.from_bytes(field[1:], "big")
        return value - 256 ** (len(field) - 1) if field[0] == 0xFF else value
    text = field.split(b"\0", 1)[0].strip()
    if not _OCTAL.fullmatch(text):  # int() would take signs and underscores, too, that no other reader takes
        refuse(f"{text!r} where a number is expected")
    return int(text, 8) if text else 0


def check_header(header: bytes) -> None:
    """Refuse a header whose checksum is wrong; old tars summed the bytes as signed."""
    said = number(header[148:156])
    counted = sum(header[:148]) + sum(header[156:]) + 256
    if said == counted:
        return
    if said != counted - 256 * sum(byte > 127 for byte in header[:148] + header[156:]):
        refuse("a header's checksum is wrong")


def parse_member(header: bytes, said: dict[str, bytes]) -> Member:
    """Make a member of its header and of what long names and pax records *said* before it."""
    (
        name, mode, uid, gid, size, mtime, _sum, kind, link, magic, _version, _uname, _gname, major, minor, prefix,
    ) = _FIELDS.unpack(header)  # fmt: skip
    path = name.split(b"\0", 1)[0]
    if magic == b"ustar\0" and prefix[0]:
        path = prefix.split(b"\0", 1)[0] + b"/" + path
    path = said.get("path", path)
    if kind not in _KINDS:
        refuse(f"member {path!r} is of unknown type {kind.decode('latin-1')!r}")
    has_content, is_device = kind in b"07S\0", kind in b"34"
    is_file = has_content and not path.endswith(b"/")
    stored = _pax_number(said, "size", size) if has_content else 0
    if stored < 0:
        refuse(f"member {path!r} is of negative size")
    return Member(
        path=path,
        kind=Kind.DIR if has_content and not is_file else _KINDS[kind],
        mode=number(mode) & 0o7777,
        uid=_pax_number(said, "uid", uid),
        gid=_pax_number(said, "gid", gid),
        mtime_ns=_checked_time(_pax_time(said["mtime"]) if "mtime" in said else number(mtime) * 10**9),
        size=stored if is_file else 0,
        link=said.get("linkpath", link.split(b"\0", 1)[0]),
        major=number(major) if is_device else 0,
        minor=number(minor) if is_device else 0,
        xattrs=_xattrs(said) if said else {},
        stored=stored,
    )


def _checked_time(ns: int) -> int:
    if not -(1 << 63) <= ns < 1 << 63:
        refuse(f"a time of {ns // 10**9} seconds, which no file can have")
    return ns


def _xattrs(said: dict[str, bytes]) -> dict[str, bytes]:
    found = {key[len(XATTR_RECORD) :]: value for key, value in said.items() if key.startswith(XATTR_RECORD)}
    for name, value in found.items():
        if not 0 < len(name) <= MAX_XATTR_NAME or "\0" in name or len(value) > MAX_XATTR:
            refuse(f"an attribute {name[:80]!r} of {len(value)} bytes, which no file can have")
    return found


def _pax_number(said: dict[str, bytes], key: str, field: bytes) -> int:
    if key not in said:
        return number(field)
    if not _NUMBER.fullmatch(said[key]):
        refuse(f"a pax {key} of {said[key][:40]!r}")
    return int(said[key])


def _pax_time(text: bytes) -> int:
    found = _TIME.fullmatch(text)
    if not found:
        refuse(f"a pax time of {text[:40]!r}")
    ns = int(found[2]) * 10**9 + int((found[3] or b"")[:9].ljust(9, b"0"))
    return -ns if found[1] else ns


def pax_records(content: bytes) -> dict[str, bytes]:
    r"""Read the records of a pax header; an empty value means "as if it were not there".

    >>> pax_records(b"11 path=ab\n16 uname=someone\n"[:11] + b"9 uid=12\n")
    {'path': b'ab', 'uid': b'12'}
    """
    records: dict[str, bytes] = {}
    sparse: list[bytes] = []
    at = 0
    while at < len(content):
        found = _PAX_LENGTH.match(content, at)
        end = at + int(found[1]) if found else 0
        if not found or not found.end() < end <= len(content) or content[end - 1] != 0x0A:
            refuse("a malformed pax record")
        key, equals, value = content[found.end() : end - 1].partition(b"=")
        if not equals:
            refuse("a malformed pax record")
        if key in {b"GNU.sparse.offset", b"GNU.sparse.numbytes"}:  # format 0.0 repeats the two keys
            sparse.append(value)
        records[key.decode("utf-8", "surrogateescape")] = value
        at = end
    if sparse:
        records["GNU.sparse.map"] = b",".join(sparse)
    return {key: value for key, value in records.items() if value or key.startswith(XATTR_RECORD)}


def old_sparse_map(block: bytes) -> Iterator[tuple[int, int]]:
    """Yield the extents that a GNU header, or a block that continues it, holds."""
    for at in range(0, len(block) - 23, 24):
        if not block[at]:
            return
        yield number(block[at : at + 12]), number(block[at + 12 : at + 24])


def pax_sparse_map(fields: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Yield the extents of a list of offsets and lengths."""
    if len(fields) % 2 or not all(map(_NUMBER.fullmatch, fields)):
        refuse("a malformed sparse map")
    yield from zip(map(int, fields[::2]), map(int, fields[1::2]), strict=True)


def checked_extents(extents: Iterable[tuple[int, int]], size: int, stored: int) -> Extents:
    """Return a map that is in order, inside the file of *size* bytes, and as long as what is *stored*."""
    kept: list[tuple[int, int]] = []
    at = total = 0
    for offset, length in extents:
        if offset < at or length < 0:
            refuse("a sparse map that goes backwards")
        at, total = offset + length, total + length
        if length:
            kept.append((offset, length))
    if at > size or total != stored:
        refuse("a sparse map that does not fit its file")
    return tuple(kept)
