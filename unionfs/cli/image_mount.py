"""Mount an image of the store: its unpacked layers as the lower ones, a container's as the upper one.

While the daemon lives it holds a lock that the store's record of the mount names, so an image in use is
neither removed nor pruned, and a daemon that was killed holds nothing back.
"""

import os
from pathlib import Path

from unionfs.cli.exitcodes import Exit
from unionfs.cli.start import start
from unionfs.cli.store import note_layer, opened
from unionfs.core.options import Reading, read
from unionfs.linux.mount import is_mountpoint
from unionfs.oci.containers import Container, Containers
from unionfs.oci.digest import Digest
from unionfs.oci.images import Image, Images
from unionfs.oci.snapshots import Snapshots

__all__ = ["mount_image"]

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
        if mountpoint is None and is_mountpoint(place):
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
    containers.require_unmounted(container)
    return container


def _own_place(images: Images, image: Image, container: Container | None) -> Path:
    place = images.root / "mounts" / (container.name if container else image.id.short)
    place.parent.mkdir(exist_ok=True)
    if not is_mountpoint(place):
        place.mkdir(exist_ok=True)
    return place


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
