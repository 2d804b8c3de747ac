"""Make an image of a container: its image, and one layer of what was changed in it.

Equal changes make equal layers; set SOURCE_DATE_EPOCH for equal images.
"""

import argparse

from unionfs.cli.exitcodes import Exit
from unionfs.cli.import_ import add_changes, changed
from unionfs.cli.render import as_json
from unionfs.cli.store import note_layer, opened, row_of
from unionfs.oci.containers import Containers
from unionfs.oci.make import Note, commit
from unionfs.oci.model import RunConfig
from unionfs.oci.reference import Reference

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    add_changes(parser)
    parser.add_argument("container", help="made by: unionfs mount IMAGE DIR --rw NAME")
    parser.add_argument("name", nargs="?", metavar="NAME[:TAG]", help="what to call the image")


def run(args: argparse.Namespace) -> Exit:
    images, snapshots = opened()
    container = Containers(images).find(args.container)
    name = Reference.parse(args.name) if args.name else None
    note = Note(created_by=f"unionfs commit {container.name}", comment=args.message, author=args.author)
    with images.using():
        base = images.by_manifest(container.image)
        snapshots.ensure(base.layers, note_layer)
        config = changed(base.config.config or RunConfig(), args.change)
        image = commit(images, base, container.upper, note, name, config)
    print(as_json(row_of(image)) if args.json else f"{image.id}\n", end="")
    return Exit.OK
