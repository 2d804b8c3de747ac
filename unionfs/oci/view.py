"""Look into images, archives, containers and directories in one way: layers with entries and content.

    StoredLayer      unpacked in the store: entries from its index, content from its directory
    PackedLayer      a blob or a part of an archive: read through once for the entries, again for content
    DirectoryLayer   any directory: scanned

A view needs neither a mount nor a privilege, and writes nothing.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Final, Protocol, cast

from unionfs.errors import NoSuchPath
from unionfs.oci.compression import decompressed
from unionfs.oci.entry import Entry, Kind
from unionfs.oci.flatten import Spelled
from unionfs.oci.images import Image, Images, LayerOf
from unionfs.oci.loose import LooseImage
from unionfs.oci.make import spelled_upper
from unionfs.oci.merged import Merged, Shown
from unionfs.oci.model import History
from unionfs.oci.scan import scan
from unionfs.oci.snapshots import LayerFiles, Snapshots
from unionfs.oci.tarstream import TarReader
from unionfs.oci.unpack import Limits, read_index

__all__ = [
    "DirectoryLayer",
    "LayerView",
    "PackedLayer",
    "StoredLayer",
    "UpperLayer",
    "View",
    "view_of_archive",
    "view_of_image",
]


SPOOL: Final = 16 << 20
"""Bytes of a file of an archive that are kept in memory rather than in a temporary file."""


class LayerView(Protocol):
    """One layer to look into."""

    name: str
    """What people call it: the beginning of its diff id, or a path."""
    made: History | None
    """The instruction that made it, where that is known."""
    packed_size: int | None
    """Bytes of its blob; None where it has none."""

    @property
    def entries(self) -> Sequence[Entry]:
        """Everything in it, sorted, parents first."""

    def open(self, path: bytes) -> BinaryIO:
        """Open the content of a file."""


class StoredLayer:
    """An unpacked layer of the store."""

    def __init__(self, snapshots: Snapshots, layer: LayerOf, made: History | None) -> None:
        self._snapshots, self._layer = snapshots, layer
        self.name, self.made = layer.diff_id.short, made
        self.packed_size: int | None = layer.blob.size

    @cached_property
    def entries(self) -> Sequence[Entry]:
        """See `LayerView`."""
        return self._snapshots.index(self._layer.chain_id)

    def open(self, path: bytes) -> BinaryIO:
        """See `LayerView`."""
        with closing(self._snapshots.files([self._layer.chain_id])) as files:
            return files.open(0, path)


class PackedLayer:
    """A layer as an archive, which can be opened again and again."""

    def __init__(self, reopen: Callable[[], BinaryIO], layer: LayerOf, made: History | None, below: "View") -> None:
        self._reopen, self._below = reopen, below
        self.name, self.made = layer.diff_id.short, made
        self.packed_size: int | None = layer.blob.size

    @cached_property
    def entries(self) -> Sequence[Entry]:
        """See `LayerView`. Costs one pass over the archive."""
        with self._reopen() as blob:
            return read_index(blob, self._below.merged if self._below.layers else None, Limits())

    def open(self, path: bytes) -> BinaryIO:
        """See `LayerView`. Costs a pass up to the file."""
        wanted = next((e for e in self.entries if e.path == path and e.kind is Kind.FILE), None)
        if wanted is None:
            raise NoSuchPath(path)
        with self._reopen() as blob:
            reader = TarReader(decompressed(blob, self.name))
            for member in reader:
                if member.kind is Kind.FILE and member.size == wanted.size:
                    file = _spooled(reader, member.size, wanted.digest)
                    if file is not None:
                        return file
        return self._below.open_digest(wanted)  # a hard link to a file below: it was copied up


def _spooled(reader: TarReader, size: int, digest: bytes) -> BinaryIO | None:
    """Return the content of the reader's member, if it is the one of that digest."""
    file = tempfile.SpooledTemporaryFile(max_size=SPOOL)  # noqa: SIM115 - the caller's, if it is returned
    hasher, end = hashlib.sha256(), 0
    for offset, chunk in reader.content():
        hasher.update(bytes(offset - end))
        file.seek(offset)
        file.write(chunk)
        hasher.update(chunk)
        end = offset + len(chunk)
    hasher.update(bytes(size - end))
    file.truncate(size)
    if hasher.digest() != digest:
        file.close()
        return None
    file.seek(0)
    return cast(BinaryIO, file)


class DirectoryLayer:
    """A directory as a layer: an upper, or any tree."""

    made: History | None = None
    packed_size: int | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)

    @cached_property
    def entries(self) -> Sequence[Entry]:
        """See `LayerView`. Costs a walk."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return [entry for entry, _ in scan(fd)]
        finally:
            os.close(fd)

    def open(self, path: bytes) -> BinaryIO:
        """See `LayerView`."""
        with closing(LayerFiles([self.path])) as files:
            return files.open(0, path)


class UpperLayer:
    """The changes of a container; what was only moved or touched is read from below."""

    made: History | None = None
    packed_size: int | None = None

    def __init__(self, path: Path, below: "View") -> None:
        self.path, self._below = path, below
        self.name = f"upper of {below.name}"

    @cached_property
    def _spelled(self) -> list[Spelled]:
        return spelled_upper(self.path, self._below.merged)

    @cached_property
    def entries(self) -> Sequence[Entry]:
        """See `LayerView`. Costs a walk."""
        return [item.entry for item in self._spelled]

    def open(self, path: bytes) -> BinaryIO:
        """See `LayerView`."""
        item = next((item for item in self._spelled if item.entry.path == path), None)
        if item is not None and item.below is not None:
            return self._below.open(item.below)
        with closing(LayerFiles([self.path])) as files:
            return files.open(0, path)


class View:
    """A stack of layers, bottom first; *raw* shows its whiteouts and opaque marks, as a layer alone should."""

    def __init__(self, name: str, layers: Sequence[LayerView] = (), *, raw: bool = False) -> None:
        self.name = name
        self.layers = list(layers)
        self._raw = raw

    @cached_property
    def merged(self) -> Merged:
        """What the stack shows."""
        return Merged((layer.entries for layer in self.layers), raw=self._raw)

    def open(self, shown: Shown) -> BinaryIO:
        """Open the content of a file that `merged` shows."""
        return self.layers[shown.layer].open(shown.source)

    def open_digest(self, wanted: Entry) -> BinaryIO:
        """Open a file with the content of *wanted*."""
        for layer in reversed(self.layers):
            for entry in layer.entries:
                if entry.kind is Kind.FILE and entry.digest == wanted.digest:
                    return layer.open(entry.path)
        raise NoSuchPath(wanted.path)


def view_of_image(images: Images, image: Image, name: str) -> View:
    """Look into an image of the store; layers that are not unpacked are read as they are."""
    snapshots = Snapshots.of(images)
    view = View(name)
    for layer, made in zip(image.layers, image.config.instructions(), strict=True):
        if snapshots.has(layer.chain_id):
            view.layers.append(StoredLayer(snapshots, layer, made))
        else:
            view.layers.append(_packed(images.blobs.open, layer, made, view))
    return view


def view_of_archive(image: LooseImage, name: str) -> View:
    """Look into an image of an archive."""
    view = View(name)
    for layer, made in zip(image.layers, image.config.instructions(), strict=True):
        view.layers.append(_packed(image.blobs.open, layer, made, view))
    return view


def _packed(opened: Callable[..., BinaryIO], layer: LayerOf, made: History | None, view: View) -> LayerView:
    below = View(view.name, view.layers)
    return PackedLayer(lambda: opened(layer.blob.digest), layer, made, below)
