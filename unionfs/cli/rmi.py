"""Remove images. A name that is not the image's last is only taken away.

Layers that other images have stay. An image that is mounted, or that a container is built on, is
kept; -f removes its containers too, unless they are mounted.
"""

import argparse
import sys

from unionfs.cli.exitcodes import Exit, describe
from unionfs.cli.render import as_json
from unionfs.cli.store import opened
from unionfs.errors import ImageError, NoSuchImage
from unionfs.oci import gc
from unionfs.oci.containers import Containers
from unionfs.oci.images import Image, Images
from unionfs.oci.reference import Reference

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    add = parser.add_argument
    add("-f", "--force", action="store_true", help="all names of the image, and its containers; missing ones are fine")
    add("--json", action="store_true", help="one JSON object: Untagged, Deleted")
    add("images", nargs="+", metavar="IMAGE", help="a name, an id, or the beginning of an id")


def run(args: argparse.Namespace) -> Exit:
    images, _ = opened()
    done: dict[str, list[str]] = {"Untagged": [], "Deleted": []}
    status = Exit.OK
    for text in args.images:
        try:
            with images.using():  # a check, which is alone with the store, sees all of a removal or nothing
                _remove(images, text, done, force=args.force)
        except ImageError as error:
            if not (args.force and isinstance(error, NoSuchImage)):
                code, message = describe(error)
                status = Exit(code)
                print(message, end="", file=sys.stderr)
    if done["Deleted"]:
        gc.collect(images, wait=False)
    if args.json:
        print(as_json(done), end="")
    else:
        for what, names in done.items():
            for name in names:
                print(f"{what}: {name}")
    return status


def _remove(images: Images, text: str, done: dict[str, list[str]], *, force: bool) -> None:
    image = images.find(text)
    named = next((name for name in image.names if _means(text, name)), None)
    if named is None and len(image.names) > 1 and not force:
        raise ImageError(f"image {image.id.short} has {len(image.names)} names; name one, or use -f for all")
    if named is not None and len(image.names) > 1 and not force:
        images.untag(named)
        done["Untagged"].append(named.familiar)
        return
    _release(images, image, force=force)
    images.drop(image)
    done["Untagged"] += [name.familiar for name in image.names]
    done["Deleted"].append(str(image.id))


def _means(text: str, name: Reference) -> bool:
    try:
        return Reference.parse(text) == name
    except ImageError:
        return False


def _release(images: Images, image: Image, *, force: bool) -> None:
    """Refuse what is mounted; take containers away if that was asked for."""
    containers = Containers(images)
    for mount in containers.mounted():
        if mount.image == image.descriptor.digest:
            raise ImageError(
                f"image {image.id.short} is mounted on {mount.mountpoint}; try: unionfs umount {mount.mountpoint}"
            )
    if force:
        for container in containers.all():
            if container.image == image.descriptor.digest:
                containers.remove(container)
