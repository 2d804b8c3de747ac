"""Write a layer as a tar archive: equal content, equal bytes, on every machine and in every order of readdir.

What makes it so: entries sorted, in each directory the whiteouts first; times cut at SOURCE_DATE_EPOCH
where that is set; no user or group names, access times, inode or device numbers of the host; attributes
sorted; pax records only where a plain header cannot say it. Headers are written by the stdlib's tarfile.

Marks of a union are not content: whiteouts become ``.wh.NAME``, opaque directories get ``.wh..wh..opq``,
the rest was resolved or left out by `scan`.
"""

import os
import tarfile
from collections.abc import Callable, Iterable
from typing import BinaryIO, Final

from unionfs.core.ondisk import OPAQUE_FILE, WHITEOUT_PREFIX
from unionfs.errors import ConfigError, ImageError
from unionfs.oci.described import MAX_PATH
from unionfs.oci.digest import CHUNK, Writer
from unionfs.oci.entry import Entry, Kind
from unionfs.oci.tarheader import BLOCK, XATTR_RECORD

__all__ = ["END", "Opener", "in_archive_order", "pack", "source_date_ns"]

Opener = Callable[[Entry], BinaryIO]
"""Opens the content of a file."""

END: Final = bytes(2 * BLOCK)
"""The mark that ends an archive."""

_TYPES: Final = {
    Kind.FILE: tarfile.REGTYPE,
    Kind.DIR: tarfile.DIRTYPE,
    Kind.SYMLINK: tarfile.SYMTYPE,
    Kind.HARDLINK: tarfile.LNKTYPE,
    Kind.CHAR: tarfile.CHRTYPE,
    Kind.BLOCK: tarfile.BLKTYPE,
    Kind.FIFO: tarfile.FIFOTYPE,
}


def source_date_ns() -> int | None:
    """Return the time that no file may be younger than, from SOURCE_DATE_EPOCH; None without one.

    Source: https://reproducible-builds.org/specs/source-date-epoch/
    """
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise ConfigError(f"SOURCE_DATE_EPOCH is {text!r}, not a number of seconds; try: 1700000000, or unset it")
    return int(text) * 10**9


def in_archive_order(entries: Iterable[Entry]) -> list[Entry]:
    """Sort parents before children, and whiteouts before everything else in their directory."""
    return sorted(entries, key=_order)


def _order(entry: Entry) -> tuple[tuple[bool, bytes], ...]:
    if not entry.path:
        return ()
    *above, name = entry.path.split(b"/")
    return (*((True, part) for part in above), (entry.kind is not Kind.WHITEOUT, name))


def pack(entries: Iterable[Entry], content: Opener, target: Writer, *, newest_ns: int | None = None) -> int:
    """Write *entries*, sorted as they come out of `scan`, as one archive; returns its bytes.

    Sockets are left out: no archive can hold one. The root is written only where it was described.

    Raises:
        ImageError: a file changed while it was being packed, or a path is longer than others could unpack.
    """
    size = 0
    for entry in in_archive_order(entries):
        if entry.kind is Kind.SOCKET:
            continue
        if len(entry.path) > MAX_PATH:
            raise ImageError(
                f"a path of {len(entry.path)} bytes is longer than any in an image: {entry.path[:60]!r}..."
            )
        size += target.write(header(entry, newest_ns))
        if entry.kind is Kind.FILE and entry.size:
            with content(entry) as file:
                _copy(file, target, entry)
            size += entry.size + target.write(bytes(-entry.size % BLOCK))
        if entry.opaque:
            mark = entry.path + b"/" + OPAQUE_FILE if entry.path else OPAQUE_FILE
            size += target.write(_encode(_bare(mark, tarfile.REGTYPE)))
    return size + target.write(END)


def _copy(file: BinaryIO, target: Writer, entry: Entry) -> None:
    left = entry.size
    while left and (chunk := file.read(min(CHUNK, left))):
        target.write(chunk)
        left -= len(chunk)
    if left or file.read(1):
        raise ImageError(f"{os.fsdecode(entry.path)!r} changed while it was being packed")


def header(entry: Entry, newest_ns: int | None = None) -> bytes:
    """Return the header blocks of one entry."""
    if entry.kind is Kind.WHITEOUT:
        above, slash, name = entry.path.rpartition(b"/")
        return _encode(_bare(above + slash + WHITEOUT_PREFIX + name, tarfile.REGTYPE))
    info = _bare(entry.path or b".", _TYPES[entry.kind])
    info.mode, info.uid, info.gid = entry.mode, entry.uid, entry.gid
    info.size = entry.size if entry.kind is Kind.FILE else 0
    info.linkname = os.fsdecode(entry.link)
    if entry.kind in {Kind.CHAR, Kind.BLOCK}:
        info.devmajor, info.devminor = os.major(entry.rdev), os.minor(entry.rdev)
    mtime_ns = entry.mtime_ns if newest_ns is None else min(entry.mtime_ns, newest_ns)
    info.mtime, rest = divmod(mtime_ns, 10**9)
    records = {"mtime": _decimal(mtime_ns)} if rest else {}
    if entry.kind is not Kind.HARDLINK:  # its file has them
        records |= {XATTR_RECORD + name: os.fsdecode(value) for name, value in entry.xattrs}
    info.pax_headers = records
    return _encode(info)


def _bare(path: bytes, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(os.fsdecode(path))
    info.type, info.mode = kind, 0
    return info


def _encode(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _decimal(ns: int) -> str:
    r"""Write nanoseconds as the seconds of a pax record, exactly.

    >>> _decimal(1_500_000_000), _decimal(-1_500_000_000)
    ('1.5', '-1.5')
    """
    sign, (whole, rest) = "-" if ns < 0 else "", divmod(abs(ns), 10**9)
    return f"{sign}{whole}.{rest:09d}".rstrip("0")
