"""Images in archives and directories that nobody imported: found, and read where they lie.

`LooseBlobs` stands in for the store: it remembers where in the archive each blob is and opens it
there. Nothing is written anywhere. A blob that its name promises to be is not digested again when it is
opened; inspection shows what is there, `load` is what verifies.
"""

import hashlib
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, cast

from unionfs.errors import ImageError
from unionfs.oci.compression import decompressed, kind_of
from unionfs.oci.digest import CHUNK, Digest, Reader
from unionfs.oci.images import LayerOf, layers_of
from unionfs.oci.load import Arrived, Content, arrive, understood
from unionfs.oci.model import Descriptor, ImageConfig, parse_config, parse_manifest
from unionfs.oci.platforms import Platform
from unionfs.oci.reference import Reference
from unionfs.oci.store import MAX_DOCUMENT, MissingBlob

__all__ = ["LooseBlobs", "LooseImage", "images_in"]


class LooseImage:
    """An image in an archive."""

    def __init__(self, blobs: "LooseBlobs", descriptor: Descriptor, names: list[Reference]) -> None:
        manifest = parse_manifest(blobs.get(descriptor.digest))
        self.blobs = blobs
        self.names = names
        self.config: Final[ImageConfig] = parse_config(blobs.get(manifest.config.digest))
        self.id: Final = manifest.config.digest
        self.layers: Final[tuple[LayerOf, ...]] = layers_of(manifest, self.config)


class LooseBlobs:
    """Blobs by digest, each with the way to open it."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._open: dict[Digest, Callable[[], BinaryIO]] = {}
        self._sizes: dict[Digest, int] = {}

    def put(self, content: bytes, /) -> Digest:
        """See `load.Blobs`."""
        return self._keep(Digest.of(content), len(content), lambda: io.BytesIO(content))

    def put_stream(self, source: Reader, expected: Digest | None = None, size: int | None = None, /) -> Digest:
        """Remember where *source* is; it is read only if nobody says what it is called."""
        if isinstance(source, Content):
            start, length = source.position, source.size
            reopen: Callable[[], BinaryIO] = partial(_slice, self._source, start, length)
        else:
            path, length = Path(cast(io.FileIO, source).name), size or 0
            reopen = partial(_opened, path)
        return self._keep(expected or _digest(source), length, reopen)

    def _keep(self, digest: Digest, size: int, reopen: Callable[[], BinaryIO]) -> Digest:
        self._open[digest], self._sizes[digest] = reopen, size
        return digest

    def size(self, digest: Digest, /) -> int:
        """See `load.Blobs`."""
        if digest not in self._sizes:
            raise MissingBlob(digest)
        return self._sizes[digest]

    def open(self, digest: Digest, /) -> BinaryIO:
        """See `load.Blobs`."""
        if digest not in self._open:
            raise MissingBlob(digest)
        return self._open[digest]()

    def get(self, digest: Digest, /) -> bytes:
        """See `load.Blobs`."""
        if self.size(digest) > MAX_DOCUMENT:
            raise ImageError(f"blob {digest} is too large for a manifest")
        with self.open(digest) as file:
            return file.read()


def _digest(source: Reader) -> Digest:
    hasher = hashlib.sha256()
    while chunk := source.read(CHUNK):
        hasher.update(chunk)
    return Digest.from_hex(hasher.hexdigest())


class _Slice(io.RawIOBase):
    """A stretch of a stream that has been read up to where the stretch begins."""

    def __init__(self, file: BinaryIO, stream: Reader, size: int) -> None:
        self._file, self._stream, self._left = file, stream, size

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        chunk = self._stream.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(chunk)
        return chunk

    def close(self) -> None:
        self._file.close()
        super().close()


def _slice(path: Path, start: int, size: int) -> BinaryIO:
    """Open a stretch of an archive; one that is compressed as a whole is read from its beginning."""
    file = path.open("rb")
    if kind_of(file.read(8)) == "tar":
        file.seek(start)
        return cast(BinaryIO, _Slice(file, file, size))
    file.seek(0)
    stream = decompressed(file, str(path))
    while start:
        start -= len(stream.read(min(start, CHUNK)))
    return cast(BinaryIO, _Slice(file, stream, size))


def images_in(source: Path, platform: Platform | None = None) -> list[LooseImage]:
    """Return the images in an archive or a directory.

    Raises:
        ImageError: there are none, or *source* is something else.
    """
    blobs = LooseBlobs(source)
    arrived = Arrived(blobs)
    arrive(source, arrived)
    return [LooseImage(blobs, descriptor, names) for descriptor, names in understood(arrived, platform)]


def _opened(path: Path) -> BinaryIO:
    return path.open("rb")
