"""Show all that is known of files of an image: type, mode, owner, times, attributes, layer, digest."""

import argparse
import os

from unionfs.cli.entries import shown_path, values_of, when_ns
from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import as_json, printable
from unionfs.cli.target import split, view_of
from unionfs.oci.merged import Shown
from unionfs.oci.view import View

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    add = parser.add_argument
    add("-L", "--dereference", action="store_true", help="follow a symlink at the end of the path")
    add("--platform", metavar="OS/ARCH[/VARIANT]", help="which image of an archive's index")
    add("--json", action="store_true", help="one JSON array, an object for each file")
    add("targets", nargs="+", metavar="IMAGE:/PATH", help="an image, archive, container or directory, and a path in it")


def run(args: argparse.Namespace) -> Exit:
    found = []
    for target in args.targets:
        name, path = split(target)
        view = view_of(name, args.platform)
        found.append((view, view.merged.resolve(path, follow=args.dereference)))
    if args.json:
        print(as_json([values_of(shown) for _, shown in found]), end="")
        return Exit.OK
    for view, shown in found:
        print("\n".join(_lines(view, shown)))
    return Exit.OK


def _lines(view: View, shown: Shown) -> list[str]:
    entry, layer = shown.entry, view.layers[shown.layer]
    lines = [
        f"  File: {printable(shown_path(entry.path))}",
        f"  Type: {entry.kind.value}",
        f"  Mode: {entry.mode:04o}",
        f" Owner: {entry.uid}:{entry.gid}",
        f"  Size: {entry.size}",
        f" MTime: {when_ns(entry.mtime_ns)}",
        f" Layer: {shown.layer} ({layer.name})",
    ]
    if entry.link:
        lines.append(f"Target: {printable(os.fsdecode(entry.link))}")
    if entry.rdev:
        lines.append(f"Device: {os.major(entry.rdev)}:{os.minor(entry.rdev)}")
    if entry.digest:
        lines.append(f"Digest: sha256:{entry.digest.hex()}")
    lines += [f" Xattr: {printable(name)} ({len(value)} bytes)" for name, value in entry.xattrs]
    return lines
