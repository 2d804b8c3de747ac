"""Images in the store: names for them, and what they are made of.

An image is a manifest for one platform, with its configuration and its layers; its id is the digest
of the configuration. A name points to an image; an image whose last name was taken away (by `tag`
moving it, or by `rmi`) may stay, nameless, until `prune`.

Whoever adds an image, or uses one that could go, holds the store (`Images.using`): then nothing that
is already there is collected as garbage. See `gc` for the other side of that lock.
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unionfs.errors import ImageError, NoSuchImage
from unionfs.linux.flock import Lock
from unionfs.oci.database import Database
from unionfs.oci.digest import Digest, chain_ids
from unionfs.oci.layout import INDEX_FILE, index_of, store_root, write_index
from unionfs.oci.model import Descriptor, ImageConfig, Manifest, parse_config, parse_manifest
from unionfs.oci.reference import Reference
from unionfs.oci.store import BlobStore

__all__ = ["Image", "Images", "LayerOf", "layers_of"]


@dataclass(frozen=True, slots=True)
class LayerOf:
    """A layer of an image."""

    blob: Descriptor
    diff_id: Digest
    chain_id: Digest


def layers_of(manifest: Manifest, config: ImageConfig) -> tuple[LayerOf, ...]:
    """Pair what a manifest and a configuration say of each layer, bottom first.

    Raises:
        ImageError: they do not speak of the same layers.
    """
    diff_ids = config.rootfs.diff_ids
    if len(diff_ids) != len(manifest.layers):
        raise ImageError(f"the manifest has {len(manifest.layers)} layers, its configuration {len(diff_ids)}")
    return tuple(map(LayerOf, manifest.layers, diff_ids, chain_ids(diff_ids)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image of the store."""

    descriptor: Descriptor
    """Of its manifest."""
    manifest: Manifest
    config: ImageConfig
    layers: tuple[LayerOf, ...]
    """Bottom first."""
    names: tuple[Reference, ...]
    roots: tuple[Descriptor, ...]
    """For each name, what its registry means by it: the manifest, or an index."""

    @property
    def id(self) -> Digest:
        """The digest of its configuration."""
        return self.manifest.config.digest

    @property
    def size(self) -> int:
        """Bytes of its blobs, as they are stored: manifest, configuration and layers."""
        layers = {layer.blob.digest: layer.blob.size for layer in self.layers}
        return self.descriptor.size + self.manifest.config.size + sum(layers.values())


