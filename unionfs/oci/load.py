"""Bring in images that other tools wrote to a file or a directory, whatever format that is.

    oci-archive, oci       oci-layout, index.json, blobs/sha256/HEX          (skopeo, umoci, docker since 25)
    docker-archive         manifest.json: [{Config, RepoTags, Layers}]       (docker save, podman save)
    docker-dir             manifest.json: the manifest itself; blobs by HEX  (skopeo dir:)

An archive is read once, from its beginning to its end, so a pipe will do: everything in it that could
be a layer goes into the store as it passes by, under the digest that it turns out to have; documents are
kept in memory and understood at the end. Names in the archive are keys and never paths.
"""

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import msgspec

from unionfs.errors import ImageError, MalformedName
from unionfs.oci.compression import Source, decompressed, kind_of
from unionfs.oci.digest import CHUNK, Digest, Reader
from unionfs.oci.entry import Kind
from unionfs.oci.images import Image, Images
from unionfs.oci.layout import names_in
from unionfs.oci.model import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    INDEX_TYPES,
    Descriptor,
    Manifest,
    encode,
    media_type_of,
    parse_config,
    parse_index,
    parse_manifest,
)
from unionfs.oci.platforms import Platform, choose, host_platform
from unionfs.oci.reference import Reference
from unionfs.oci.store import MAX_DOCUMENT
from unionfs.oci.tarstream import TarReader

__all__ = ["Arrived", "Blobs", "Content", "arrive", "load", "understood"]

_DOCUMENT: Final = re.compile(r"[^/]+\.json|oci-layout|repositories|version|[0-9a-f]{64}/(json|VERSION)")
_BLOB: Final = re.compile(r"(?:blobs/sha256/)?([0-9a-f]{64})")
_LAYER: Final = re.compile(r"([^/]+/)?[^/]+\.tar(\.gz|\.zst)?|[^/]+/layer\.tar")
_LAYERS: Final = {"tar": DOCKER_LAYER, "gzip": DOCKER_LAYER_GZIP, "zstd": DOCKER_LAYER + ".zstd"}
MAX_FILES: Final = 100_000

MAX_DOCUMENTS: Final = 64 << 20
"""Bytes of all documents of an archive, which are in memory at once; docker's old archives have some for each layer."""

RATIO: Final = 500
"""Bytes out for a byte in, of an archive that is compressed as a whole; see `unpack.Limits`."""
RATIO_FROM: Final = 1 << 30
"""Bytes below which the ratio does not count."""


class _Saved(msgspec.Struct, rename="pascal"):
    """One image in docker's manifest.json."""

    config: str
    layers: tuple[str, ...]
    repo_tags: tuple[str, ...] | None = None


class Blobs(Protocol):
    """Where the content of an archive goes: a `BlobStore`, or whatever else finds it again."""

    def put(self, content: bytes, /) -> Digest:
        """Keep a document."""

    def put_stream(self, source: Reader, expected: Digest | None = None, size: int | None = None, /) -> Digest:
        """Keep content, and return what it is called."""

    def get(self, digest: Digest, /) -> bytes:
        """Return a document."""

    def size(self, digest: Digest, /) -> int:
        """Return the bytes of some content."""

    def open(self, digest: Digest, /) -> BinaryIO:
        """Open some content."""


