"""Images as values: what manifests, indexes and configurations say, parsed at the border.

Rule 1: a value in hand has passed the schema; unknown media types were refused by name.
Rule 2: nothing is ever written back from these values. A manifest is named by the digest of its
bytes, so the bytes that came in are the bytes that are stored, served and pushed; only an image of
our own making is encoded here (`encode`).

Sources: OCI image-spec v1.1 (descriptor.md, manifest.md, image-index.md, config.md) and Docker
"Image Manifest V 2, Schema 2". Schema 1 is refused: its images have no configuration to name.
"""

from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from unionfs.errors import ImageError
from unionfs.oci.digest import Digest
from unionfs.oci.platforms import Platform

__all__ = [
    "CONFIG_TYPES",
    "DOCKER_CONFIG",
    "DOCKER_INDEX",
    "DOCKER_LAYER",
    "DOCKER_LAYER_GZIP",
    "DOCKER_MANIFEST",
    "INDEX_TYPES",
    "LAYER_TYPES",
    "MANIFEST_TYPES",
    "OCI_CONFIG",
    "OCI_INDEX",
    "OCI_LAYER",
    "OCI_LAYER_GZIP",
    "OCI_LAYER_ZSTD",
    "OCI_MANIFEST",
    "Descriptor",
    "History",
    "ImageConfig",
    "Index",
    "Manifest",
    "RootFS",
    "RunConfig",
    "decode",
    "encode",
    "media_type_of",
    "parse_config",
    "parse_index",
    "parse_manifest",
]

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP: Final = OCI_LAYER + "+gzip"
OCI_LAYER_ZSTD: Final = OCI_LAYER + "+zstd"
DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP: Final = DOCKER_LAYER + ".gzip"

INDEX_TYPES: Final = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFEST_TYPES: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIG_TYPES: Final = frozenset({OCI_CONFIG, DOCKER_CONFIG})
LAYER_TYPES: Final = {
    OCI_LAYER: "tar",
    OCI_LAYER_GZIP: "gzip",
    OCI_LAYER_ZSTD: "zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar": "tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": "zstd",
    DOCKER_LAYER: "tar",
    DOCKER_LAYER_GZIP: "gzip",
    DOCKER_LAYER + ".zstd": "zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": "gzip",
}
"""Media type of a layer → how it is compressed."""

_NOT_IMAGES: Final = {
    "application/vnd.docker.distribution.manifest.v1+json": "docker schema 1, which has no configuration",
    "application/vnd.docker.distribution.manifest.v1+prettyjws": "docker schema 1, which has no configuration",
}

MAX_LAYERS: Final = 1000
"""A manifest with more layers is an attack, not an image (docker's own limit is 127)."""

Size = Annotated[int, Meta(ge=0)]


