"""Write images to a file or a directory that other tools load.

    docker-archive     manifest.json, a configuration and uncompressed layers, named by their digests
    oci-archive, oci   an image layout, as a tar or a directory; blobs as they are in the store
    docker-dir         skopeo's dir: one image, blobs beside its manifest

Everything goes out in one pass, to a pipe too. Equal images give equal bytes: files are sorted, and no
time of the machine gets in. The two families of formats want media types of their own: where an image
has the other's, its manifest is rewritten and gets a new digest; configuration and layers stay the same.
"""

import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import msgspec
from msgspec.structs import replace

from unionfs.errors import ConfigError, ImageError
from unionfs.oci.compression import decompressed
from unionfs.oci.digest import CHUNK, Digest, Reader, Writer
from unionfs.oci.images import Image, LayerOf
from unionfs.oci.layout import LAYOUT, LAYOUT_FILE, index_of
from unionfs.oci.model import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    LAYER_TYPES,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    encode,
)
from unionfs.oci.pack import END
from unionfs.oci.reference import Reference
from unionfs.oci.store import BlobStore
from unionfs.oci.tarheader import BLOCK

__all__ = ["FORMATS", "Chosen", "as_docker", "as_oci", "save"]

FORMATS: Final = ("docker-archive", "oci-archive", "oci-dir", "docker-dir")

Chosen = tuple[Image, Sequence[Reference]]
"""An image and the names that it is saved under."""

_OCI_LAYERS: Final = {"tar": OCI_LAYER, "gzip": OCI_LAYER + "+gzip", "zstd": OCI_LAYER + "+zstd"}
_DOCKER_LAYERS: Final = {"tar": DOCKER_LAYER, "gzip": DOCKER_LAYER_GZIP, "zstd": DOCKER_LAYER + ".zstd"}


class Sink(Protocol):
    """Where files go, in whatever order they come."""

    def add(self, path: str, size: int, content: Iterable[bytes]) -> None:
        """Write one file of *size* bytes."""

    def close(self) -> None:
        """Finish."""


class TarSink:
    """Files into an archive."""

    def __init__(self, target: Writer) -> None:
        self._target = target

    def add(self, path: str, size: int, content: Iterable[bytes]) -> None:
        """See `Sink.add`."""
        info = tarfile.TarInfo(path)
        info.size, info.mode = size, 0o644
        self._target.write(info.tobuf(tarfile.PAX_FORMAT))
        written = sum(map(self._target.write, content))
        if written != size:
            raise ImageError(f"{path} has {written} bytes instead of {size}; try: unionfs check")
        self._target.write(bytes(-size % BLOCK))

    def close(self) -> None:
        """See `Sink.close`."""
        self._target.write(END)


class DirectorySink:
    """Files into a directory that is new or empty."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise ConfigError(f"{directory} is not empty; try: another name")
        self._directory = directory

    def add(self, path: str, size: int, content: Iterable[bytes]) -> None:
        """See `Sink.add`."""
        target = self._directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            written = sum(map(file.write, content))
        if written != size:
            raise ImageError(f"{path} has {written} bytes instead of {size}; try: unionfs check")

    def close(self) -> None:
        """See `Sink.close`."""


def as_oci(manifest: Manifest) -> Manifest:
    """Return the manifest with the media types of the image specification."""
    return _typed(manifest, OCI_MANIFEST, OCI_CONFIG, _OCI_LAYERS)


def as_docker(manifest: Manifest) -> Manifest:
    """Return the manifest with docker's media types."""
    return _typed(replace(manifest, annotations=None), DOCKER_MANIFEST, DOCKER_CONFIG, _DOCKER_LAYERS)


def _typed(manifest: Manifest, own: str, config: str, layers: dict[str, str]) -> Manifest:
    return replace(
        manifest,
        media_type=own,
        config=replace(manifest.config, media_type=config),
        layers=tuple(replace(layer, media_type=layers[LAYER_TYPES[layer.media_type]]) for layer in manifest.layers),
    )


