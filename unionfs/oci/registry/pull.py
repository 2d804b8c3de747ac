"""An image from a registry into the store: its manifests, its configuration, its layers.

    tag ─resolve─> digest ─manifest─> [index ─choose─> manifest] ─> configuration ─> layers, in parallel

From the first digest on, every step names the next by digest and size, and whoever hands it over is
checked against both; only the meaning of a tag is taken on trust, from hosts with the right to say
it. What the store already has is not asked for again, so a second pull costs one request.

Layers are unpacked bottom first, each as soon as it and those below are there, while others are still
on their way; a name is for the caller to give, when all of it has gone well.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import trio

from unionfs.errors import ImageError, RegistryError
from unionfs.oci.digest import Digest
from unionfs.oci.images import LayerOf, layers_of
from unionfs.oci.model import (
    INDEX_TYPES,
    Descriptor,
    ImageConfig,
    Manifest,
    media_type_of,
    parse_config,
    parse_index,
    parse_manifest,
)
from unionfs.oci.platforms import Platform, choose, host_platform
from unionfs.oci.reference import Reference
from unionfs.oci.registry.client import Client, Document
from unionfs.oci.registry.credentials import DockerConfig
from unionfs.oci.registry.download import claimed, download
from unionfs.oci.registry.failures import Patience, one_error
from unionfs.oci.registry.foreign import fetch
from unionfs.oci.registry.mirrors import Registries, Right
from unionfs.oci.registry.observer import Observer
from unionfs.oci.registry.trail import Trail
from unionfs.oci.snapshots import Snapshots
from unionfs.oci.store import MAX_DOCUMENT, BlobStore, SizeMismatch

__all__ = ["Pull", "Pulled"]

PARALLEL: Final = 4
"""Layers under way at once: enough to fill a line of long round trips; docker has 3, podman 6."""

PATIENCE_S: Final = 30.0
"""How long a pull that failed waits for the layer that is being unpacked, which then fails as well or is whole."""

MAX_NESTING: Final = 3
"""Indexes in indexes; nobody builds more than one in one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """An image whose every blob is in the store."""

    reference: Reference
    root: Descriptor
    """What the reference means: a manifest, or the index it was chosen from."""
    descriptor: Descriptor
    """The manifest for the platform."""
    manifest: Manifest
    config: ImageConfig
    received: int
    """Bytes that came over the network for configuration and layers."""