class Arrived:
    """What an archive held: documents by path, and everything else by digest."""

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs
        self.documents: dict[str, bytes] = {}
        self.files: dict[str, Digest] = {}
        self.links: dict[str, str] = {}
        self._size = 0
        """Bytes of the documents."""

    def take(self, path: str, size: int, content: Reader) -> None:
        """Take one file in."""
        if len(self.files) + len(self.documents) >= MAX_FILES:
            raise ImageError(f"an archive of images has more than {MAX_FILES} files")
        if (blob := _BLOB.fullmatch(path)) is not None:
            self.files[path] = self.blobs.put_stream(content, Digest.from_hex(blob[1]), size)
        elif _DOCUMENT.fullmatch(path) and size <= MAX_DOCUMENT:
            self._size += size
            if self._size > MAX_DOCUMENTS:
                raise ImageError(f"an archive of images has more than {MAX_DOCUMENTS >> 20} MiB of documents")
            self.documents[path] = content.read(size)
        elif _LAYER.fullmatch(path):
            self.files[path] = self.blobs.put_stream(content, None, size)
        else:
            raise ImageError(f"not an archive of images: it holds {path!r}; a root file system? try: unionfs import")

    def digest(self, path: str) -> Digest:
        """Return what the file at *path* is called in the store; documents are put there now.

        Raises:
            ImageError: the archive has no such file.
        """
        path = posixpath.normpath(self.links.get(posixpath.normpath(path), path))
        if path in self.documents:
            return self.blobs.put(self.documents[path])
        if path not in self.files:
            raise ImageError(f"the archive names {path!r} and does not hold it")
        return self.files[path]


Loaded = tuple[Image, list[Reference]]
"""An image, and the names that its source gives it; the store may have others for it."""


def load(images: Images, source: Path | BinaryIO, platform: Platform | None = None) -> list[Loaded]:
    """Bring in every image of *source*: an open archive, or the path of an archive or a directory.

    Hold `Images.using`, as for `Images.add`.

    Raises:
        ImageError: it is none of the formats, damaged, or holds no image for *platform*.
    """
    arrived = Arrived(images.blobs)
    arrive(source, arrived)
    loaded = []
    for descriptor, names in understood(arrived, platform):
        image = images.add(descriptor)
        for name in names:
            images.tag(image, name)
        loaded.append((images.by_manifest(image.descriptor.digest), names))
    return loaded


def arrive(source: Path | BinaryIO, into: Arrived) -> None:
    """Take in everything that *source* holds."""
    if not isinstance(source, Path):
        _from_archive(source, into)
    elif source.is_dir():
        _from_directory(source, into)
    else:
        with source.open("rb") as file:
            try:
                _from_archive(file, into)
            except ImageError as error:
                raise ImageError(f"{source}: {error}") from error


def _from_archive(file: BinaryIO, into: Arrived) -> None:
    reader = TarReader(_Guarded(decompressed(file, "archive")))
    for member in reader:
        path = posixpath.normpath(os.fsdecode(member.path)).lstrip("/")
        if member.kind is Kind.FILE and member.extents is None:
            into.take(path, member.size, Content(reader, member.size))
        elif member.kind is Kind.SYMLINK:
            into.links[path] = posixpath.normpath(posixpath.join(posixpath.dirname(path), os.fsdecode(member.link)))
        elif member.kind is Kind.HARDLINK:
            into.links[path] = posixpath.normpath(os.fsdecode(member.link))