class Descriptor(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """A pointer to content: what it is, its name, and its size in bytes."""

    media_type: str
    digest: Digest
    size: Size
    urls: tuple[str, ...] | None = None
    annotations: dict[str, str] | None = None
    artifact_type: str | None = None
    platform: Platform | None = None

    @property
    def is_foreign(self) -> bool:
        """Whether it is a layer that stays where its owner has it, at ``urls``."""
        return bool(self.urls) and any(mark in self.media_type for mark in ("nondistributable", "foreign"))


class Index(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """A list of manifests, one for each platform (docker: manifest list)."""

    schema_version: int
    media_type: str = OCI_INDEX
    manifests: tuple[Descriptor, ...]
    annotations: dict[str, str] | None = None


class Manifest(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """One image: a configuration and its layers, bottom first."""

    schema_version: int
    media_type: str = OCI_MANIFEST
    config: Descriptor
    layers: Annotated[tuple[Descriptor, ...], Meta(max_length=MAX_LAYERS)]
    annotations: dict[str, str] | None = None


class RunConfig(Struct, frozen=True, rename="pascal", omit_defaults=True, kw_only=True):
    """How to run the image; None is written by docker for "not set" and means the same as absent."""

    user: str | None = None
    exposed_ports: dict[str, Any] | None = None
    env: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: dict[str, Any] | None = None
    working_dir: str | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | None = None
    healthcheck: dict[str, Any] | None = None
    on_build: tuple[str, ...] | None = None
    shell: tuple[str, ...] | None = None


class RootFS(Struct, frozen=True, kw_only=True):
    """The layers' uncompressed digests, bottom first."""

    type: str
    diff_ids: tuple[Digest, ...]


class History(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One instruction; ``empty_layer`` says that it made no layer."""

    created: str | None = None
    created_by: str | None = None
    author: str | None = None
    comment: str | None = None
    empty_layer: bool = False


class ImageConfig(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What an image is made of and how to run it. Its digest is the image id."""

    architecture: str
    os: str
    rootfs: RootFS
    created: str | None = None
    author: str | None = None
    variant: str | None = None
    os_version: str | None = msgspec.field(default=None, name="os.version")
    config: RunConfig | None = None
    history: tuple[History, ...] | None = None

    def instructions(self) -> tuple[History | None, ...]:
        """Return the instruction that made each layer, bottom first; None where the history is too short."""
        made = [entry for entry in self.history or () if not entry.empty_layer]
        count = len(self.rootfs.diff_ids)
        return (*made[:count], *[None] * (count - len(made)))


class _Kind(Struct, frozen=True, rename="camel"):
    """The few keys that tell what a JSON document claims to be."""

    media_type: str | None = None
    schema_version: int | None = None
    manifests: Any = None
    layers: Any = None


_T = TypeVar("_T")


def _decode_hook(kind: type, value: object) -> object:
    if kind is Digest and isinstance(value, str):
        return Digest(value)
    raise TypeError(f"Expected a digest, got {value!r}")  # msgspec adds where


def decode(raw: bytes, kind: type[_T], what: str) -> _T:
    """Parse JSON that says *what*, refusing what is not of that *kind*."""
    try:
        return msgspec.json.decode(raw, type=kind, dec_hook=_decode_hook)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ImageError(f"not a valid {what}: {error}") from error


def media_type_of(raw: bytes, said: str | None = None) -> str:
    """Return what the document *raw* is, asking its own fields first and *said* (a header) last.

    Raises:
        ImageError: it is neither an index nor a manifest that we know; the message names the type.
    """
    kind = decode(raw, _Kind, "manifest")
    if kind.manifests is not None and kind.layers is not None:  # CVE-2021-41190: one digest, two images
        raise ImageError("a document that is an index and a manifest at once")
    named = kind.media_type or said
    if named in INDEX_TYPES or named in MANIFEST_TYPES:
        return named
    if named is None and kind.schema_version == 2:
        if kind.manifests is not None:
            return OCI_INDEX
        if kind.layers is not None:
            return OCI_MANIFEST
    if named is None and kind.schema_version == 1:
        raise ImageError("manifest of docker schema 1, which has no configuration: ask for a newer image")
    raise ImageError(f"unknown media type: {_NOT_IMAGES.get(named or '', named or 'none given')}")


def parse_index(raw: bytes) -> Index:
    """Parse an image index or a docker manifest list."""
    return decode(raw, Index, "image index")


def parse_manifest(raw: bytes) -> Manifest:
    """Parse a manifest, refusing by name what is not an image that can be unpacked."""
    manifest = decode(raw, Manifest, "image manifest")
    if manifest.config.media_type not in CONFIG_TYPES:
        raise ImageError(f"not an image: its configuration is of type {manifest.config.media_type}")
    for layer in manifest.layers:
        if layer.media_type not in LAYER_TYPES:
            raise ImageError(f"layer {layer.digest.short} is of unknown media type {layer.media_type}")
    return manifest


def parse_config(raw: bytes) -> ImageConfig:
    """Parse an image configuration."""
    config = decode(raw, ImageConfig, "image configuration")
    if config.rootfs.type != "layers":
        raise ImageError(f"the image's root is of unknown type {config.rootfs.type!r}")
    return config


def encode(value: Struct) -> bytes:
    """Return the canonical JSON of a value of our own making: equal values, equal bytes."""
    return msgspec.json.encode(value, enc_hook=str, order="deterministic")
