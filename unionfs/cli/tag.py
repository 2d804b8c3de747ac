"""Give an image another name. A name that another image has is taken from it."""

import argparse

from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import as_json
from unionfs.cli.store import opened, row_of
from unionfs.errors import ConfigError
from unionfs.oci.reference import Reference

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.add_argument("--json", action="store_true", help="print one JSON object, the image with all its names")
    parser.add_argument("image", help="a name, an id, or the beginning of an id")
    parser.add_argument("names", nargs="+", metavar="NAME[:TAG]")


def run(args: argparse.Namespace) -> Exit:
    images, _ = opened()
    names = [Reference.parse(text) for text in args.names]
    for name in names:
        if name.digest is not None:
            raise ConfigError(f"{name.familiar} names a digest, which cannot be given to an image")
    with images.using():
        image = images.find(args.image)
        for name in names:
            images.tag(image, name)
        if args.json:
            print(as_json(row_of(images.by_manifest(image.descriptor.digest))), end="")
    return Exit.OK
