"""Images made of literal archives."""

import gzip
import json
from collections.abc import Callable, Sequence

import zstandard

from unionfs.oci.digest import Digest
from unionfs.oci.images import Image, Images
from unionfs.oci.model import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    encode,
)
from unionfs.oci.reference import Reference

PACKED: dict[str, Callable[[bytes], bytes]] = {
    OCI_LAYER: bytes,
    OCI_LAYER_GZIP: lambda raw: gzip.compress(raw, mtime=0),
    OCI_LAYER_ZSTD: zstandard.compress,
    DOCKER_LAYER_GZIP: lambda raw: gzip.compress(raw, mtime=0),
}


def image_of(
    images: Images, layers: Sequence[bytes], name: str | None = None, *, layer_type: str = OCI_LAYER_GZIP
) -> Image:
    """Put an image of these uncompressed archives, bottom first, into the store."""
    is_docker = layer_type == DOCKER_LAYER_GZIP
    blobs = []
    for layer in layers:
        packed = PACKED[layer_type](layer)
        blobs.append(Descriptor(media_type=layer_type, digest=images.blobs.put(packed), size=len(packed)))
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-05-06T07:08:09Z",
            "config": {"Cmd": ["/bin/sh"], "Env": ["A=1"], "Labels": {"l": "v"}},
            "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(layer)) for layer in layers]},
            "history": [{"created_by": f"step {number}"} for number in range(len(layers))]
            + [{"created_by": "CMD sh", "empty_layer": True}],
        }
    ).encode()
    manifest = Manifest(
        schema_version=2,
        media_type=DOCKER_MANIFEST if is_docker else OCI_MANIFEST,
        config=Descriptor(
            media_type=DOCKER_CONFIG if is_docker else OCI_CONFIG, digest=images.blobs.put(config), size=len(config)
        ),
        layers=tuple(blobs),
    )
    raw = encode(manifest)
    descriptor = Descriptor(media_type=manifest.media_type, digest=images.blobs.put(raw), size=len(raw))
    return images.add(descriptor, Reference.parse(name) if name else None)
