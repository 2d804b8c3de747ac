"""Copy files and directories out of an image; the destination is a path, or ``-`` for a tar on stdout.

Owners and special attributes are kept where one is root, else left out, as cp(1) does; devices are
copied by root alone. Nothing outside the destination is written, whatever the image holds.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from msgspec.structs import replace

from unionfs.cli.entries import shown_path
from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import as_json, printable
from unionfs.cli.store import writing
from unionfs.cli.target import split, view_of
from unionfs.errors import ConfigError
from unionfs.oci.entry import ROOT, Entry, Kind
from unionfs.oci.merged import Shown
from unionfs.oci.pack import pack
from unionfs.oci.view import View

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    add = parser.add_argument
    add("-L", "--follow-link", action="store_true", help="copy what a symlink leads to")
    add("--platform", metavar="OS/ARCH[/VARIANT]", help="which image of an archive's index")
    add("--json", action="store_true", help="one JSON object: Destination, Files, Size, LeftOut")
    add("source", metavar="IMAGE:/PATH", help="an image, archive, container or directory, and a path in it")
    add("destination", help="a file or directory, or -")


def run(args: argparse.Namespace) -> Exit:
    if ":/" in args.destination:
        raise ConfigError(
            f"{args.destination}: an image never changes; try: unionfs mount --rw NAME IMAGE, and unionfs commit"
        )
    name, path = split(args.source)
    view = view_of(name, args.platform)
    top = view.merged.resolve(path, follow=args.follow_link or path.endswith(b"/"))
    if args.destination == "-" and args.json:
        raise ConfigError("--json is printed where the archive would go; try: a directory in place of -")
    if args.destination == "-":
        with writing(None) as target:
            pack([_below(shown, top) for shown in view.merged.walk(top)], _opener(view, top), target)
        return Exit.OK
    place = Path(args.destination)
    if place.is_dir() and top.entry.name:
        place /= os.fsdecode(top.entry.name)
    if place.is_symlink() or (place.exists() and not (top.entry.is_dir and place.is_dir())):
        if place.is_dir() or top.entry.is_dir:
            raise ConfigError(f"{place} is there already, and is something else")
        place.unlink()
    copied = _copy(view, top, place)
    if args.json:
        print(as_json(copied), end="")
    return Exit.OK


def _below(shown: Shown, top: Shown) -> Entry:
    """Return the entry as it is called in a tar of *top*."""
    name, inner = top.entry.name, shown.entry.path[len(top.entry.path) :].lstrip(b"/")
    return replace(shown.entry, path=b"/".join(part for part in (name, inner) if part) or ROOT, opaque=False)


def _opener(view: View, top: Shown) -> Callable[[Entry], BinaryIO]:
    """Return how the content of an entry made by `_below` is opened."""
    above = top.entry.path[: len(top.entry.path) - len(top.entry.name)]

    def content(entry: Entry) -> BinaryIO:
        shown = view.merged.at(above + entry.path)
        assert shown is not None  # noqa: S101 - it was just listed
        return view.open(shown)

    return content


def _copy(view: View, top: Shown, place: Path) -> dict[str, Any]:
    """Copy a tree; return what ``--json`` prints of it."""
    later: list[tuple[Path, Entry]] = []
    told: dict[str, Any] = {"Destination": place, "Files": 0, "Size": 0, "LeftOut": []}
    prefix = len(top.entry.path)
    for shown in view.merged.walk(top):
        target = place / os.fsdecode(shown.entry.path[prefix:].lstrip(b"/")) if shown is not top else place
        if shown.entry.is_dir:
            if target.is_symlink() and target != place:
                target.unlink()
            target.mkdir(exist_ok=True)
            later.append((target, shown.entry))
        elif _copy_one(view, shown, target):
            told["Files"] += 1
            told["Size"] += shown.entry.size
        else:
            told["LeftOut"].append(shown_path(shown.entry.path))
    for target, entry in reversed(later):
        _attributes(target, entry)
    return told


def _copy_one(view: View, shown: Shown, target: Path) -> bool:
    """Copy what is no directory; False if it was left out."""
    entry = shown.entry
    with suppress(FileNotFoundError):
        target.unlink()
    if entry.kind is Kind.FILE:
        with view.open(shown) as source, target.open("xb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
    elif entry.kind is Kind.SYMLINK:
        target.symlink_to(os.fsdecode(entry.link))
    elif entry.kind is Kind.FIFO or (entry.kind in {Kind.CHAR, Kind.BLOCK} and os.geteuid() == 0):
        os.mknod(target, entry.st_mode, entry.rdev)
    else:
        print(f"unionfs: warning: {printable(str(target))}: a {entry.kind.value} is left out", file=sys.stderr)
        return False
    _attributes(target, entry)
    return True


def _attributes(target: Path, entry: Entry) -> None:
    if os.geteuid() == 0:
        os.chown(target, entry.uid, entry.gid, follow_symlinks=False)
        for name, value in entry.xattrs:
            with suppress(OSError):
                os.setxattr(target, name, value, follow_symlinks=False)
    if entry.kind is not Kind.SYMLINK:
        os.chmod(target, entry.mode if os.geteuid() == 0 else entry.mode & 0o777)
    os.utime(target, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)