def save(blobs: BlobStore, chosen: Sequence[Chosen], form: str, target: BinaryIO | Path) -> None:
    """Write the images to *target*: an open file for the archives, a directory for the others.

    Raises:
        ImageError: the format cannot hold them, or the store has lost a blob.
    """
    if form == "docker-dir" and len(chosen) != 1:
        raise ImageError("docker-dir holds one image; try: --format oci-dir")
    sink: Sink = DirectorySink(target) if isinstance(target, Path) else TarSink(target)
    _WRITERS[form](blobs, chosen, sink)
    sink.close()


def _oci(blobs: BlobStore, chosen: Sequence[Chosen], sink: Sink) -> None:
    files: dict[Digest, tuple[int, bytes | None]] = {}
    listed = []
    for image, names in chosen:
        content = blobs.get(image.descriptor.digest)
        descriptor = image.descriptor
        if image.manifest != as_oci(image.manifest):
            content = encode(as_oci(image.manifest))
            descriptor = Descriptor(media_type=OCI_MANIFEST, digest=Digest.of(content), size=len(content))
        listed.append((descriptor, names))
        files[descriptor.digest] = (len(content), content)
        for blob in (image.manifest.config, *image.manifest.layers):
            files[blob.digest] = (blob.size, None)
    _text(sink, LAYOUT_FILE, LAYOUT)
    _text(sink, "index.json", index_of(listed))
    for digest, (size, known) in sorted(files.items()):
        sink.add(f"blobs/sha256/{digest.hex}", size, [known] if known is not None else _blob(blobs, digest))


def _docker(blobs: BlobStore, chosen: Sequence[Chosen], sink: Sink) -> None:
    listed: list[dict[str, Any]] = []
    layers: dict[Digest, LayerOf] = {}
    for image, names in chosen:
        _text(sink, f"{image.id.hex}.json", blobs.get(image.id)) if all(
            image.id.hex not in entry["Config"] for entry in listed
        ) else None
        layers |= {layer.diff_id: layer for layer in image.layers}
        listed.append(
            {
                "Config": f"{image.id.hex}.json",
                "RepoTags": [str(name) for name in names],
                "Layers": [f"{layer.diff_id.hex}.tar" for layer in image.layers],
            }
        )
    for diff_id, layer in sorted(layers.items()):
        size = sum(map(len, _decompressed(blobs, layer)))  # the header comes before the content
        sink.add(f"{diff_id.hex}.tar", size, _decompressed(blobs, layer))
    _text(sink, "manifest.json", msgspec.json.encode(listed))


def _docker_dir(blobs: BlobStore, chosen: Sequence[Chosen], sink: Sink) -> None:
    ((image, _names),) = chosen
    same = image.manifest == as_docker(image.manifest)
    _text(sink, "version", b"Directory Transport Version: 1.1\n")
    for blob in {b.digest: b for b in (image.manifest.config, *image.manifest.layers)}.values():
        sink.add(blob.digest.hex, blob.size, _blob(blobs, blob.digest))
    _text(sink, "manifest.json", blobs.get(image.descriptor.digest) if same else encode(as_docker(image.manifest)))


_WRITERS: Final[dict[str, Callable[[BlobStore, Sequence[Chosen], Sink], None]]] = {
    "docker-archive": _docker,
    "oci-archive": _oci,
    "oci-dir": _oci,
    "docker-dir": _docker_dir,
}


def _text(sink: Sink, path: str, content: bytes) -> None:
    sink.add(path, len(content), [content])


def _blob(blobs: BlobStore, digest: Digest) -> Iterable[bytes]:
    with blobs.open(digest) as file:
        yield from _chunks(file)


def _decompressed(blobs: BlobStore, layer: LayerOf) -> Iterable[bytes]:
    with blobs.open(layer.blob.digest) as file:
        yield from _chunks(decompressed(file, f"layer {layer.diff_id.short}"))


def _chunks(source: Reader) -> Iterable[bytes]:
    while chunk := source.read(CHUNK):
        yield chunk