class Images:
    """The store: blobs, names, and where the rest is kept."""

    def __init__(self, root: Path | None = None) -> None:
        """Open the store at *root* (the usual one), making it where it is missing."""
        self.root = root or store_root()
        try:
            self._make_directories()
            self.blobs = BlobStore(self.root)
        except OSError as error:
            why = f"{self.root}: no store of images can be made there: {error.strerror}; try: UNIONFS_ROOT=DIRECTORY"
            raise OSError(error.errno, why) from error
        traces = [self.root / name for name in (INDEX_FILE, "layers", "containers")]
        self.database = Database(self.root / "unionfs.db", traces)

    def _make_directories(self) -> None:
        if not (self.root / "containers").is_dir():
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in ("layers", "indexes", "containers", "locks"):
                (self.root / name).mkdir(exist_ok=True)

    def using(self) -> Lock:
        """Return the lock that keeps garbage collection away while it is held; many may hold it."""
        return Lock(self.root / "locks" / "store", shared=True)

    def add(self, descriptor: Descriptor, name: Reference | None = None, root: Descriptor | None = None) -> Image:
        """Record an image whose blobs are all in the store, and give it a name, which may be moved.

        Hold `using` since before the first blob was put. *root* is what the name means to its
        registry, if that is an index.

        Raises:
            ImageError: its documents are not sound, or do not belong together.
            MissingBlob: a blob is not there.
        """
        self.record(descriptor, name, root)
        self.publish()
        return self.by_manifest(descriptor.digest)

    def record(self, descriptor: Descriptor, name: Reference | None = None, root: Descriptor | None = None) -> None:
        """Do as `add` does, but for the layout's index, which the caller writes when he has recorded all."""
        manifest = parse_manifest(self.blobs.get(descriptor.digest))
        config = parse_config(self.blobs.get(manifest.config.digest))
        layers = layers_of(manifest, config)
        for layer in layers:
            self.blobs.size(layer.blob.digest)
        key = str(descriptor.digest)
        with self.database.changing() as db:
            image = (key, descriptor.media_type, descriptor.size, str(manifest.config.digest), time.time_ns())
            db.execute("INSERT OR IGNORE INTO images VALUES (?, ?, ?, ?, ?)", image)
            db.executemany("INSERT OR IGNORE INTO image_layers VALUES (?, ?, ?, ?, ?, ?, ?)", _rows(key, layers))
            if name is not None:
                _point(db, name, descriptor, root or descriptor)

    def tag(self, image: Image, name: Reference) -> None:
        """Give *image* one more name; an image that had it keeps its others."""
        root = image.roots[0] if image.roots else image.descriptor
        with self.database.changing() as db:
            _point(db, name, image.descriptor, root)
        self.publish()

    def untag(self, name: Reference) -> None:
        """Take a name away; the image stays."""
        with self.database.changing() as db:
            db.execute("DELETE FROM names WHERE name = ?", (str(name),))
        self.publish()

    def drop(self, image: Image) -> None:
        """Forget an image and all its names. Its content goes with the next collection of garbage.

        Raises:
            ImageError: it is mounted, or a container is built on it.
        """
        key = str(image.descriptor.digest)
        with self.database.changing() as db:
            try:
                db.execute("DELETE FROM names WHERE manifest = ?", (key,))
                db.execute("DELETE FROM images WHERE manifest = ?", (key,))
            except sqlite3.IntegrityError as error:
                raise ImageError(
                    f"image {image.id.short} is in use by a container or a mount; try: unionfs rmi -f"
                ) from error
        self.publish()

    def forget(self, manifest: Digest) -> None:
        """Forget an image that cannot be read; a container on it keeps its directory, and is known no more."""
        with self.database.changing() as db:
            for table in ("names", "containers", "mounts", "images"):
                db.execute(f"DELETE FROM {table} WHERE manifest = ?", (str(manifest),))  # noqa: S608 - ours
        self.publish()

    def publish(self) -> None:
        """Write the layout's index anew from the database."""
        with Lock(self.root / "locks" / "index"):
            write_index(self.root, self.index())

    def index(self) -> bytes:
        """Return what the layout's index should say."""
        with self.database.reading() as db:
            rows = db.execute("SELECT name, root, root_type, root_size FROM names").fetchall()
        roots = {
            Reference.parse(row["name"]): _descriptor(row["root"], row["root_type"], row["root_size"]) for row in rows
        }
        return index_of(self.named(), roots)

    def named(self) -> Iterator[tuple[Descriptor, list[Reference]]]:
        """Yield every image's manifest and names, the oldest addition first."""
        with self.database.reading() as db:
            names: dict[str, list[Reference]] = {}
            for row in db.execute("SELECT name, manifest FROM names"):
                names.setdefault(row["manifest"], []).append(Reference.parse(row["name"]))
            images = db.execute("SELECT manifest, media_type, size FROM images ORDER BY added_ns, manifest").fetchall()
        for row in images:
            yield _descriptor(row["manifest"], row["media_type"], row["size"]), names.get(row["manifest"], [])

    def all(self) -> list[Image]:
        """Return every image, the newest addition first."""
        with self.database.reading() as db:
            keys = db.execute("SELECT manifest FROM images ORDER BY added_ns DESC, manifest").fetchall()
        return [self.by_manifest(Digest(row["manifest"])) for row in keys]

    def by_manifest(self, digest: Digest) -> Image:
        """Return the image of that manifest.

        Raises:
            NoSuchImage: the store does not know it.
        """
        with self.database.reading() as db:
            row = db.execute("SELECT * FROM images WHERE manifest = ?", (str(digest),)).fetchone()
            rows = db.execute("SELECT * FROM names WHERE manifest = ? ORDER BY name", (str(digest),)).fetchall()
        if row is None:
            raise NoSuchImage(f"no image {digest.short}; try: unionfs images")
        manifest = parse_manifest(self.blobs.get(digest))
        config = parse_config(self.blobs.get(manifest.config.digest))
        return Image(
            descriptor=_descriptor(row["manifest"], row["media_type"], row["size"]),
            manifest=manifest,
            config=config,
            layers=layers_of(manifest, config),
            names=tuple(Reference.parse(name["name"]) for name in rows),
            roots=tuple(_descriptor(name["root"], name["root_type"], name["root_size"]) for name in rows),
        )

    def find(self, text: str) -> Image:
        """Return the image that *text* means: a name, an id or digest, or the beginning of an id.

        Raises:
            NoSuchImage: there is none.
            ImageError: several ids begin like that, or *text* could be no name.
        """
        keys = self._by_name(text) or self._by_id(text)
        if not keys:
            raise NoSuchImage(f"no image {text!r}; try: unionfs images, or unionfs pull {text}")
        if len(keys) > 1:
            raise ImageError(f"{text!r} is the beginning of {len(keys)} image ids; write more of it")
        return self.by_manifest(Digest(keys[0]))

    def _by_name(self, text: str) -> list[str]:
        try:
            name = Reference.parse(text)
        except ImageError:
            return []
        with self.database.reading() as db:
            if name.digest is None:
                rows = db.execute("SELECT manifest FROM names WHERE name = ?", (str(name),)).fetchall()
            else:
                rows = db.execute(
                    "SELECT DISTINCT manifest FROM names WHERE ? IN (root, manifest) AND substr(name, 1, ?) IN (?, ?)",
                    (str(name.digest), len(name.name) + 1, f"{name.name}:", f"{name.name}@"),
                ).fetchall()
        return [row["manifest"] for row in rows]

    def _by_id(self, text: str) -> list[str]:
        start = text.removeprefix("sha256:")
        if not start or not set(start) <= set("0123456789abcdef"):
            return []
        with self.database.reading() as db:
            rows = db.execute(
                "SELECT manifest FROM images WHERE config LIKE ? OR manifest = ?",
                (f"sha256:{start}%", f"sha256:{start}"),
            ).fetchall()
        return [row["manifest"] for row in rows]


def _rows(key: str, layers: Sequence[LayerOf]) -> Iterable[tuple[object, ...]]:
    for position, layer in enumerate(layers):
        blob = layer.blob
        ids = (str(layer.diff_id), str(layer.chain_id))
        yield (key, position, str(blob.digest), blob.size, blob.media_type, *ids)


def _point(db: sqlite3.Connection, name: Reference, image: Descriptor, root: Descriptor) -> None:
    row = (str(name), str(image.digest), str(root.digest), root.media_type, root.size)
    db.execute("INSERT OR REPLACE INTO names VALUES (?, ?, ?, ?, ?)", row)


def _descriptor(digest: str, media_type: str, size: int) -> Descriptor:
    return Descriptor(media_type=media_type, digest=Digest(digest), size=size)
