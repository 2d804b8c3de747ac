"""List a directory of an image, an archive, a container or a directory: no mount, no privilege."""

import argparse
import os

from unionfs.cli.entries import long_row, values_of
from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import as_json, as_table, printable
from unionfs.cli.target import only, split, view_of
from unionfs.oci.merged import Shown

__all__ = ["add_view_options", "configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    add = parser.add_argument
    add("-l", "--long", action="store_true", help="type, mode, owner, size and time")
    add("-R", "--recursive", action="store_true", help="everything below, with whole paths")
    add("-d", "--directory", action="store_true", help="the directory itself")
    add_view_options(parser)


def add_view_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--layer", type=int, metavar="N", help="of this layer alone; 0 is the bottom, -1 the top")
    add("--platform", metavar="OS/ARCH[/VARIANT]", help="which image of an archive's index")
    add("--json", action="store_true", help="one JSON array, an object for each file")
    add("target", metavar="IMAGE[:/PATH]", help="an image, archive, container or directory, and a path in it")


def run(args: argparse.Namespace) -> Exit:
    name, path = split(args.target)
    view = only(view_of(name, args.platform), args.layer)
    top = view.merged.resolve(path)
    found = [shown for shown in view.merged.walk(top) if shown is not top] if args.recursive else _children(top, args)
    if args.json:
        print(as_json([values_of(shown) for shown in found]), end="")
        return Exit.OK
    prefix = len(top.entry.path) + 1 if top.entry.path else 0
    rows = [long_row(shown.entry, _name(shown, top, prefix)) for shown in found]
    if args.long:
        print(as_table(["MODE", "UID", "GID", "SIZE", "MODIFIED", "NAME"], rows), end="")
    else:
        for shown in found:
            print(printable(_name(shown, top, prefix)))
    return Exit.OK


def _children(top: Shown, args: argparse.Namespace) -> list[Shown]:
    if args.directory or top.children is None:
        return [top]
    return [child for _, child in sorted(top.children.items())]


def _name(shown: Shown, top: Shown, prefix: int) -> str:
    return os.fsdecode(shown.entry.path[prefix:] if shown is not top else shown.entry.name or b"/")
