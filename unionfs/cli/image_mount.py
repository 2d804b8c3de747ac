"""Mount an image of the store: its unpacked layers as the lower ones, a container's as the upper one.

While the daemon lives it holds a lock that the store's record of the mount names, so an image in use is
neither removed nor pruned, and a daemon that was killed holds nothing back.
"""

import os
import time
from pathlib import Path
from typing import Final

from unionfs.cli.exitcodes import Exit
from unionfs.cli.start import start
from unionfs.cli.store import note_layer, opened
from unionfs.core.options import Reading, read
from unionfs.errors import ImageError
from unionfs.linux import mount as kernel
from unionfs.oci.containers import Container, Containers
from unionfs.oci.digest import Digest
from unionfs.oci.images import Image, Images
from unionfs.oci.snapshots import Snapshots

__all__ = ["mount_image"]

PATIENCE_S: Final = 10.0
"""How long a daemon may take to end after its mount."""
POLL_S: Final = 0.02

NEW = ""
"""As the name of a container: make one up."""


def mount_image(reading: Reading, text: str, mountpoint: Path | None, rw: str | None, *, foreground: bool) -> Exit:
    """Mount the image that *text* means and print where.

    *mountpoint* is None for a place of the store's own; *rw* names the container that takes the changes,
    None mounts read-only.
    """
    images, snapshots = opened()
    containers = Containers(images)
    with images.using():
        image = images.find(text)
        chain = snapshots.ensure(image.layers, note_layer)
        container = _container(containers, snapshots, image, chain, rw) if rw is not None else None
        place = mountpoint or _own_place(images, image, container)
        if mountpoint is None and _is_mounted(place):
            print(place)
            return Exit.OK
        _stack(reading, images, snapshots, chain, container)
        lock = containers.mount(image, container, place.absolute())
    try:
        if not foreground:
            status = start(reading, place, foreground=False, on_ready=lambda: containers.hold(lock))
            if status is Exit.OK:
                print(place)
            return status
        print(place, flush=True)
        return start(reading, place, foreground=True)
    finally:
        lock.release()


def _container(
    containers: Containers, snapshots: Snapshots, image: Image, chain: tuple[Digest, ...], name: str
) -> Container:
    root = snapshots.merged(chain).root.entry
    container = containers.ensure(name or f"rw-{os.urandom(3).hex()}", image, root)
    deadline = time.monotonic() + PATIENCE_S
    while (where := _mountpoint(containers, container)) is not None:
        if _is_mounted(Path(where)) or time.monotonic() > deadline:
            raise ImageError(f"container {container.name!r} is mounted on {where}; try: unionfs umount {where}")
        time.sleep(POLL_S)
    return container


def _mountpoint(containers: Containers, container: Container) -> str | None:
    """Return where *container* is mounted, or was a moment ago if its daemon is still on its way out."""
    return next((mount.mountpoint for mount in containers.mounted() if mount.container == container.name), None)


def _own_place(images: Images, image: Image, container: Container | None) -> Path:
    place = images.root / "mounts" / (container.name if container else image.id.short)
    place.parent.mkdir(exist_ok=True)
    if not _is_mounted(place):
        place.mkdir(exist_ok=True)
    return place


def _is_mounted(place: Path) -> bool:
    real = os.path.realpath(place)
    return any(mount.mountpoint == real for mount in kernel.mounts())


def _stack(
    reading: Reading, images: Images, snapshots: Snapshots, chain: tuple[Digest, ...], container: Container | None
) -> None:
    """Say what is to be stacked, and in which form the layers are."""
    reading.lower = [snapshots.path(chain_id) for chain_id in reversed(chain)]
    if not chain:
        empty = images.root / "empty"
        empty.mkdir(exist_ok=True)
        reading.lower = [empty]
    if snapshots.are_users(chain):
        read("userxattr,xattr_permissions=2", reading)
    if container is not None:
        reading.union.update({"upper": container.upper, "work": container.work})
