"""Images of our own making: a root file system becomes one, a container's changes become a layer of one.

What is made is an OCI image. Its documents hold no time but that of SOURCE_DATE_EPOCH, or of now where
that is not set, so that equal content makes equal images where somebody cares for it.
"""

import hashlib
import os
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

from msgspec.structs import replace

from unionfs.oci.compression import compressor, decompressed, kind_of
from unionfs.oci.digest import CHUNK, Digest, Reader, Writer, chain_ids
from unionfs.oci.entry import ROOT, Entry
from unionfs.oci.flatten import Spelled, flatten
from unionfs.oci.form import form_here
from unionfs.oci.images import Image, Images, LayerOf
from unionfs.oci.merged import Merged
from unionfs.oci.model import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    History,
    ImageConfig,
    Manifest,
    RootFS,
    RunConfig,
    encode,
)
from unionfs.oci.pack import pack, source_date_ns
from unionfs.oci.platforms import host_platform
from unionfs.oci.reference import Reference
from unionfs.oci.save import as_oci
from unionfs.oci.scan import scan
from unionfs.oci.snapshots import LayerFiles, Snapshots

__all__ = ["Note", "commit", "export", "import_root", "spelled_upper"]

_LAYERS: Final = {"tar": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What the history says of a new layer."""

    created_by: str
    comment: str | None = None
    author: str | None = None


def _now() -> str:
    fixed = source_date_ns()
    seconds = (time.time_ns() if fixed is None else fixed) // 10**9
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def import_root(images: Images, source: Reader, name: Reference | None, note: Note, config: RunConfig) -> Image:
    """Make a one-layer image of a tar of a root file system; gzip and zstd are kept as they come.

    Hold `Images.using`.
    """
    start = source.read(8)
    raw = _Again(start, source)
    kind = kind_of(start)
    if kind in _LAYERS:
        digest = images.blobs.put_stream(raw)
    else:
        kind, unpacked = "gzip", decompressed(raw, "archive")
        with images.blobs.writer() as writer:
            with compressor(writer, kind) as sink:
                while chunk := unpacked.read(CHUNK):
                    sink.write(chunk)
            digest = writer.commit()
    blob = Descriptor(media_type=_LAYERS[kind], digest=digest, size=images.blobs.size(digest))
    layer = Snapshots.of(images).take_in(blob)
    platform = host_platform()
    empty = ImageConfig(
        architecture=platform.architecture,
        os=platform.os,
        variant=platform.variant,
        rootfs=RootFS(type="layers", diff_ids=()),
        config=config,
    )
    return _add(images, empty, (), layer, note, name)


class _Again:
    """A stream whose beginning was read and is read again."""

    def __init__(self, start: bytes, rest: Reader) -> None:
        self._start, self._rest = start, rest

    def read(self, size: int = -1, /) -> bytes:
        if self._start:
            start, self._start = self._start, b""
            return start
        return self._rest.read(size)


def _add(
    images: Images,
    base: ImageConfig,
    below: Sequence[Descriptor],
    layer: LayerOf,
    note: Note,
    name: Reference | None,
) -> Image:
    """Record the image that has one layer more than *base*."""
    created = _now()
    history = History(created=created, created_by=note.created_by, comment=note.comment, author=note.author)
    config = replace(
        base,
        created=created,
        author=note.author or base.author,
        rootfs=RootFS(type="layers", diff_ids=(*base.rootfs.diff_ids, layer.diff_id)),
        history=(*(base.history or ()), history),
    )
    raw = encode(config)
    manifest = encode(
        Manifest(
            schema_version=2,
            media_type=OCI_MANIFEST,
            config=Descriptor(media_type=OCI_CONFIG, digest=images.blobs.put(raw), size=len(raw)),
            layers=(*below, layer.blob),
        )
    )
    descriptor = Descriptor(media_type=OCI_MANIFEST, digest=images.blobs.put(manifest), size=len(manifest))
    return images.add(descriptor, name)


def spelled_upper(upper: Path, lower: Merged) -> list[Spelled]:
    """Read an upper layer as one that needs no union to be understood, sorted.

    Its root is left out where it is as the root below: nobody changed it.
    """
    fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        spelled = flatten(scan(fd, (form_here(fd).marks,)), lower)
    finally:
        os.close(fd)
    if spelled and spelled[0].entry.path == ROOT and _looks_like(spelled[0].entry, lower.root.entry):
        return spelled[1:]
    return spelled


def _looks_like(one: Entry, other: Entry) -> bool:
    return replace(one, mtime_ns=0) == replace(other, mtime_ns=0, opaque=False)


class _Hashed:
    """A sink that digests what goes through."""

    def __init__(self, target: Writer) -> None:
        self._target = target
        self._hasher = hashlib.sha256()

    def write(self, data: bytes, /) -> int:
        self._hasher.update(data)
        self._target.write(data)
        return len(data)

    @property
    def digest(self) -> Digest:
        return Digest.from_hex(self._hasher.hexdigest())


def commit(
    images: Images, base: Image, upper: Path, note: Note, name: Reference | None, config: RunConfig | None = None
) -> Image:
    """Make an image of *base* and what was changed in *upper* above it; *config* is how to run it, if not as *base*.

    Hold `Images.using`, and nobody may change *upper* meanwhile.

    Raises:
        ImageError: a file changed while it was being packed.
    """
    snapshots = Snapshots.of(images)
    chain = snapshots.ensure(base.layers)
    spelled = spelled_upper(upper, snapshots.merged(chain))
    below = {item.entry.path: item.below for item in spelled if item.below is not None}
    with closing(LayerFiles([*map(snapshots.path, chain), upper])) as files, images.blobs.writer() as writer:

        def content(entry: Entry) -> BinaryIO:
            shown = below.get(entry.path)
            return files.open(shown.layer, shown.source) if shown else files.open(len(chain), entry.path)

        with compressor(writer, "gzip") as packed:
            hashed = _Hashed(packed)
            pack((item.entry for item in spelled), content, hashed, newest_ns=source_date_ns())
        blob = Descriptor(media_type=OCI_LAYER_GZIP, digest=writer.commit(), size=writer.offset)
    diff_id = hashed.digest
    layer = LayerOf(blob, diff_id, chain_ids((*base.config.rootfs.diff_ids, diff_id))[-1])
    run = replace(base.config, config=config or base.config.config)
    return _add(images, run, as_oci(base.manifest).layers, layer, note, name)


def export(snapshots: Snapshots, chain: Sequence[Digest], upper: Path | None, target: Writer) -> None:
    """Write the merged view of unpacked layers, and of *upper* above them, as one tar."""
    layers: list[Sequence[Entry]] = [snapshots.index(chain_id) for chain_id in chain]
    roots = [snapshots.path(chain_id) for chain_id in chain]
    moved: dict[bytes, tuple[int, bytes]] = {}
    if upper is not None:
        spelled = spelled_upper(upper, Merged(layers))
        moved = {item.entry.path: (item.below.layer, item.below.source) for item in spelled if item.below}
        layers.append([item.entry for item in spelled])
        roots.append(upper)
    merged = Merged(layers)
    with closing(LayerFiles(roots)) as files:

        def content(entry: Entry) -> BinaryIO:
            shown = merged.at(entry.path)
            assert shown is not None  # noqa: S101 - it is being walked
            where = (shown.layer, shown.source)
            if shown.layer == len(chain):
                where = moved.get(shown.source, where)
            return files.open(*where)

        pack(merged.flattened(), content, target, newest_ns=source_date_ns())
