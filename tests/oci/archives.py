"""Archives and layers written as literals, and unpacked, for the tests of this floor."""

import contextlib
import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from unionfs.linux.directories import Directories
from unionfs.oci.entry import Entry, Kind
from unionfs.oci.form import Form, form_here
from unionfs.oci.pack import pack
from unionfs.oci.scan import scan
from unionfs.oci.unpack import Limits, Unpacked, unpack

Made = tuple[tarfile.TarInfo, bytes]


def info_of(name: str, kind: bytes = tarfile.REGTYPE, /, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def file(name: str, content: bytes = b"", **fields: object) -> Made:
    return info_of(name, **fields), content


def directory(name: str, *, mode: int = 0o755, **fields: object) -> Made:
    return info_of(name, tarfile.DIRTYPE, mode=mode, **fields), b""


def symlink(name: str, target: str, **fields: object) -> Made:
    return info_of(name, tarfile.SYMTYPE, linkname=target, **fields), b""


def hard_link(name: str, target: str) -> Made:
    return info_of(name, tarfile.LNKTYPE, linkname=target), b""


def device(name: str, major: int, minor: int, kind: bytes = tarfile.CHRTYPE) -> Made:
    return info_of(name, kind, devmajor=major, devminor=minor), b""


def fifo(name: str) -> Made:
    return info_of(name, tarfile.FIFOTYPE), b""


def archive_of(*members: Made, form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class Layers:
    """Layers below, as a plain merge of entries; only the topmost that names a path counts."""

    def __init__(self, *layers: tuple[Path, Sequence[Entry]]) -> None:
        self._layers = layers

    def _where(self, path: bytes) -> tuple[Path, Entry] | None:
        for root, entries in self._layers:
            for entry in entries:
                if entry.path == path:
                    return (root, entry)
        return None

    def find(self, path: bytes) -> Entry | None:
        where = self._where(path)
        return where[1] if where and where[1].kind is not Kind.WHITEOUT else None

    def open(self, path: bytes) -> BinaryIO:
        where = self._where(path)
        assert where
        return (where[0] / os.fsdecode(path)).open("rb")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def unpacked(
    archive: bytes, into: Path, lower: Layers | None = None, limits: Limits | None = None, form: Form | None = None
) -> Unpacked:
    """Unpack *archive* into the new directory *into*."""
    into.mkdir()
    with opened(into) as fd:
        return unpack(
            io.BytesIO(archive),
            fd,
            form or form_here(fd),
            lower=lower,
            expected=None,
            limits=limits or Limits(),
        )


def scanned(root: Path) -> list[Entry]:
    with opened(root) as fd:
        return [entry for entry, _ in scan(fd, (form_here(fd).marks,))]


def packed(root: Path, entries: Iterable[Entry] | None = None, newest_ns: int | None = None) -> bytes:
    buffer = io.BytesIO()
    with opened(root) as fd, contextlib.closing(Directories(fd)) as directories:
        content = scanned(root) if entries is None else entries
        pack(content, lambda e: os.fdopen(directories.open(e.path), "rb"), buffer, newest_ns=newest_ns)
    return buffer.getvalue()


def names(entries: Iterable[Entry]) -> dict[str, str]:
    """Return what is where: path → kind, with the opaque ones in capitals."""
    return {os.fsdecode(e.path): e.kind.value.upper() if e.opaque else e.kind.value for e in entries if e.path}
