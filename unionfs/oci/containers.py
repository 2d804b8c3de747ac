"""Writable layers that are kept, and who has an image mounted.

A container here is no process: it is a name, an image, and the upper layer of whatever was changed in it.
Only `remove` ever takes its directory away. What the database knows of it stands beside it as well, so
that a database that was lost costs nobody his changes:

    ROOT/containers/NAME/container.json   its image, and since when
    ROOT/containers/NAME/upper            what was changed
    ROOT/containers/NAME/work             what the union needs

A mount is recorded with a lock that its daemon holds; when the daemon is gone, however it went, the lock
is free and the record means nothing any more. The lock's file holds the record too.
"""

import errno
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from unionfs.errors import ImageError, MalformedName, NoSuchImage
from unionfs.linux.flock import Lock
from unionfs.linux.mount import is_mountpoint
from unionfs.oci.digest import Digest
from unionfs.oci.entry import Entry
from unionfs.oci.form import form_here
from unionfs.oci.images import Image, Images
from unionfs.oci.model import Descriptor, decode, encode
from unionfs.oci.snapshots import remove_path
from unionfs.oci.store import sync_directory, write_durably

__all__ = ["Container", "Containers", "Mounted"]

_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}")

_RECORD: Final = "container.json"

_PATIENCE_S: Final = 10.0
"""How long a daemon may take to end after its mount."""
_POLL_S: Final = 0.02

_HELD: Final[list[Lock]] = []
"""Locks of the mount that this process serves."""


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in a container's directory."""

    manifest: Descriptor
    created_ns: int


class _MountRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in the lock of a mount."""

    manifest: Descriptor
    container: str | None
    mountpoint: str
    since_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A writable layer by name."""

    name: str
    image: Digest
    """Digest of its image's manifest."""
    directory: Path
    created_ns: int

    @property
    def upper(self) -> Path:
        """What was changed."""
        return self.directory / "upper"

    @property
    def work(self) -> Path:
        """What the union needs beside it."""
        return self.directory / "work"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """An image that is mounted now."""

    image: Digest
    container: str | None
    mountpoint: str