@dataclass(slots=True, kw_only=True)
class Pull:
    """One pull: what is wanted, from where, and where it goes."""

    reference: Reference
    store: BlobStore
    registries: Registries
    docker: DockerConfig
    platform: Platform | None = None
    """None: this machine's; an image of another one is taken, with a warning, if it has no other."""
    observer: Observer = field(default_factory=Observer)
    snapshots: Snapshots | None = None
    """Where layers are unpacked; None leaves them as blobs."""

    async def run(self) -> Pulled:
        """Pull.

        Raises:
            RegistryError: no host that may be asked has it.
            ImageError: what the reference means is no image, or none for this platform.
        """
        attempts = self.registries.attempts(self.reference)
        async with Trail(attempts, self.docker, self.observer) as trail:
            digest = self.reference.digest or await self._resolve(trail)
            root, content = await self._document(trail, digest)
            descriptor, content = await self._chosen(trail, root, content)
            manifest = parse_manifest(content)
            first, config = await self._config(trail, manifest)
            others = await self._layers(trail, layers_of(manifest, config))
        return Pulled(
            reference=self.reference,
            root=root,
            descriptor=descriptor,
            manifest=manifest,
            config=config,
            received=first + others,
        )

    async def _resolve(self, trail: Trail) -> Digest:
        tag = self.reference.wanted

        async def ask(client: Client, patience: Patience) -> Digest:
            return await patience.through(lambda: client.resolve(tag))

        return await trail.first(Right.RESOLVE, f"resolve {self.reference.familiar}", ask)

    async def _document(self, trail: Trail, digest: Digest, promised: int | None = None) -> tuple[Descriptor, bytes]:
        """Return a manifest or index, from the store or a host."""

        async def ask(client: Client, patience: Patience) -> Document:
            document = await patience.through(lambda: client.manifest(digest))
            if promised is not None and len(document.content) != promised:
                raise SizeMismatch(digest, promised, len(document.content))
            return document

        if self.store.has(digest):
            document = Document(await trio.to_thread.run_sync(self.store.get, digest), None)
        else:
            document = await trail.first(Right.PULL, f"manifest {digest.short}", ask)
            await trio.to_thread.run_sync(self.store.put, document.content)
        kind = media_type_of(document.content, document.media_type)
        return Descriptor(media_type=kind, digest=digest, size=len(document.content)), document.content

    async def _chosen(self, trail: Trail, root: Descriptor, content: bytes) -> tuple[Descriptor, bytes]:
        """Go down from an index to the manifest for the platform."""
        found = root
        for _ in range(MAX_NESTING):
            if found.media_type not in INDEX_TYPES:
                return found, content
            wanted = choose(parse_index(content).manifests, self.platform or host_platform())
            found, content = await self._document(trail, wanted.digest, wanted.size)
        raise ImageError(f"{self.reference.familiar}: indexes nested more than {MAX_NESTING} deep")

    async def _config(self, trail: Trail, manifest: Manifest) -> tuple[int, ImageConfig]:
        if manifest.config.size > MAX_DOCUMENT:
            raise ImageError(f"its configuration is larger than {MAX_DOCUMENT} bytes")
        received = await self._blob(trail, manifest.config, "configuration")
        config = parse_config(await trio.to_thread.run_sync(self.store.get, manifest.config.digest))
        self._check_platform(config)
        return received, config

    def _check_platform(self, config: ImageConfig) -> None:
        """An index was chosen from by platform; a manifest alone must be looked at."""
        have = Platform(os=config.os, architecture=config.architecture, variant=config.variant)
        wanted = self.platform or host_platform()
        if (have.os, have.architecture) == (wanted.os, wanted.architecture):
            return
        if self.platform:
            raise ImageError(f"{self.reference.familiar} is for {have}, not for {wanted}; try: --platform {have}")
        self.observer.warn(f"{self.reference.familiar} is for {have}, this machine is {wanted}")

    async def _layers(self, trail: Trail, layers: Sequence[LayerOf]) -> int:
        blobs = {layer.blob.digest: layer.blob for layer in layers}
        arrived = {digest: trio.Event() for digest in blobs}
        limit = trio.CapacityLimiter(PARALLEL)
        received, patience_s = 0, 0.0

        async def fetch(blob: Descriptor) -> None:
            nonlocal received, patience_s
            async with limit:
                try:
                    count = await self._blob(trail, blob, "layer")
                except Exception:
                    patience_s = PATIENCE_S
                    raise
            received += count
            arrived[blob.digest].set()

        async def unpack(snapshots: Snapshots) -> None:
            for at, layer in enumerate(layers):
                await arrived[layer.blob.digest].wait()
                below = tuple(each.chain_id for each in layers[:at])
                await _abandoned(partial(snapshots.ensure_one, layer, below), after=lambda: patience_s)
                self.observer.unpacked(layer.blob.digest)

        for blob in blobs.values():
            self.observer.begin(blob.digest, blob.size)
        with one_error():
            async with trio.open_nursery() as nursery:
                for blob in blobs.values():
                    nursery.start_soon(fetch, blob)
                if self.snapshots:
                    nursery.start_soon(unpack, self.snapshots)
        return received

    async def _blob(self, trail: Trail, blob: Descriptor, what: str) -> int:
        """Bring one blob into the store; return the bytes that came over the network."""

        async def ask(client: Client, patience: Patience) -> int:
            return await download(blob, client, patience, self.store, self.observer)

        async with claimed(self.store, blob, self.observer):
            if self.store.has(blob.digest):
                self.observer.end(blob.digest, "already here")
                return 0
            try:
                received = await trail.first(Right.PULL, f"{what} {blob.digest.short}", ask)
            except RegistryError:
                if not blob.is_foreign or not trail.may_leave:
                    raise
                received = await fetch(blob, self.reference.registry, self.store, self.observer)
        self.observer.end(blob.digest, "fetched")
        return received


async def _abandoned(act: Callable[[], None], *, after: Callable[[], float]) -> None:
    """Do *act* in a thread; when this is cancelled, wait for it no longer than *after* says, in seconds.

    A thread that is still at work then ends with the process and leaves what a crash would: a staged directory. For
    whoever interrupts us that is right, but after a failure, of a full disk for one, it would keep the disk full.
    """
    over = threading.Event()

    def work() -> None:
        try:
            act()
        finally:
            over.set()

    try:
        await trio.to_thread.run_sync(work, abandon_on_cancel=True)
    except trio.Cancelled:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(over.wait, after())
        raise
