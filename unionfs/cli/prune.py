"""Remove what nothing leads to: nameless images, and whatever removed images and crashes left behind.

--all removes every image that is neither mounted nor under a container, and partial downloads.
"""

import argparse
import sys

from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import as_json, size
from unionfs.cli.store import opened
from unionfs.errors import ConfigError, ImageError
from unionfs.oci import gc
from unionfs.oci.containers import Containers
from unionfs.oci.images import Image, Images

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    add = parser.add_argument
    add("-a", "--all", action="store_true", help="images with names too, unless they are in use")
    add("-f", "--force", action="store_true", help="do not ask")
    add("--dry-run", action="store_true", help="say what would go, and remove nothing")
    add("--json", action="store_true", help="one JSON object: Images, Garbage, SpaceReclaimed")


def run(args: argparse.Namespace) -> Exit:
    images, _ = opened()
    doomed = _doomed(images, every=args.all)
    if not args.dry_run and args.all and not args.force:
        _ask(len(doomed))
    if not args.dry_run:
        with images.using():  # as in rmi
            doomed = [image for image in doomed if _drop(images, image)]
        found = gc.collect(images, partial=args.all) or []
    else:
        found = _with(images, doomed, partial=args.all)
    total = sum(item.size for item in found)
    if args.json:
        values = {
            "Images": [str(image.id) for image in doomed],
            "Garbage": [{"Kind": item.kind, "Name": item.name, "Size": item.size} for item in found],
            "SpaceReclaimed": total,
            "DryRun": args.dry_run,
        }
        print(as_json(values), end="")
        return Exit.OK
    would = "would be " if args.dry_run else ""
    for image in doomed:
        names = " ".join(name.familiar for name in image.names)
        print(f"{would}deleted: {image.id.short} {names}".rstrip())
    for item in found:
        print(f"{would}removed: {item.kind} {item.name[:12]} {size(item.size)}")
    print(f"Total {'reclaimable' if args.dry_run else 'reclaimed'} space: {size(total)}")
    return Exit.OK


def _doomed(images: Images, *, every: bool) -> list[Image]:
    containers = Containers(images)
    used = {mount.image for mount in containers.mounted()} | {container.image for container in containers.all()}
    return [image for image in images.all() if image.descriptor.digest not in used and (every or not image.names)]


def _drop(images: Images, image: Image) -> bool:
    """Remove an image, unless somebody has begun to use it."""
    try:
        images.drop(image)
    except ImageError:
        return False
    return True


def _with(images: Images, doomed: list[Image], *, partial: bool) -> list[gc.Garbage]:
    """Return what would be garbage if the *doomed* images were gone."""
    return gc.garbage(images, partial=partial, without={image.descriptor.digest for image in doomed})


def _ask(count: int) -> None:
    if not sys.stdin.isatty():
        raise ConfigError("prune --all removes images that have names; try: prune --all --force")
    if input(f"Remove {count} images that nothing uses? [y/N] ").strip().lower() not in {"y", "yes"}:
        raise ConfigError("nothing was removed")
