"""Write a layer anew in another dialect of whiteouts and marks.

trusted   the kernel's: devices 0:0 and trusted.overlay.*; needs root
user      what an ordinary user can write: user.overlay.*, owners in attributes
xattr     the kernel's, with whiteouts that are attributes
aufs      files called .wh.NAME and .wh..wh..opq

With --lower, renamed directories and files whose attributes alone were copied up are spelled out, so
that the layer needs no redirect_dir and no metacopy.
"""

import argparse
import sys
from pathlib import Path

from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import as_json, printable
from unionfs.oci.convert import DIALECTS, convert

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    add = parser.add_argument
    add("--to", choices=sorted(DIALECTS), default="trusted", help="trusted without it")
    add("--lower", action="append", default=[], type=Path, metavar="DIR", help="a layer below; the top one first")
    add("--json", action="store_true", help="one JSON object: Target, Dialect, Entries, Notes")
    add("source", type=Path, help="a layer")
    add("target", type=Path, help="a directory that does not exist")


def run(args: argparse.Namespace) -> Exit:
    made = convert(args.source, args.target, args.to, list(reversed(args.lower)))
    for note in made.notes:
        print(f"unionfs: warning: {printable(note)}", file=sys.stderr)
    if args.json:
        told = {"Target": args.target, "Dialect": args.to, "Entries": len(made.entries), "Notes": made.notes}
        print(as_json(told), end="")
    return Exit.OK
