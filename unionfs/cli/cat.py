"""Write files of an image to stdout; --layer reads a version that a layer above hides."""

import argparse
import shutil
import sys

from unionfs.cli.exitcodes import Exit
from unionfs.cli.target import only, physical, split, view_of
from unionfs.errors import NoSuchPath
from unionfs.oci.entry import Kind

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    add = parser.add_argument
    add("--layer", type=int, metavar="N", help="of this layer alone; 0 is the bottom, -1 the top")
    add("--platform", metavar="OS/ARCH[/VARIANT]", help="which image of an archive's index")
    add("targets", nargs="+", metavar="IMAGE:/PATH", help="an image, archive, container or directory, and a file in it")


def run(args: argparse.Namespace) -> Exit:
    for target in args.targets:
        name, path = split(target)
        whole = view_of(name, args.platform)
        view = only(whole, args.layer)
        shown = view.merged.resolve(path if view is whole else physical(whole, path))
        if shown.entry.kind is not Kind.FILE:
            raise NoSuchPath(path, f"is a {shown.entry.kind.value}, not a file")
        with view.open(shown) as file:
            shutil.copyfileobj(file, sys.stdout.buffer, 1 << 20)
    sys.stdout.buffer.flush()
    return Exit.OK
