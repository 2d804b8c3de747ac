"""Writable layers that are kept, and who has an image mounted.

A container here is no process: it is a name, an image, and the upper layer of whatever was changed in it.
A mount is recorded with a lock that its daemon holds; when the daemon is gone, however it went, the lock
is free and the record means nothing any more.
"""

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from unionfs.errors import ImageError, NoSuchImage
from unionfs.linux.flock import Lock
from unionfs.oci.digest import Digest
from unionfs.oci.entry import Entry
from unionfs.oci.form import form_here
from unionfs.oci.images import Image, Images
from unionfs.oci.snapshots import remove_path

__all__ = ["Container", "Containers", "Mounted"]

_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}")

_HELD: Final[list[Lock]] = []
"""Locks of the mount that this process serves."""


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
            raise NoSuchImage(f"no container {name!r}; try: unionfs mount --rw {name} IMAGE DIR")
        return found

    def ensure(self, name: str, image: Image, root: Entry) -> Container:
        """Return the container *name*, made if it is new; *root* is what its root directory looks like.

        Raises:
            ImageError: it exists, over another image.
        """
        if not _NAME.fullmatch(name):
            raise ImageError(f"{name!r} cannot be the name of a container: letters, digits, and ._- after the first")
        made = self._made(name, image.descriptor.digest, time.time_ns())
        if not made.upper.exists():
            made.directory.mkdir(mode=0o700, exist_ok=True)
            made.work.mkdir(mode=0o700, exist_ok=True)
            _make_upper(made.upper, root)
        with self._images.database.changing() as db:
            db.execute("INSERT OR IGNORE INTO containers VALUES (?, ?, ?)", (name, str(made.image), made.created_ns))
        found = self.find(name)
        if found.image != made.image:
            raise ImageError(f"container {name!r} is built on another image ({found.image.short}); choose another name")
        return found

    def remove(self, container: Container) -> None:
        """Remove a container and what was changed in it.

        Raises:
            ImageError: it is mounted.
        """
        where = next((m.mountpoint for m in self.mounted() if m.container == container.name), None)
        if where is not None:
            raise ImageError(f"container {container.name!r} is mounted on {where}; try: unionfs umount {where}")
        with self._images.database.changing() as db:
            db.execute("DELETE FROM containers WHERE name = ?", (container.name,))
        remove_path(container.directory)

    def _made(self, name: str, image: Digest, created_ns: int) -> Container:
        directory = self._images.root / "containers" / name
        return Container(name=name, image=image, directory=directory, created_ns=created_ns)

    def mount(self, image: Image, container: Container | None, mountpoint: Path) -> Lock:
        """Record a mount; the lock that comes back is its life: whoever serves it must `hold` it too.

        Raises:
            ImageError: the image is being removed.
        """
        name = f"mount-{os.getpid()}-{os.urandom(4).hex()}"
        lock = Lock(self._images.root / "locks" / name, shared=True)
        lock.acquire()
        row = (
            name,
            str(image.descriptor.digest),
            container.name if container else None,
            str(mountpoint),
            time.time_ns(),
        )
        with self._images.database.changing() as db:
            db.execute("INSERT INTO mounts VALUES (?, ?, ?, ?, ?)", row)
        return lock

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
    """Make an upper layer whose root looks like the root below; it appears when that is so."""
    staged = upper.with_name("upper.new")
    staged.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(staged, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        form_here(fd).attributes(fd, root)
        os.utime(fd, ns=(root.mtime_ns, root.mtime_ns))
    finally:
        os.close(fd)
    staged.rename(upper)
