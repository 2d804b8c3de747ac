"""Blobs: content named by its digest, in the directory form of the OCI image layout.

    ROOT/blobs/sha256/HEX      whole and verified, or not there
    ROOT/partial/HEX           what has arrived of a blob so far; survives for the next attempt
    ROOT/staging/*             content whose name is not known yet
    ROOT/locks/blob-HEX        held by whoever is writing that blob

A blob is published by one rename of a synced file, so a name in blobs/ is a promise: the bytes are
all there and have the digest. A process that dies leaves only files in partial/ and staging/, and its
lock is released by the kernel. Two processes that want the same blob meet at the lock: the second
waits and finds the work done. Nothing here knows what a blob means; `gc` decides what may go.
"""

import errno
import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from unionfs.errors import ImageError
from unionfs.linux.flock import Lock
from unionfs.oci.digest import CHUNK, Digest, DigestMismatch, Reader

__all__ = ["MAX_DOCUMENT", "BlobStore", "BlobWriter", "MissingBlob", "SizeMismatch"]

MAX_DOCUMENT: Final = 8 << 20
"""Bytes of the largest manifest or configuration that is read into memory."""


class MissingBlob(ImageError):
    """The store does not hold the content of that name."""

    def __init__(self, digest: Digest) -> None:
        super().__init__(
            f"blob {digest} is not in the store; pull or load its image again, or try: unionfs check --repair"
        )


class SizeMismatch(ImageError):
    """The content is longer or shorter than its descriptor says."""

    def __init__(self, what: str, promised: int, got: int) -> None:
        super().__init__(f"{what} is {got} bytes long, but {promised} were promised")


class BlobWriter:
    """One blob on its way in: write everything, then commit. Made by `BlobStore.writer`."""

    def __init__(self, file: BinaryIO, expected: Digest | None, size: int | None) -> None:
        self._file = file
        self._expected = expected
        self._size = size
        self._hasher = hashlib.sha256()
        self.offset = 0
        """Bytes held so far; above 0 at the start when an earlier attempt is being resumed."""
        self.exists = False
        """True when the store already holds the blob: write nothing, do not commit."""
        self.digest: Digest | None = None
        """The content's name, once committed."""

    def write(self, data: bytes) -> int:
        """Append *data*.

        Raises:
            SizeMismatch: that is more than was promised; nothing of it is kept.
        """
        if self._size is not None and self.offset + len(data) > self._size:
            raise SizeMismatch(self._expected or "the content", self._size, self.offset + len(data))
        try:
            self._file.write(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._file.name) from error
        self._hasher.update(data)
        self.offset += len(data)
        return len(data)

    def restart(self) -> None:
        """Forget what was written, for a server that cannot resume."""
        self._file.seek(0)
        self._file.truncate()
        self._hasher = hashlib.sha256()
        self.offset = 0

    def resume(self) -> None:
        """Take over what is in the file already. Costs one read of it."""
        self._file.seek(0)
        while chunk := self._file.read(CHUNK):
            self._hasher.update(chunk)
            self.offset += len(chunk)
        if self._size is not None and self.offset > self._size:
            self.restart()

    def commit(self) -> Digest:
        """Check what was written and make it durable; the store publishes it when the block ends.

        Raises:
            SizeMismatch: bytes are missing; they are kept and the next writer resumes.
            DigestMismatch: the content is another one; what was written is dropped.
        """
        if self._size is not None and self.offset != self._size:
            raise SizeMismatch(self._expected or "the content", self._size, self.offset)
        got = Digest.from_hex(self._hasher.hexdigest())
        if self._expected is not None and got != self._expected:
            self.restart()
            raise DigestMismatch(self._expected, got)
        self._file.flush()
        os.fsync(self._file.fileno())
        self.digest = got
        return got


