"""Bring in images from an archive or a directory: docker-archive, oci-archive, OCI layout, skopeo's dir.

The format is found out, and so is the compression. An archive is read once, so it may be a pipe.
"""

import argparse
import sys
from pathlib import Path

from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import as_json
from unionfs.cli.store import opened, row_of
from unionfs.errors import ConfigError
from unionfs.oci.load import load
from unionfs.oci.platforms import parse_platform
from unionfs.oci.reference import Reference

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    add = parser.add_argument
    add("-i", "--input", default="-", metavar="FILE", help="an archive or a directory; stdin without it")
    add("-q", "--quiet", action="store_true", help="ids alone")
    add("--platform", metavar="OS/ARCH[/VARIANT]", help="which image of an index; this machine's without it")
    add("--json", action="store_true", help="one JSON array, an object for each image")
    add("name", nargs="?", help="a name for the image, if there is just one")


def run(args: argparse.Namespace) -> Exit:
    images, _ = opened()
    platform = parse_platform(args.platform) if args.platform else None
    name = Reference.parse(args.name) if args.name else None
    if args.input == "-" and sys.stdin.isatty():
        raise ConfigError("load reads an archive from stdin, and this is a terminal; try: -i FILE")
    with images.using():
        found = load(images, sys.stdin.buffer if args.input == "-" else Path(args.input), platform)
        if name is not None:
            if len(found) != 1:
                raise ConfigError(f"{len(found)} images were loaded, and a name fits only one; try: unionfs tag")
            image, names = found[0]
            images.tag(image, name)
            found = [(images.by_manifest(image.descriptor.digest), [*names, name])]
    if args.json:
        print(as_json([row_of(image) for image, _ in found]), end="")
        return Exit.OK
    for image, names in found:
        if args.quiet:
            print(image.id.short)
        for name in () if args.quiet else dict.fromkeys(names):
            print(f"Loaded image: {name.familiar}")
        if not args.quiet and not names:
            print(f"Loaded image ID: {image.id}")
    return Exit.OK
