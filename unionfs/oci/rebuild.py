"""Make a lost database anew, of what it had told the disk.

    index.json                     images, their names, and what registries mean by those
    blobs/                         images, where the index is lost too: each gets a name of its own
    containers/*/container.json    writable layers, and the images they need
    locks/mount-*                  mounts whose daemon lives: their layers must stay
    layers/, indexes/              unpacked layers of all these images

It is filled beside the old one and takes its place by one rename, so a repair may die and be repeated.
What is left of the old one is kept, as unionfs.db.damaged: nobody else needs it. Hold the store's lock.
"""

import copy
from collections.abc import Iterator
from contextlib import suppress

from msgspec.structs import replace

from unionfs.errors import ImageError
from unionfs.oci.containers import Containers
from unionfs.oci.database import Database
from unionfs.oci.images import Images
from unionfs.oci.layout import names_in, read_index, root_in
from unionfs.oci.model import MANIFEST_TYPES, Descriptor, media_type_of, parse_manifest
from unionfs.oci.reference import Reference
from unionfs.oci.snapshots import Snapshots
from unionfs.oci.store import MAX_DOCUMENT

__all__ = ["rebuild"]


def rebuild(images: Images) -> list[tuple[str, str]]:
    """Give the store a new database; return which images could not be found again, and why."""
    old = images.database.path
    new = old.with_name(old.name + ".new")
    for left in old.parent.glob(new.name + "*"):
        left.unlink()
    filling = copy.copy(images)
    filling.database = Database(new)
    lost = list(_images(filling))
    containers = Containers(filling)
    for name in containers.unknown():
        with suppress(ImageError):  # reported by whoever looks for containers that are not known
            containers.take_in(name)
    containers.recognize_mounts()
    snapshots = Snapshots.of(filling)
    for image in filling.all():
        snapshots.recognize(image.layers)
    for suffix in ("-wal", "-shm", ""):
        damaged = old.with_name(old.name + suffix)
        if damaged.exists():
            damaged.rename(damaged.with_name(damaged.name + ".damaged"))
    new.rename(old)
    return lost


def _images(images: Images) -> Iterator[tuple[str, str]]:
    try:
        known = read_index(images.root).manifests
    except ImageError:
        for descriptor in _manifests(images):
            with suppress(ImageError):  # of an image that was removed, and its layers with it
                images.record(descriptor, Reference.parse(f"localhost/recovered:{descriptor.digest.short}"))
        return
    for descriptor in known:
        name = next(names_in(descriptor), None)
        try:
            images.record(replace(descriptor, annotations=None), name, root_in(descriptor))
        except ImageError as error:
            yield name.familiar if name else descriptor.digest.short, str(error)


def _manifests(images: Images) -> Iterator[Descriptor]:
    """Yield every manifest among the blobs."""
    for digest in images.blobs:
        if images.blobs.size(digest) > MAX_DOCUMENT:
            continue
        with suppress(ImageError):
            raw = images.blobs.get(digest)
            parse_manifest(raw)
            if (kind := media_type_of(raw)) in MANIFEST_TYPES:
                yield Descriptor(media_type=kind, digest=digest, size=len(raw))