class BlobStore:
    """Blobs under one root. Every method is atomic and may be called from several processes."""

    def __init__(self, root: Path) -> None:
        """Use the store at *root*, making its directories where they are missing."""
        self.root = root
        self._blobs = root / "blobs" / "sha256"
        self._partial = root / "partial"
        self._staging = root / "staging"
        for directory in (self._blobs, self._partial, self._staging):
            directory.mkdir(parents=True, exist_ok=True)

    def path(self, digest: Digest) -> Path:
        """Where the blob is, or would be."""
        return self._blobs / digest.hex

    def has(self, digest: Digest) -> bool:
        """Return whether the blob is here, whole."""
        return self.path(digest).is_file()

    def size(self, digest: Digest) -> int:
        """Return the blob's size in bytes, or raise MissingBlob."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError as error:
            raise MissingBlob(digest) from error

    def open(self, digest: Digest) -> BinaryIO:
        """Open the blob for reading, or raise MissingBlob. An open blob survives its deletion."""
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError as error:
            raise MissingBlob(digest) from error

    def get(self, digest: Digest) -> bytes:
        """Return a small blob (manifest, configuration), verified again.

        Raises:
            MissingBlob: it is not here.
            DigestMismatch: the disk does not hold what it was given.
        """
        with self.open(digest) as file:
            content = file.read(MAX_DOCUMENT + 1)
        if len(content) > MAX_DOCUMENT:
            raise ImageError(f"blob {digest} is too large for a manifest: more than {MAX_DOCUMENT} bytes")
        if (got := Digest.of(content)) != digest:
            raise DigestMismatch(digest, got)
        return content

    def put(self, content: bytes) -> Digest:
        """Store *content* and return its name. None the worse if it is here already."""
        digest = Digest.of(content)
        with self.writer(digest, len(content)) as writer:
            if not writer.exists:
                writer.restart()
                writer.write(content)
                writer.commit()
        return digest

    def put_stream(self, source: Reader, expected: Digest | None = None, size: int | None = None) -> Digest:
        """Store everything that *source* yields; see `writer` for what is checked."""
        with self.writer(expected, size) as writer:
            if writer.exists and expected:
                return expected
            writer.restart()
            while chunk := source.read(CHUNK):
                writer.write(chunk)
            return writer.commit()

    def lock(self, digest: Digest) -> Lock:
        """Return the lock of whoever writes that blob."""
        return Lock(self.root / "locks" / f"blob-{digest.hex}")

    @contextmanager
    def writer(self, expected: Digest | None = None, size: int | None = None) -> Iterator[BlobWriter]:
        """Write one blob; it is published when the block ends after a `commit`.

        With *expected*, the blob's lock is held for the whole block: this call blocks (call it from a
        worker thread) while another process or thread writes the same blob, and afterwards finds
        ``exists``. What an interrupted attempt left is resumed: ``offset`` says from where to go on;
        call ``restart`` when that is not possible. A block left without commit keeps the partial file;
        *size* is then checked first, because a short blob is worth resuming and a wrong one is not.

        Without *expected* the name is whatever the content turns out to be, and nothing is resumed.
        """
        if expected is None:
            with self._anonymous(size) as writer:
                yield writer
            return
        with self.lock(expected):
            if self.has(expected):
                yield self._present(expected)
                return
            path = self._partial / expected.hex
            with path.open("a+b") as file:
                writer = BlobWriter(file, expected, size)
                writer.resume()
                yield writer
            if writer.digest is not None:
                self._publish(path, expected)

    def _present(self, digest: Digest) -> BlobWriter:
        writer = BlobWriter(io.BytesIO(), digest, None)
        writer.offset, writer.exists, writer.digest = self.size(digest), True, digest
        return writer

    @contextmanager
    def _anonymous(self, size: int | None) -> Iterator[BlobWriter]:
        path = self._staging / f"blob-{os.getpid()}-{os.urandom(6).hex()}"
        try:
            with path.open("xb+") as file:
                writer = BlobWriter(file, None, size)
                yield writer
            if writer.digest is not None:
                with self.lock(writer.digest):
                    self._publish(path, writer.digest)
        finally:
            path.unlink(missing_ok=True)

    def _publish(self, path: Path, digest: Digest) -> None:
        path.chmod(0o444)
        path.rename(self.path(digest))
        sync_directory(self._blobs)

    def delete(self, digest: Digest) -> int:
        """Remove the blob; returns the bytes freed, 0 when it was not here."""
        try:
            size = self.path(digest).stat().st_size
            self.path(digest).unlink()
        except FileNotFoundError:
            return 0
        return size

    def __iter__(self) -> Iterator[Digest]:
        """Yield the name of every blob that is here; a file of another name is none."""
        for entry in os.scandir(self._blobs):
            if len(entry.name) == 64 and entry.is_file(follow_symlinks=False):
                yield Digest.from_hex(entry.name)


def write_durably(path: Path, content: bytes) -> None:
    """Make the file *path*, which must not be there, and have its content on the disk."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make the names in *path* durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a filesystem that has no such thing
            raise
    finally:
        os.close(fd)