class _Guarded:
    """A stream that is no bomb: what comes out of it may go to the disk as it is."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def read(self, size: int = -1, /) -> bytes:
        chunk = self._source.read(size)
        made, taken = self._source.produced, max(1, self._source.consumed)
        if made > RATIO_FROM and made > RATIO * taken:
            what = f"the archive unpacks to {made // taken} times its size: a compression bomb"
            raise ImageError(f"{what}; if it is meant to be like that, decompress it first")
        return chunk


class Content:
    """The current member of an archive, as a file to read from."""

    def __init__(self, reader: TarReader, size: int) -> None:
        self.position = reader.position
        """Where in the decompressed archive it begins."""
        self.size = size
        self._chunks = (chunk for _, chunk in reader.content())
        self._rest = b""

    def read(self, size: int = -1, /) -> bytes:
        parts = [self._rest] if self._rest else []
        have = len(self._rest)
        while have < (CHUNK if size < 0 else size) and (chunk := next(self._chunks, b"")):
            parts.append(chunk)
            have += len(chunk)
        content = b"".join(parts)
        wanted = len(content) if size < 0 else size
        self._rest = content[wanted:]
        return content[:wanted]


def _from_directory(directory: Path, into: Arrived) -> None:
    for folder in (directory, directory / "blobs" / "sha256"):
        if not folder.is_dir():
            continue
        for path in sorted(folder.iterdir()):
            inner = path.relative_to(directory).as_posix()
            if path.is_file() and not path.is_symlink() and (_BLOB.fullmatch(inner) or _DOCUMENT.fullmatch(inner)):
                with path.open("rb") as file:
                    into.take(inner, path.stat().st_size, file)


Found = Iterator[tuple[Descriptor, list[Reference]]]


def understood(arrived: Arrived, platform: Platform | None) -> Found:
    """Yield each image and its names, in whichever format there is."""
    if "index.json" in arrived.documents:
        yield from _oci(arrived, platform or host_platform())
    elif "manifest.json" in arrived.documents:
        raw = arrived.documents["manifest.json"]
        yield from _docker(arrived, raw) if raw.lstrip()[:1] == b"[" else _docker_dir(arrived, raw)
    else:
        raise ImageError("no image here: neither index.json (OCI) nor manifest.json (docker); try what save wrote")


def _oci(arrived: Arrived, platform: Platform) -> Found:
    found = parse_index(arrived.documents["index.json"]).manifests
    if not found:
        raise ImageError("the image layout holds no image")
    for descriptor in found:
        chosen = _manifest_of(arrived.blobs, descriptor, platform)
        yield chosen, list(names_in(descriptor))


def _manifest_of(blobs: Blobs, descriptor: Descriptor, platform: Platform) -> Descriptor:
    """Follow indexes down to the manifest for *platform*."""
    for _ in range(4):
        content = blobs.get(descriptor.digest)
        if media_type_of(content, descriptor.media_type) not in INDEX_TYPES:
            return descriptor
        descriptor = choose(parse_index(content).manifests, platform)
    raise ImageError("indexes in indexes in indexes")


def _docker(arrived: Arrived, raw: bytes) -> Found:
    try:
        saved = msgspec.json.decode(raw, type=list[_Saved])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ImageError(f"not a valid manifest.json: {error}") from error
    if not saved:
        raise ImageError("the archive holds no image: its manifest.json is empty")
    for image in saved:
        config = arrived.digest(image.config)
        diff_ids = parse_config(arrived.blobs.get(config)).rootfs.diff_ids
        if len(diff_ids) != len(image.layers):
            raise ImageError(f"manifest.json has {len(image.layers)} layers, the configuration {len(diff_ids)}")
        layers = tuple(_layer(arrived, path, diff) for path, diff in zip(image.layers, diff_ids, strict=True))
        manifest = Manifest(
            schema_version=2,
            media_type=DOCKER_MANIFEST,
            config=Descriptor(media_type=DOCKER_CONFIG, digest=config, size=arrived.blobs.size(config)),
            layers=layers,
        )
        content = encode(manifest)
        descriptor = Descriptor(media_type=DOCKER_MANIFEST, digest=arrived.blobs.put(content), size=len(content))
        try:
            names = [Reference.parse(name) for name in image.repo_tags or ()]
        except MalformedName as error:
            raise ImageError(f"the archive gives a name that is none: {error}") from error
        yield descriptor, names


def _layer(arrived: Arrived, path: str, diff_id: Digest) -> Descriptor:
    digest = arrived.digest(path)
    with arrived.blobs.open(digest) as file:
        kind = kind_of(file.read(8))
    if kind not in _LAYERS:
        raise ImageError(f"layer {path!r} is compressed with {kind}, which no image may be")
    if kind == "tar" and digest != diff_id:
        raise ImageError(f"layer {path!r} is {digest.short}, the configuration promises {diff_id.short}")
    return Descriptor(media_type=_LAYERS[kind], digest=digest, size=arrived.blobs.size(digest))


def _docker_dir(arrived: Arrived, raw: bytes) -> Found:
    media_type = media_type_of(raw)
    parse_manifest(raw)
    yield Descriptor(media_type=media_type, digest=arrived.blobs.put(raw), size=len(raw)), []
