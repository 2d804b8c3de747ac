"""Where the store is, and the OCI image layout: a directory of blobs and an index that names images.

The store's root is itself a layout, so that skopeo, umoci and crane read it as it lies there. Its
``index.json`` is written anew after each change of a name; the database is the truth, the index a copy
that other tools understand, and what `check --repair` makes a new database of.

Source: OCI image-spec image-layout.md; annotations.md for the two ways to write a name.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from unionfs.errors import ImageError, MalformedName
from unionfs.oci.model import OCI_INDEX, Descriptor, Index, decode, encode, parse_index
from unionfs.oci.reference import Reference
from unionfs.oci.store import MAX_DOCUMENT, sync_directory, write_durably

__all__ = [
    "FULL_NAME",
    "INDEX_FILE",
    "LAYOUT_FILE",
    "TAG_NAME",
    "index_of",
    "named",
    "names_in",
    "read_index",
    "root_in",
    "store_root",
    "write_index",
]

LAYOUT_FILE: Final = "oci-layout"
INDEX_FILE: Final = "index.json"
LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}'

TAG_NAME: Final = "org.opencontainers.image.ref.name"
"""Annotation: a tag, as skopeo and umoci write it, or a whole name."""

FULL_NAME: Final = "io.containerd.image.name"
"""Annotation: a whole name, as containerd and docker write it."""

ROOT: Final = "io.unionfs.root"
"""Annotation: the descriptor of what the name means to its registry, where that is an index."""


def store_root() -> Path:
    """Return the directory of images: ``$UNIONFS_ROOT``, else the system's for root and the user's for users."""
    if said := os.environ.get("UNIONFS_ROOT"):
        return Path(said).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/unionfs")
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return Path(data) / "unionfs"


def read_index(directory: Path) -> Index:
    """Read the index of a layout.

    Raises:
        ImageError: *directory* is none.
    """
    try:
        with (directory / INDEX_FILE).open("rb") as file:
            return parse_index(file.read(MAX_DOCUMENT))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError(f"{directory} is not an OCI image layout: it has no {INDEX_FILE}") from error


def index_of(
    images: Iterable[tuple[Descriptor, Iterable[Reference]]], roots: Mapping[Reference, Descriptor] | None = None
) -> bytes:
    """Return the text of an index: an image once for each name, unnamed ones too; *roots* as `root_in` has them."""
    manifests = []
    for descriptor, names in images:
        bare = replace(descriptor, annotations=None)
        manifests += [named(bare, name, (roots or {}).get(name)) for name in sorted(names)] or [bare]
    return encode(Index(schema_version=2, media_type=OCI_INDEX, manifests=tuple(manifests)))


def named(descriptor: Descriptor, name: Reference, root: Descriptor | None = None) -> Descriptor:
    """Write a name down in both ways that readers know."""
    said = {FULL_NAME: str(name), TAG_NAME: name.tag or str(name)}
    if root is not None and root.digest != descriptor.digest:
        said[ROOT] = encode(root).decode()
    return replace(descriptor, annotations=said)


def root_in(descriptor: Descriptor) -> Descriptor | None:
    """Return what the store's own index says that a name means to its registry; None for the image itself.

    Raises:
        ImageError: it was written by somebody else.
    """
    said = (descriptor.annotations or {}).get(ROOT)
    return decode(said.encode(), Descriptor, "descriptor") if said else None


def names_in(descriptor: Descriptor) -> Iterator[Reference]:
    """Yield the name that an index gives an image, if it gives one: a tag alone names no image here."""
    said = descriptor.annotations or {}
    for text in (said.get(FULL_NAME), said.get(TAG_NAME)):
        if text and (text == said.get(FULL_NAME) or "/" in text or ":" in text):
            try:
                yield Reference.parse(text)
            except MalformedName as error:
                raise ImageError(f"the index gives a name that is none: {error}") from error
            return


def write_index(directory: Path, index: bytes) -> None:
    """Replace the index of a layout in one step; make the layout where it is missing."""
    for name, content in ((LAYOUT_FILE, LAYOUT), (INDEX_FILE, index)):
        path = directory / name
        if name == LAYOUT_FILE and path.exists():
            continue
        staged = directory / f".{name}.{os.getpid()}.{os.urandom(4).hex()}"
        try:
            write_durably(staged, content)
            staged.rename(path)
        finally:
            staged.unlink(missing_ok=True)
    sync_directory(directory)
