"""One blob, from one host into the store: streamed, checked, resumed.

    claim ─> store.writer ─> receive ─┬─ all there ──> commit: length, digest, rename
                                      ├─ broken off ─> wait, go on from the last byte (Range)
                                      └─ too long, other length, other digest ─> wrong content

Memory is one CHUNK for each blob under way, whatever its size. A blob's first bytes may be from
another run or another host (`oci.store` keeps what arrived), so a wrong digest accuses the host
only if it sent every byte: else the blob is fetched once more, whole, before it is believed to be
the host's fault.

Two processes that want one blob meet at a claim, a lock that is polled, because waiting for flock(2)
in a thread could not be cancelled; whoever comes second finds the blob in the store.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from functools import partial
from typing import Final, Protocol, TypeVar

import trio

from unionfs.linux.flock import Lock
from unionfs.oci.digest import CHUNK, Digest, DigestMismatch
from unionfs.oci.model import Descriptor
from unionfs.oci.registry.client import Incoming
from unionfs.oci.registry.failures import PROGRESS, NotNow, Patience
from unionfs.oci.registry.observer import Observer
from unionfs.oci.store import BlobStore, BlobWriter

__all__ = ["claimed", "download", "in_thread"]

T = TypeVar("T")

POLL_SECONDS: Final = 0.1

SLOW_SECONDS: Final = 120
"""A host that sends less than PROGRESS in that time may as well be silent: another one may be asked."""


@asynccontextmanager
async def claimed(store: BlobStore, blob: Descriptor, observer: Observer) -> AsyncIterator[None]:
    """Hold the right to fetch *blob*, for which another process may have to be waited for."""
    lock = Lock(store.root / "locks" / f"fetch-{blob.digest.hex}")
    waiting = False
    while True:
        if lock.acquire(wait=False):
            break
        if not waiting:
            observer.note(f"{blob.digest.short}: another process is fetching it; waiting")
        waiting = True
        await trio.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()


@asynccontextmanager
async def in_thread(manager: AbstractContextManager[T]) -> AsyncIterator[T]:
    """Enter and leave a blocking context manager in worker threads."""
    value = await trio.to_thread.run_sync(manager.__enter__)
    try:
        yield value
    except BaseException as exc:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(manager.__exit__, type(exc), exc, exc.__traceback__)
        raise
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(manager.__exit__, None, None, None)


class Host(Protocol):
    """Whoever has a blob."""

    def blob(self, digest: Digest, size: int, offset: int = 0, /) -> AbstractAsyncContextManager[Incoming]:
        """See `Client.blob`."""


async def download(blob: Descriptor, client: Host, patience: Patience, store: BlobStore, observer: Observer) -> int:
    """Bring *blob* into the store; return how many bytes this host sent for it.

    Raises:
        DigestMismatch, SizeMismatch: the host has something else under this name.
        NotNow, Refused: it does not hand it out.
    """
    async with in_thread(store.writer(blob.digest, blob.size)) as writer:
        if writer.exists:
            return 0
        return await _Download(blob, client, patience, writer, observer).run()


class _Download:
    """One blob under way."""

    def __init__(
        self, blob: Descriptor, client: Host, patience: Patience, writer: BlobWriter, observer: Observer
    ) -> None:
        self._blob = blob
        self._client = client
        self._patience = patience
        self._writer = writer
        self._observer = observer
        self._from_host = 0
        """Bytes in the writer that this host sent, in this run."""
        self._sent = 0

    async def run(self) -> int:
        while True:
            await self._fill()
            try:
                await trio.to_thread.run_sync(self._writer.commit)
            except DigestMismatch:
                if self._from_host >= self._blob.size:
                    raise
                self._observer.note(f"{self._blob.digest.short}: the resumed part was wrong; fetching it all")
                self._from_host = 0
                continue
            return self._sent

    async def _fill(self) -> None:
        """Receive until the writer holds as many bytes as were promised."""
        while self._writer.offset < self._blob.size:
            before = self._sent
            try:
                with trio.move_on_after(SLOW_SECONDS) as scope:
                    async with self._client.blob(self._blob.digest, self._blob.size, self._writer.offset) as incoming:
                        await self._receive(incoming, scope)
                if scope.cancelled_caught:
                    raise NotNow(f"{self._blob.digest.short}: less than {PROGRESS} bytes in {SLOW_SECONDS} s")
                if self._writer.offset < self._blob.size:
                    missing = self._blob.size - self._writer.offset
                    raise NotNow(f"{self._blob.digest.short}: broken off {missing} bytes before its end")
            except NotNow as failure:
                await self._patience.after(failure, progress=self._sent - before)

    async def _receive(self, incoming: Incoming, scope: trio.CancelScope) -> None:
        if incoming.offset < self._writer.offset:
            await trio.to_thread.run_sync(self._writer.restart)
            self._from_host = 0
        pending, since = bytearray(), 0
        try:
            async for chunk in incoming.chunks:
                pending += chunk
                since += len(chunk)
                if since >= PROGRESS:
                    scope.deadline, since = trio.current_time() + SLOW_SECONDS, 0
                if len(pending) >= CHUNK:
                    await self._write(pending)
        finally:
            with trio.CancelScope(shield=True):  # what has arrived need not arrive again
                await self._write(pending)

    async def _write(self, pending: bytearray) -> None:
        await trio.to_thread.run_sync(partial(self._writer.write, bytes(pending)))
        self._from_host += len(pending)
        self._sent += len(pending)
        self._observer.at(self._blob.digest, self._writer.offset)
        pending.clear()
