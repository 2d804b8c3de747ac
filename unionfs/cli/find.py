"""Find files in an image by name, type, size, or the layer they come from."""

import argparse
import fnmatch
import re
from collections.abc import Iterator

from unionfs.cli.entries import shown_path, values_of
from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import as_json, printable
from unionfs.cli.target import split, view_of
from unionfs.errors import ConfigError
from unionfs.oci.entry import Kind
from unionfs.oci.merged import Shown
from unionfs.oci.view import View

__all__ = ["configure", "run"]

TYPES = {"f": Kind.FILE, "d": Kind.DIR, "l": Kind.SYMLINK, "c": Kind.CHAR, "b": Kind.BLOCK, "p": Kind.FIFO}
UNITS = {"": 1, "c": 1, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.epilog = "example:\n  unionfs find debian:12:/usr -name '*.so*' -type f -size +1M\n"
    add = parser.add_argument
    add("-name", metavar="PATTERN", help="the last component matches, as in a shell")
    add("-path", metavar="PATTERN", help="the whole path matches")
    add("-type", choices=sorted(TYPES), help="of this type")
    add("-size", metavar="[+-]N[ckMG]", help="more than (+), less than (-), or exactly N bytes, KiB, MiB, GiB")
    add("-perm", metavar="/MODE", help="one of these bits is set: /6000 finds set-id files")
    add("--layer", type=int, metavar="N", help="shown from this layer; 0 is the bottom, -1 the top")
    add("--platform", metavar="OS/ARCH[/VARIANT]", help="which image of an archive's index")
    add("--json", action="store_true", help="one JSON array, an object for each file")
    add("target", metavar="IMAGE[:/PATH]", help="an image, archive, container or directory, and where to begin")


def run(args: argparse.Namespace) -> Exit:
    name, path = split(args.target)
    view = view_of(name, args.platform)
    found = list(_found(view, view.merged.resolve(path), args))
    if args.json:
        print(as_json([values_of(shown) for shown in found]), end="")
    else:
        for shown in found:
            print(printable(shown_path(shown.entry.path)))
    return Exit.OK


def _found(view: View, top: Shown, args: argparse.Namespace) -> Iterator[Shown]:
    low, high = _size_range(args.size)
    bits = _bits(args.perm)
    layer = args.layer + len(view.layers) if args.layer is not None and args.layer < 0 else args.layer
    for shown in view.merged.walk(top):
        entry = shown.entry
        path = shown_path(entry.path)
        if (
            (args.type is None or entry.kind is TYPES[args.type])
            and (args.name is None or fnmatch.fnmatchcase(path.rpartition("/")[2], args.name))
            and (args.path is None or fnmatch.fnmatchcase(path, args.path))
            and (args.size is None or low <= entry.size <= high)
            and (bits is None or entry.mode & bits)
            and (layer is None or shown.layer == layer)
        ):
            yield shown


def _size_range(text: str | None) -> tuple[int, int]:
    if text is None:
        return 0, 0
    parsed = re.fullmatch(r"([+-]?)(\d+)([ckMG]?)", text)
    if not parsed:
        raise ConfigError(f"-size {text!r}: write +10M, -1k, or 512")
    count = int(parsed[2]) * UNITS[parsed[3]]
    return {"+": (count + 1, 1 << 62), "-": (0, count - 1), "": (count, count)}[parsed[1]]


def _bits(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(text.removeprefix("/"), 8)
    except ValueError:
        raise ConfigError(f"-perm {text!r}: write /6000") from None
