"""Compressed streams, recognised by what they begin with, whatever their media type claims.

Layers in the field lie about their compression (docker calls zstd layers gzip, load archives hold
either), so the first bytes decide, as in every other tool. gzip is read with python-isal where it is
installed, which takes a third of zlib's time, and always written with zlib: equal content must give
equal bytes on every machine, and isal's output depends on the processor.
"""

import bz2
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Final, cast

from unionfs.errors import ImageError
from unionfs.oci.digest import Reader, Writer

__all__ = ["Source", "compressor", "decompressed", "kind_of"]

_MAGIC: Final = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
}
_SKIPPABLE: Final = b"\x2a\x4d\x18"
"""Bytes 1-3 of a zstd frame that holds no data; byte 0 is 0x50 to 0x5f."""

GZIP_LEVEL: Final = 6
ZSTD_LEVEL: Final = 3


def kind_of(start: bytes) -> str:
    """Return "gzip", "zstd", "bzip2", "xz", or "tar" for anything else."""
    if start[1:4] == _SKIPPABLE and start[0] & 0xF0 == 0x50:
        return "zstd"
    return next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), "tar")


class Source:
    """A stream of decompressed bytes; counts both sides, and calls corruption by its name."""

    def __init__(self, raw: Reader, what: str) -> None:
        self._what = what
        self._raw = _Counted(raw)
        self.kind = kind_of(self._raw.peek())
        self._stream: Reader = _OPENERS[self.kind](self._raw)
        self.produced = 0
        """Bytes given out."""

    @property
    def consumed(self) -> int:
        """Compressed bytes taken in."""
        return self._raw.count

    def read(self, size: int = -1) -> bytes:
        """Return at most *size* bytes, fewer only at the end."""
        try:
            chunk = self._stream.read(size)
        except _errors() as error:
            raise ImageError(f"{self._what}: the {self.kind} stream is truncated or corrupt: {error}") from error
        self.produced += len(chunk)
        return chunk


class _Counted(io.RawIOBase):
    """The compressed side: what was peeked at is read again, and everything is counted."""

    def __init__(self, raw: Reader) -> None:
        self._start = raw.read(8)
        self._file = raw
        self.count = 0

    def peek(self) -> bytes:
        return self._start

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - typeshed's WriteableBuffer
        chunk = self.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def read(self, size: int = -1) -> bytes:
        if self._start:
            chunk, self._start = self._start, b""
        else:
            chunk = self._file.read(size)
        self.count += len(chunk)
        return chunk


def _open_gzip(raw: BinaryIO) -> Reader:
    try:
        from isal import igzip  # noqa: PLC0415 - only what unpacks pays for loading it
    except ImportError:
        return gzip.GzipFile(fileobj=raw)
    return cast(Reader, igzip.IGzipFile(fileobj=raw))  # type: ignore[no-untyped-call]  # isal has no types


def _open_zstd(raw: BinaryIO) -> Reader:
    import zstandard  # noqa: PLC0415 - 30 ms that plain and gzip layers need not pay

    reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
    return cast(Reader, reader)


_OPENERS: Final[dict[str, Callable[[Any], Reader]]] = {
    "gzip": _open_gzip,
    "zstd": _open_zstd,
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
    "tar": lambda raw: raw,
}


def _errors() -> tuple[type[Exception], ...]:
    """Return what readers of streams raise; of libraries, of those that are loaded."""
    known = (("zstandard", "ZstdError"), ("isal.igzip_lib", "IsalError"))
    loaded = [getattr(sys.modules[module], name) for module, name in known if module in sys.modules]
    return (EOFError, OSError, zlib.error, lzma.LZMAError, ValueError, *loaded)


def decompressed(raw: Reader, what: str = "layer") -> Source:
    """Return what *raw* holds, decompressed; *what* names it in errors."""
    return Source(raw, what)


@contextmanager
def compressor(target: Writer, kind: str) -> Iterator[Writer]:
    """Yield a sink whose input reaches *target* compressed as *kind*: "tar" (not), "gzip" or "zstd".

    Equal input gives equal output: a gzip header holds neither a name nor a time.
    """
    if kind == "tar":
        yield target
        return
    if kind == "zstd":
        import zstandard  # noqa: PLC0415 - as above

        with zstandard.ZstdCompressor(level=ZSTD_LEVEL).stream_writer(cast(BinaryIO, target), closefd=False) as sink:
            yield cast(Writer, sink)
        return
    with gzip.GzipFile("", "wb", GZIP_LEVEL, cast(BinaryIO, target), mtime=0) as packed:
        yield cast(Writer, packed)