class Containers:
    """The writable layers and the mounts of one store."""

    def __init__(self, images: Images) -> None:
        self._images = images

    def all(self) -> list[Container]:
        """Return every container, by name."""
        with self._images.database.reading() as db:
            rows = db.execute("SELECT * FROM containers ORDER BY name").fetchall()
        return [self._made(row["name"], Digest(row["manifest"]), row["created_ns"]) for row in rows]

    def find(self, name: str) -> Container:
        """Return the container of that name.

        Raises:
            NoSuchImage: there is none.
        """
        found = next((container for container in self.all() if container.name == name), None)
        if found is None:
            raise NoSuchImage(f"no container {name!r}; try: unionfs df -v, or unionfs mount --rw {name} IMAGE DIR")
        return found

    def ensure(self, name: str, image: Image, root: Entry) -> Container:
        """Return the container *name*, made if it is new; *root* is what its root directory looks like.

        Raises:
            ImageError: it exists, over another image.
        """
        if not _NAME.fullmatch(name):
            raise MalformedName(f"{name!r} cannot be the name of a container: letters, digits, and ._- after the first")
        found = next((container for container in self.all() if container.name == name), None)
        if found is None:
            if not (self._images.root / "containers" / name).exists():
                self._make(name, _Record(manifest=image.descriptor, created_ns=time.time_ns()), root)
            found = self.take_in(name)
        if found.image != image.descriptor.digest:
            raise ImageError(f"container {name!r} is built on another image ({found.image.short}); choose another name")
        return found

    def _make(self, name: str, record: "_Record", root: Entry) -> None:
        """Make the directory of a container; it appears when it is whole, unless somebody else's did first."""
        staged = self._images.root / "staging" / f"container-{os.getpid()}-{os.urandom(6).hex()}"
        staged.mkdir(mode=0o700)
        try:
            (staged / "work").mkdir(mode=0o700)
            _make_upper(staged / "upper", root)
            write_durably(staged / _RECORD, encode(record))
            sync_directory(staged)
            staged.rename(self._images.root / "containers" / name)
            sync_directory(self._images.root / "containers")
        except OSError as error:
            if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
                raise
        finally:
            remove_path(staged)

    def unknown(self) -> list[str]:
        """Return the names of directories that the database does not know; `take_in` tells it."""
        known = {container.name for container in self.all()}
        return sorted(set(os.listdir(self._images.root / "containers")) - known)

    def take_in(self, name: str) -> Container:
        """Have the database know a container whose directory is there, and return it.

        Raises:
            ImageError: its record is not sound, or its image is not in the store.
        """
        path = self._images.root / "containers" / name / _RECORD
        try:
            record = decode(path.read_bytes(), _Record, "record of a container")
        except OSError as error:
            raise ImageError(f"{path}: {error.strerror}") from error
        self._images.record(record.manifest)
        with self._images.database.changing() as db:
            row = (name, str(record.manifest.digest), record.created_ns)
            db.execute("INSERT OR IGNORE INTO containers VALUES (?, ?, ?)", row)
        return self.find(name)

    def require_unmounted(self, container: Container) -> None:
        """Return if nobody has *container* mounted; a daemon whose mount is gone already is waited for.

        Raises:
            ImageError: it is mounted.
        """
        deadline = time.monotonic() + _PATIENCE_S
        while (where := self._mountpoint(container)) is not None:
            if is_mountpoint(Path(where)) or time.monotonic() > deadline:
                raise ImageError(f"container {container.name!r} is mounted on {where}; try: unionfs umount {where}")
            time.sleep(_POLL_S)

    def _mountpoint(self, container: Container) -> str | None:
        return next((mount.mountpoint for mount in self.mounted() if mount.container == container.name), None)

    def remove(self, container: Container) -> None:
        """Remove a container and what was changed in it.

        Raises:
            ImageError: it is mounted.
        """
        self.require_unmounted(container)
        with self._images.database.changing() as db:
            db.execute("DELETE FROM containers WHERE name = ?", (container.name,))
        doomed = self._images.root / "staging" / f"container-{os.getpid()}-{os.urandom(6).hex()}"
        with suppress(FileNotFoundError):
            container.directory.rename(doomed)
            remove_path(doomed)

    def _made(self, name: str, image: Digest, created_ns: int) -> Container:
        directory = self._images.root / "containers" / name
        return Container(name=name, image=image, directory=directory, created_ns=created_ns)

    def mount(self, image: Image, container: Container | None, mountpoint: Path) -> Lock:
        """Record a mount; the lock that comes back is its life: whoever serves it must `hold` it too.

        Raises:
            ImageError: the image is being removed.
        """
        record = _MountRecord(
            manifest=image.descriptor,
            container=container.name if container else None,
            mountpoint=str(mountpoint),
            since_ns=time.time_ns(),
        )
        name = f"mount-{os.getpid()}-{os.urandom(4).hex()}"
        lock = Lock(self._images.root / "locks" / name, shared=True)
        lock.acquire()
        lock.path.write_bytes(encode(record))
        self._record_mount(name, record)
        return lock

    def _record_mount(self, lock: str, record: "_MountRecord") -> None:
        row = (lock, str(record.manifest.digest), record.container, record.mountpoint, record.since_ns)
        with self._images.database.changing() as db:
            db.execute("INSERT INTO mounts VALUES (?, ?, ?, ?, ?)", row)

    def recognize_mounts(self) -> None:
        """Tell a new database of the mounts that an old one knew: those whose lock is held."""
        for path in sorted((self._images.root / "locks").glob("mount-*")):
            lock = Lock(path)
            if lock.acquire(wait=False):
                lock.release()
                continue
            with suppress(ImageError):  # of an image that is lost: nothing of it can be kept from going
                record = decode(path.read_bytes(), _MountRecord, "record of a mount")
                self._images.record(record.manifest)
                self._record_mount(path.name, record)

    @staticmethod
    def hold(lock: Lock) -> None:
        """Hold the lock of a mount until this process ends, whatever becomes of descriptors it inherited."""
        own = Lock(lock.path, shared=True)
        own.acquire(wait=False)
        _HELD.append(own)

    def mounted(self) -> list[Mounted]:
        """Return what is mounted now; records of mounts that are gone are removed."""
        return list(self._living())

    def _living(self) -> Iterator[Mounted]:
        with self._images.database.reading() as db:
            rows = db.execute("SELECT * FROM mounts ORDER BY since_ns").fetchall()
        for row in rows:
            lock = Lock(self._images.root / "locks" / row["lock"])
            if lock.acquire(wait=False):
                with self._images.database.changing() as db:
                    db.execute("DELETE FROM mounts WHERE lock = ?", (row["lock"],))
                (self._images.root / "locks" / row["lock"]).unlink(missing_ok=True)
                lock.release()
            else:
                yield Mounted(image=Digest(row["manifest"]), container=row["container"], mountpoint=row["mountpoint"])


def _make_upper(upper: Path, root: Entry) -> None:
    """Make an upper layer whose root looks like the root below."""
    upper.mkdir(mode=0o700)
    fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        form_here(fd).attributes(fd, root)
        os.utime(fd, ns=(root.mtime_ns, root.mtime_ns))
    finally:
        os.close(fd)
