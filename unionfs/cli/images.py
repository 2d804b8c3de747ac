"""List the images in the store, the newest first."""

import argparse
from typing import Any

from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import as_json, as_table, size
from unionfs.cli.store import created, opened, row_of
from unionfs.oci.containers import Containers
from unionfs.oci.images import Image
from unionfs.oci.reference import Reference

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    add = parser.add_argument
    add("-q", "--quiet", action="store_true", help="ids alone")
    add("-a", "--all", action="store_true", help="accepted, as all are shown: there are no intermediate ones")
    add("--digests", action="store_true", help="show the digest of each manifest")
    add("--no-trunc", action="store_true", help="whole ids")
    add("--json", action="store_true", help="one JSON array, an object for each image")
    add("name", nargs="?", help="only the images of this name, with any tag")


def run(args: argparse.Namespace) -> Exit:
    images, _ = opened()
    mounted = {mount.image for mount in Containers(images).mounted()}
    found = [image for image in images.all() if _is_wanted(image, args)]
    if args.json:
        print(as_json([row_of(image, mounted=image.descriptor.digest in mounted) for image in found]), end="")
    elif args.quiet:
        for image in found:
            print(image.id if args.no_trunc else image.id.short)
    else:
        headers = ["REPOSITORY", "TAG", *(["DIGEST"] if args.digests else []), "IMAGE ID", "CREATED", "SIZE"]
        rows = [row for image in found for row in _rows(image, args)]
        print(as_table(headers, rows) or "  ".join(headers) + "\n", end="")
    return Exit.OK


def _is_wanted(image: Image, args: argparse.Namespace) -> bool:
    if args.name is None:
        return True
    wanted = Reference.parse(args.name)
    with_tag = ":" in args.name.rpartition("/")[2]
    return any(name == wanted if with_tag else name.name == wanted.name for name in image.names)


def _rows(image: Image, args: argparse.Namespace) -> list[list[Any]]:
    shown = image.id if args.no_trunc else image.id.short
    names = [(name.familiar_name, name.tag or "<none>") for name in image.names] or [("<none>", "<none>")]
    digest = [image.descriptor.digest] if args.digests else []
    return [[*name, *digest, shown, created(image.config.created), size(image.size)] for name in names]
