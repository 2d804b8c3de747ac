"""One blob, from the store to a registry: taken over, or sent whole, or sent on.

    there already? ─> taken over from a repository of the same registry? ─> POST, PATCH, PUT
                                                                  small: POST, PUT

The bytes go out in one chunk, as docker sends them, because that is what every registry takes;
a chunk that breaks off is followed by one with the rest, from where the registry says it stands. So an
OCI-Chunk-Min-Length is always met: it is for chunks that are not the last.
What is read is hashed on the way, so that a damaged store is noticed before its content is given
the name, and the registry's name for it is compared.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import BinaryIO, Final, Self

import httpx
import trio

from unionfs.oci.digest import CHUNK, Digest, DigestMismatch
from unionfs.oci.model import Descriptor
from unionfs.oci.registry.client import Client, Upload
from unionfs.oci.registry.failures import NotNow, Patience, Refused
from unionfs.oci.registry.observer import Observer
from unionfs.oci.store import BlobStore, SizeMismatch

__all__ = ["upload"]

SMALL: Final = CHUNK
"""Bytes up to which a blob goes out in one request."""

MAX_SOURCES: Final = 3
"""Repositories that are offered to take a blob over from, before it is sent."""


async def upload(
    blob: Descriptor, client: Client, store: BlobStore, observer: Observer, sources: Sequence[str] = ()
) -> int:
    """See to it that the repository holds *blob*; return how many bytes had to be sent.

    *sources* are repositories of the same registry that may hold it.

    Raises:
        MissingBlob, DigestMismatch, SizeMismatch: the store does not hold what its name says.
        NotNow, Refused: the registry does not take it.
    """
    patience = Patience(observer.note)
    with await trio.to_thread.run_sync(store.open, blob.digest) as file:
        source = _Source(file, blob, observer)
        return await patience.through(lambda: _upload(source, client, patience, sources))


async def _upload(source: "_Source", client: Client, patience: Patience, sources: Sequence[str]) -> int:
    """Go through all of it once; what `NotNow` interrupts may have come to an end unheard, so ask first."""
    blob, observer = source.blob, source.observer
    if await client.has_blob(blob.digest):
        observer.end(blob.digest, "already there")
        return 0
    session = await _begin(source, client, sources)
    if session is None:
        return 0
    if blob.size <= SMALL:
        source.seek(0)
        content = await source.read(SMALL + 1)
        source.check()
        await client.finish(session, blob.digest, content)
    else:
        session = await _send(source, client, patience, session)
        source.check()
        await client.finish(session, blob.digest)
    observer.end(blob.digest, "sent")
    return blob.size


async def _begin(source: "_Source", client: Client, sources: Sequence[str]) -> Upload | None:
    """Begin an upload; None if the registry took the blob over from elsewhere."""
    blob, observer = source.blob, source.observer
    for repository in sources[:MAX_SOURCES]:
        try:
            session = await client.start_upload(blob.digest, repository)
        except Refused as exc:  # no right to read there is no reason not to write here
            observer.note(f"{blob.digest.short}: not taken over from {repository}: {exc}")
            continue
        if session is None:
            observer.end(blob.digest, f"taken over from {repository}")
            return None
        observer.note(f"{blob.digest.short}: {repository} has it not")
        return session
    return await client.start_upload()


async def _send(source: "_Source", client: Client, patience: Patience, session: Upload) -> Upload:
    """Send a large blob, and what is left of it after each interruption."""
    size, start = source.blob.size, 0
    while start < size:
        try:
            return await client.send(session, partial(source.chunks, start), start, size)
        except NotNow as failure:
            await patience.after(failure, progress=source.offset - start)
            session, start = await _resume(source, client, patience, session)
    return session


async def _resume(source: "_Source", client: Client, patience: Patience, session: Upload) -> tuple[Upload, int]:
    """Return where the upload stands; a new one at 0 if the registry has forgotten it."""
    try:
        session, start = await patience.through(lambda: client.received(session))
    except Refused:
        again = await patience.through(client.start_upload)
        return again or session, 0
    if start > source.offset:
        raise Refused(f"{source.blob.digest.short}: the registry says it has {start} bytes of {source.offset} sent")
    return session, start


class _Source:
    """A blob's bytes from the store, hashed once however often they are read."""

    def __init__(self, file: BinaryIO, blob: Descriptor, observer: Observer) -> None:
        self._file = file
        self.blob = blob
        self.observer = observer
        self._hasher = hashlib.sha256()
        self._hashed = 0
        self.offset = 0
        """Where reading stands."""

    def chunks(self, start: int) -> "_Chunks":
        """Return the bytes from *start* on, as the body of one request."""
        self.seek(start)
        return _Chunks(self)

    def seek(self, start: int) -> None:
        self._file.seek(start)
        self.offset = start

    async def read(self, size: int = CHUNK) -> bytes:
        """Return the next bytes; nothing at the end."""
        self.observer.at(self.blob.digest, self.offset)
        return await trio.to_thread.run_sync(self._read, size)

    def _read(self, size: int) -> bytes:
        chunk = self._file.read(size)
        end = self.offset + len(chunk)
        if end > self._hashed:
            self._hasher.update(chunk[self._hashed - self.offset :])
            self._hashed = end
        self.offset = end
        return chunk

    def check(self) -> None:
        """Compare what was read with the name.

        Raises:
            DigestMismatch, SizeMismatch: the store is damaged.
        """
        if self._hashed != self.blob.size:
            raise SizeMismatch(self.blob.digest, self.blob.size, self._hashed)
        got = Digest.from_hex(self._hasher.hexdigest())
        if got != self.blob.digest:
            raise DigestMismatch(self.blob.digest, got)


class _Chunks(httpx.AsyncByteStream):
    """A body that may be left half sent. Not a generator: trio complains of one that is."""

    def __init__(self, source: _Source) -> None:
        self._source = source

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._source.read()
        if not chunk:
            raise StopAsyncIteration
        return chunk
