"""Unpacked layers, shared by all images that have them, and the writable layers of containers.

    ROOT/layers/HEX        a layer as overlays stack it; HEX is its chain id
    ROOT/indexes/HEX       its entries, so that questions about it open one file instead of thousands
    ROOT/containers/NAME   {upper,work}: a writable layer, kept from mount to mount; see `containers`
    ROOT/staging/layer-*   a layer being unpacked

A layer appears by one rename, then the database learns of it. Whoever dies between the two leaves a
directory that nobody has heard of; the next to want it holds the layer's lock, so it may remove and
make it again. Two processes that want one layer meet at the lock, and the second finds the work done.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Final, Self

import msgspec

from unionfs.errors import ImageError
from unionfs.linux import fileops
from unionfs.linux.directories import Directories
from unionfs.linux.flock import Lock
from unionfs.linux.remove import remove
from unionfs.oci.database import Database
from unionfs.oci.digest import Digest
from unionfs.oci.entry import ROOT, Entry, Kind
from unionfs.oci.form import UserForm, form_here, is_users
from unionfs.oci.images import Images, LayerOf
from unionfs.oci.merged import Merged
from unionfs.oci.model import Descriptor
from unionfs.oci.store import BlobStore, sync_directory
from unionfs.oci.unpack import Limits, Unpacked, unpack

__all__ = ["LayerFiles", "Snapshots", "remove_path"]

_ENTRIES: Final = msgspec.msgpack.Decoder(tuple[Entry, ...])

Watcher = Callable[[LayerOf, str], None]
"""Told what happens to a layer: "unpacking", "unpacked"."""


class _Below:
    """The layers below one that is being unpacked; read only if it asks."""

    def __init__(self, snapshots: "Snapshots", chain: Sequence[Digest]) -> None:
        self._snapshots = snapshots
        self._chain = chain

    @cached_property
    def _merged(self) -> Merged:
        return Merged(self._snapshots.index(chain_id) for chain_id in self._chain)

    def find(self, path: bytes) -> Entry | None:
        if path == ROOT:  # asked for by nearly every layer, and in the topmost index
            return self._snapshots.index(self._chain[-1])[0]
        return self._merged.find(path)

    def open(self, path: bytes) -> BinaryIO:
        shown = self._merged.at(path)
        assert shown is not None  # noqa: S101 - `find` found it
        with closing(self._snapshots.files([self._chain[shown.layer]])) as files:
            return files.open(0, shown.source)


class LayerFiles:
    """The regular files of directories, by number and path."""

    def __init__(self, roots: Iterable[Path]) -> None:
        self._roots = list(roots)
        self._opened: dict[int, Directories] = {}

    def open(self, number: int, path: bytes) -> BinaryIO:
        """Open a regular file; nothing on the way to it is followed."""
        if number not in self._opened:
            self._opened[number] = Directories(os.open(self._roots[number], os.O_RDONLY | os.O_DIRECTORY))
        return os.fdopen(self._opened[number].open(path), "rb")

    def close(self) -> None:
        """Give the descriptors back; files that were opened stay open."""
        for directories in self._opened.values():
            directories.close()
            os.close(directories.root)
        self._opened.clear()


class Snapshots:
    """The unpacked and the writable layers of one store."""

    def __init__(self, root: Path, blobs: BlobStore, database: Database) -> None:
        self.root = root
        self._blobs = blobs
        self._database = database

    @classmethod
    def of(cls, images: Images) -> Self:
        """Return those of a store."""
        return cls(images.root, images.blobs, images.database)

    def path(self, chain_id: Digest) -> Path:
        """Where a layer is, or would be."""
        return self.root / "layers" / chain_id.hex

    def has(self, chain_id: Digest) -> bool:
        """Return whether a layer is unpacked, whole, and known."""
        with self._database.reading() as db:
            known = db.execute("SELECT 1 FROM layers WHERE chain_id = ?", (str(chain_id),)).fetchone()
        return known is not None

    def are_users(self, chain: Iterable[Digest]) -> bool:
        """Return whether one of the layers was unpacked without root, so that owners are in attributes."""
        with self._database.reading() as db:
            users = {row["chain_id"] for row in db.execute("SELECT chain_id FROM layers WHERE user_form")}
        return not users.isdisjoint(chain)

    def index(self, chain_id: Digest) -> tuple[Entry, ...]:
        """Return the entries of an unpacked layer, sorted, parents first."""
        try:
            return _ENTRIES.decode((self.root / "indexes" / chain_id.hex).read_bytes())
        except (FileNotFoundError, msgspec.MsgspecError) as error:
            raise ImageError(f"layer {chain_id.short} has no sound index; try: unionfs check --repair") from error

    def files(self, chain: Iterable[Digest]) -> "LayerFiles":
        """Return the way to the content of unpacked layers, numbered as they come; close it in the end."""
        return LayerFiles([self.path(chain_id) for chain_id in chain])

    def ensure(self, layers: Sequence[LayerOf], watch: Watcher = lambda _layer, _what: None) -> tuple[Digest, ...]:
        """Have all *layers* (bottom first) unpacked; return their chain ids, bottom first.

        Call it in a worker thread: it takes as long as unpacking takes, or waits for another process
        that unpacks the same layer.

        Raises:
            ImageError: a layer's archive is hostile, damaged or missing; nothing of it is left.
        """
        chain: list[Digest] = []
        for layer in layers:
            self.ensure_one(layer, tuple(chain), watch)
            chain.append(layer.chain_id)
        return tuple(chain)

    def ensure_one(
        self, layer: LayerOf, below: tuple[Digest, ...], watch: Watcher = lambda _layer, _what: None
    ) -> None:
        """Have one layer unpacked, of which all layers *below* (bottom first) already are; else as `ensure`."""
        if not self.has(layer.chain_id):
            with self._lock(layer.chain_id):
                if not self.has(layer.chain_id):
                    watch(layer, "unpacking")
                    self._unpack(layer, below)
                    watch(layer, "unpacked")

    def _lock(self, chain_id: Digest) -> Lock:
        return Lock(self.root / "locks" / f"layer-{chain_id.hex}")

    def take_in(self, blob: Descriptor) -> LayerOf:
        """Unpack a layer that nobody promised anything about, as the bottom of a stack, and say what it is.

        Raises:
            ImageError: the archive is hostile, damaged or cut short; nothing of it is left.
        """
        with self._staged() as staged:
            made, by_user = self._fill(staged, blob, (), None)
            layer = LayerOf(blob, made.diff_id, made.diff_id)
            with self._lock(layer.chain_id):
                if not self.has(layer.chain_id):
                    self._publish(layer, (), staged, made, by_user=by_user)
        return layer

    @contextmanager
    def _staged(self) -> Iterator[Path]:
        """Yield a new directory, removed again unless it was published."""
        staged = self.root / "staging" / f"layer-{os.getpid()}-{os.urandom(6).hex()}"
        staged.mkdir(mode=0o700)
        try:
            yield staged
        finally:
            remove_path(staged)
            remove_path(_index_of(staged))

    def _fill(
        self, staged: Path, blob: Descriptor, below: tuple[Digest, ...], expected: Digest | None
    ) -> tuple[Unpacked, bool]:
        """Unpack into *staged*; also tell whether that was done without root."""
        with self._blobs.open(blob.digest) as file, _opened(staged) as fd:
            form = form_here(fd)
            lower = _Below(self, below) if below else None
            try:
                made = unpack(file, fd, form, lower=lower, expected=expected, limits=Limits.from_environment())
            except ImageError as error:
                raise ImageError(f"layer {(expected or blob.digest).short}: {error}") from error
            return made, isinstance(form, UserForm)

    def _unpack(self, layer: LayerOf, below: tuple[Digest, ...]) -> None:
        with self._staged() as staged:
            made, by_user = self._fill(staged, layer.blob, below, layer.diff_id)
            self._publish(layer, below, staged, made, by_user=by_user)

    def _publish(self, layer: LayerOf, below: Sequence[Digest], staged: Path, made: Unpacked, *, by_user: bool) -> None:
        target, index = self.path(layer.chain_id), self.root / "indexes" / layer.chain_id.hex
        remove_path(target)  # left by somebody who died before the database knew
        with _index_of(staged).open("xb") as file:
            file.write(msgspec.msgpack.encode(made.entries))
            fileops.syncfs(file.fileno())  # one for all the layer's files: after a power cut, a known layer is whole
        _index_of(staged).rename(index)
        staged.rename(target)
        sync_directory(target.parent)
        self._record(layer, below, made.entries, by_user=by_user)

    def _record(self, layer: LayerOf, below: Sequence[Digest], entries: Sequence[Entry], *, by_user: bool) -> None:
        row = (
            str(layer.chain_id),
            str(layer.diff_id),
            str(below[-1]) if below else None,
            sum(entry.size for entry in entries if entry.kind is Kind.FILE),
            len(entries),
            int(by_user),
            time.time_ns(),
        )
        with self._database.changing() as db:
            db.execute("INSERT OR REPLACE INTO layers VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def recognize(self, layers: Sequence[LayerOf]) -> None:
        """Tell a new database which of *layers*, bottom first, are there; a directory that is there is whole."""
        below: list[Digest] = []
        for layer in layers:
            with suppress(ImageError, FileNotFoundError):
                if not self.has(layer.chain_id):
                    with _opened(self.path(layer.chain_id)) as fd:
                        self._record(layer, below, self.index(layer.chain_id), by_user=is_users(fd))
            below.append(layer.chain_id)

    def forget(self, chain_id: Digest) -> None:
        """Remove a layer; first from the database, so that a crash leaves a directory nobody believes in."""
        with self._database.changing() as db:
            db.execute("DELETE FROM layers WHERE chain_id = ?", (str(chain_id),))
        remove_path(self.path(chain_id))
        remove_path(self.root / "indexes" / chain_id.hex)

    def on_disk(self) -> Iterator[Digest]:
        """Yield the chain ids of all layer directories, known or not."""
        for entry in os.scandir(self.root / "layers"):
            if len(entry.name) == 64:
                yield Digest.from_hex(entry.name)

    def merged(self, chain: Iterable[Digest]) -> Merged:
        """Return the view of unpacked layers, bottom first."""
        return Merged(self.index(chain_id) for chain_id in chain)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _index_of(staged: Path) -> Path:
    return staged.with_name(staged.name + ".index")


def remove_path(path: Path) -> None:
    """Remove a file or a tree of the store. None the worse if it is not there."""
    with _opened(path.parent) as fd:
        remove(fd, os.fsencode(path.name))
