"""An image from the store to its registry: blobs first, then the documents that name them.

    blobs, in parallel ─> manifests, by digest ─> index or manifest, by tag

The order is the protocol's: a registry refuses a manifest that names what it does not hold, and a
reader must never see a tag whose layers are still on their way. The bytes of manifests go out as
they are in the store, so an image keeps its digest from registry to registry.

An index goes out only if the store holds all of it. After a pull for one platform it holds one of
the images an index names; then that image alone is pushed, as docker does.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from unionfs.errors import ConfigError
from unionfs.oci.digest import Digest
from unionfs.oci.model import INDEX_TYPES, Descriptor, parse_index, parse_manifest
from unionfs.oci.reference import Reference
from unionfs.oci.registry.client import Client
from unionfs.oci.registry.credentials import DockerConfig
from unionfs.oci.registry.failures import Patience, one_error
from unionfs.oci.registry.mirrors import Registries
from unionfs.oci.registry.observer import Observer
from unionfs.oci.registry.upload import upload
from unionfs.oci.store import BlobStore

__all__ = ["Push", "Pushed"]

PARALLEL: Final = 4


def _nowhere(_digest: Digest) -> Sequence[str]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What a registry now holds."""

    reference: Reference
    descriptor: Descriptor
    sent: int
    """Bytes of blobs that had to be sent."""


@dataclass(slots=True, kw_only=True)
class Push:
    """One push: what, from where, and whither."""

    reference: Reference
    root: Descriptor
    """What the name means in the store: a manifest or an index."""
    descriptor: Descriptor
    """The manifest of the image itself."""
    store: BlobStore
    registries: Registries
    docker: DockerConfig
    observer: Observer = field(default_factory=Observer)
    elsewhere: Callable[[Digest], Sequence[str]] = _nowhere
    """Other repositories of the same registry that may hold a blob."""

    async def run(self) -> Pushed:
        """Push.

        Raises:
            ConfigError: the reference names a digest and no tag.
            RegistryError: the registry does not take it.
            ImageError: the store does not hold all of it.
        """
        if self.reference.tag is None:
            raise ConfigError(f"{self.reference.familiar}: a push needs a tag; try: {self.reference.familiar_name}:TAG")
        manifests = self._manifests()
        root = self.root if manifests != [self.descriptor] else self.descriptor
        attempt = self.registries.origin(self.reference)
        async with Client.of(attempt, self.docker) as client:
            sent = await self._blobs(client, manifests)
            for each in manifests:
                if each != root:
                    await self._document(client, each, str(each.digest))
            await self._document(client, root, self.reference.tag)
        return Pushed(reference=self.reference, descriptor=root, sent=sent)

    def _manifests(self) -> list[Descriptor]:
        """Return the manifests to push: all of an index that is wholly here, else the image's own."""
        if self.root.media_type not in INDEX_TYPES:
            return [self.root]
        named = list(parse_index(self.store.get(self.root.digest)).manifests)
        missing = [each for each in named if not self._is_here(each)]
        if not missing:
            return named
        self.observer.note(
            f"{self.reference.familiar}: {len(missing)} of the {len(named)} images of its index are not here; "
            "pushing one image without the index"
        )
        return [self.descriptor]

    def _is_here(self, manifest: Descriptor) -> bool:
        if manifest.media_type in INDEX_TYPES or not self.store.has(manifest.digest):
            return False
        return all(self.store.has(blob.digest) for blob in _blobs_of(self.store, manifest))

    async def _blobs(self, client: Client, manifests: Iterable[Descriptor]) -> int:
        blobs = {blob.digest: blob for each in manifests for blob in _blobs_of(self.store, each)}
        limit = trio.CapacityLimiter(PARALLEL)
        sent = 0

        async def one(blob: Descriptor) -> None:
            nonlocal sent
            async with limit:
                count = await upload(blob, client, self.store, self.observer, self.elsewhere(blob.digest))
            sent += count

        for blob in blobs.values():
            self.observer.begin(blob.digest, blob.size)
        first, *others = blobs.values()
        await one(first)  # alone: certificates and credentials are found wanting once, not four times
        with one_error():
            async with trio.open_nursery() as nursery:
                for blob in others:
                    nursery.start_soon(one, blob)
        return sent

    async def _document(self, client: Client, document: Descriptor, name: str) -> None:
        content = self.store.get(document.digest)
        patience = Patience(self.observer.note)
        await patience.through(lambda: client.put_manifest(name, content, document.media_type))
        self.observer.note(f"manifest {document.digest.short}: published as {name}")


def _blobs_of(store: BlobStore, manifest: Descriptor) -> list[Descriptor]:
    """Return configuration and layers, without layers whose licence keeps them where they are."""
    parsed = parse_manifest(store.get(manifest.digest))
    layers = [layer for layer in parsed.layers if not layer.is_foreign]
    return [parsed.config, *layers]
