"""Collect garbage: mark what names lead to, sweep the rest.

Roots are the images, with or without names; each leads to its manifest, its configuration, its layers'
blobs, the indexes its names mean, and its unpacked layers. Everything else in the store is garbage:
blobs of images that were removed, layers nobody has, what crashed commands left in staging/. What holds
somebody's changes is never garbage: a container's directory goes when he removes the container.

The store's lock is taken for oneself: nobody is adding an image meanwhile, so a blob that no image
leads to is not one that an image is about to lead to. Every step of the sweep leaves a sound store.
"""

import os
import stat
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from unionfs.errors import ImageError
from unionfs.linux import at
from unionfs.linux.directories import Directories
from unionfs.linux.flock import Lock
from unionfs.oci.digest import Digest
from unionfs.oci.images import Images
from unionfs.oci.snapshots import Snapshots, remove_path

__all__ = ["Garbage", "collect", "garbage", "tree_size"]

BLOCK: Final = 512
"""Bytes of what st_blocks counts, whatever the file system's blocks are."""


@dataclass(frozen=True, slots=True, order=True)
class Garbage:
    """Something that nothing leads to."""

    kind: str
    """"blob", "layer", "index", "partial" or "staging"."""
    name: str
    size: int
    """Bytes on disk."""


def garbage(images: Images, *, partial: bool = True, without: AbstractSet[Digest] = frozenset()) -> list[Garbage]:
    """Return what a collection would remove.

    *partial* downloads only if asked, they can be resumed. The images *without*, by manifest, are taken
    for gone already.
    """
    blobs, layers = _marked(images, without)
    found = [Garbage("blob", digest.hex, images.blobs.size(digest)) for digest in images.blobs if digest not in blobs]
    for kind, directory, kept in (
        ("layer", "layers", layers),
        ("index", "indexes", layers),
        ("staging", "staging", set()),
        ("partial", "partial", set()),
    ):
        if kind != "partial" or partial:
            found += _unmarked(kind, images.root / directory, kept)
    return sorted(found)


def _unmarked(kind: str, directory: Path, kept: set[str]) -> Iterator[Garbage]:
    for entry in os.scandir(directory):
        if entry.name not in kept:
            yield Garbage(kind, entry.name, tree_size(Path(entry.path)))


def _marked(images: Images, without: AbstractSet[Digest]) -> tuple[set[str], set[str]]:
    """Return the blobs and the layer directories that are in use."""
    with images.database.reading() as db:
        kept = [row for row in db.execute("SELECT manifest, config FROM images") if row["manifest"] not in without]
        blobs = {digest for row in kept for digest in row}
        manifests = {row["manifest"] for row in kept}
        of_images = [row for row in db.execute("SELECT * FROM image_layers") if row["manifest"] in manifests]
        blobs |= {row["blob"] for row in of_images}
        blobs |= {row["root"] for row in db.execute("SELECT manifest, root FROM names") if row["manifest"] in manifests}
        known = {row["chain_id"] for row in db.execute("SELECT chain_id FROM layers")}
    layers = {row["chain_id"] for row in of_images} & known
    return blobs, {Digest(text).hex for text in layers}


def collect(images: Images, *, wait: bool = True, partial: bool = False) -> list[Garbage] | None:
    """Remove all garbage and return what it was; None when somebody adds an image and *wait* is false."""
    lock = Lock(images.root / "locks" / "store")
    if not lock.acquire(wait=wait):
        return None
    try:
        found = garbage(images, partial=partial)
        snapshots = Snapshots.of(images)
        for item in found:
            _sweep(images, snapshots, item)
        _forget_locks(images.root / "locks")
        return found
    finally:
        lock.release()


def _sweep(images: Images, snapshots: Snapshots, item: Garbage) -> None:
    match item.kind:
        case "blob":
            images.blobs.delete(Digest.from_hex(item.name))
        case "layer" | "index":
            try:
                snapshots.forget(Digest.from_hex(item.name))
            except ImageError:  # its name is no digest: somebody else's file
                remove_path(images.root / ("layers" if item.kind == "layer" else "indexes") / item.name)
        case _:
            remove_path(images.root / item.kind / item.name)


def _forget_locks(directory: Path) -> None:
    """Remove the lock files of blobs and layers: with the store's lock held, nobody has them open."""
    for entry in os.scandir(directory):
        if entry.name.startswith(("blob-", "fetch-", "layer-")):
            os.unlink(entry.path)


def tree_size(path: Path) -> int:
    """Return the bytes that a file or a tree occupies.

    Hard links count once; what is mounted in it, and what somebody removes meanwhile, not at all.
    """
    try:
        top = os.lstat(path)
    except FileNotFoundError:
        return 0
    if not stat.S_ISDIR(top.st_mode):
        return top.st_blocks * BLOCK
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with closing(Directories(fd)) as directories:  # a path from the root down may be longer than PATH_MAX
            return BLOCK * (top.st_blocks + _blocks(directories, top.st_dev))
    finally:
        os.close(fd)


def _blocks(directories: Directories, device: int) -> int:
    """Return what the files below the root occupy, those of *device*."""
    seen: set[int] = set()
    total, stack = 0, [b""]
    while stack:
        above = stack.pop()
        with suppress(FileNotFoundError, NotADirectoryError):
            for entry in at.scan(directories.fd(above)):
                st = entry.stat(follow_symlinks=False)
                if st.st_dev != device or st.st_ino in seen:
                    continue
                if st.st_nlink > 1:
                    seen.add(st.st_ino)
                total += st.st_blocks
                if stat.S_ISDIR(st.st_mode):
                    stack.append(above + b"/" + os.fsencode(entry.name) if above else os.fsencode(entry.name))
    return total
