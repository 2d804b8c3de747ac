"""Small real images, made in a store; and an observer that remembers what it heard."""

import gzip
import io
import tarfile
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from unionfs.oci.digest import Digest
from unionfs.oci.model import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    RootFS,
    encode,
)
from unionfs.oci.platforms import Platform, host_platform
from unionfs.oci.registry.observer import Observer
from unionfs.oci.store import BlobStore

__all__ = ["BIG", "Heard", "Made", "index_of", "layer_of", "make_image", "stored"]


BIG: Final = b"".join(Digest.of(n.to_bytes(4, "big")).hex.encode() for n in range(60_000))
"""Some 4 MB that compress to half: a layer that takes a second chunk."""


@dataclass(frozen=True)
class Made:
    """An image, as descriptors; everything they name is in the store it was made in."""

    descriptor: Descriptor
    manifest: Manifest

    @property
    def blobs(self) -> list[Descriptor]:
        return [self.manifest.config, *self.manifest.layers]


@dataclass
class Heard(Observer):
    """Remembers notes and warnings."""

    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    ends: dict[Digest, str] = field(default_factory=dict)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def end(self, digest: Digest, how: str) -> None:
        self.ends[digest] = how

    def __str__(self) -> str:
        return "\n".join(self.notes)


def stored(store: BlobStore, content: bytes, media_type: str) -> Descriptor:
    return Descriptor(media_type=media_type, digest=store.put(content), size=len(content))


def layer_of(files: dict[str, bytes]) -> bytes:
    """Return an uncompressed layer."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


@cache
def compressed(layer: bytes) -> bytes:
    return gzip.compress(layer, 1, mtime=0)


def make_image(store: BlobStore, *layers: bytes, platform: Platform | None = None) -> Made:
    """Put an image of these uncompressed layers into *store*, bottom first."""
    platform = platform or host_platform()
    config = ImageConfig(
        architecture=platform.architecture,
        os=platform.os,
        variant=platform.variant,
        rootfs=RootFS(type="layers", diff_ids=tuple(Digest.of(layer) for layer in layers)),
    )
    manifest = Manifest(
        schema_version=2,
        config=stored(store, encode(config), OCI_CONFIG),
        layers=tuple(stored(store, compressed(layer), OCI_LAYER_GZIP) for layer in layers),
    )
    return Made(stored(store, encode(manifest), OCI_MANIFEST), manifest)


def index_of(store: BlobStore, images: dict[Platform, Made]) -> Descriptor:
    """Put an index of these images into *store*."""
    entries = tuple(
        Descriptor(
            media_type=made.descriptor.media_type,
            digest=made.descriptor.digest,
            size=made.descriptor.size,
            platform=platform,
        )
        for platform, made in images.items()
    )
    return stored(store, encode(Index(schema_version=2, manifests=entries)), OCI_INDEX)
