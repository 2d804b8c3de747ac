"""Stack directories, or the layers of an image, and mount them as one.

The first --lower is the top of the read-only layers, each further one lies below it. With --upper
and --work the union is writable: changes go to the upper directory, the layers stay as they are.
The command returns when the mount answers requests; a daemon serves it from then on.

Without --lower, IMAGE names an image of the store: read-only, or with --rw and a container's name,
which keeps the changes from mount to mount. Without a directory it is mounted in a place of the
store's own. The path is printed, and nothing else: cd $(unionfs mount debian:12).

An image's files belong to root, so an ordinary user may read them and change nothing. With --as-root
he takes root's place in this mount: root's files are shown as his, and what he makes is kept as root's.
"""

import argparse
import os
from pathlib import Path
from typing import Final

from unionfs.cli import mounts
from unionfs.cli.exitcodes import Exit
from unionfs.cli.start import start
from unionfs.core.options import Reading, read
from unionfs.errors import ConfigError

__all__ = ["configure", "run"]

EXAMPLE: Final = """\
example:
  unionfs mount --lower app --lower base --upper changes --work scratch /mnt
  unionfs mount --lower base -o metacopy=on,index=on --upper changes --work scratch /mnt
  unionfs umount /mnt
  unionfs mount debian:12 /mnt
  unionfs mount debian:12 /mnt --rw work --as-root

Without arguments the command lists what is mounted. `unionfs-overlay --help` shows the form with
lowerdir=, upperdir= and workdir=; every other option of that form may be given here after -o.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = __doc__, EXAMPLE
    add = parser.add_argument
    add("--lower", action="append", default=[], type=Path, metavar="DIR", help="a read-only layer; the top one first")
    add("--data-only", action="append", default=[], type=Path, metavar="DIR", help="a layer of data for metacopy files")
    add("--upper", type=Path, metavar="DIR", help="the writable layer")
    add("--work", type=Path, metavar="DIR", help="an empty directory on the file system of --upper")
    add("--ro", action="store_true", help="no changes, even with --upper")
    add("--engine", choices=["auto", "direct", "pyfuse3"], help="who speaks with the kernel")
    add(
        "--supervise",
        action=argparse.BooleanOptionalAction,
        help="let another daemon go on when the one that serves the mount dies; the default where it can",
    )
    add("-o", dest="options", action="append", default=[], metavar="OPTION,...", help="more options")
    add("-f", "--foreground", action="store_true", help="stay in the foreground")
    add("--rw", nargs="?", const="", metavar="NAME", help="of an image: writable, the changes are kept under NAME")
    add("--as-root", action="store_true", help="of an image: show root's files as mine, and keep mine as root's")
    add("--json", action="store_true", help="without arguments: list as JSON, as `unionfs mounts --json` does")
    add("places", nargs="*", metavar="[IMAGE] DIR", help="an image, unless --lower is given, and a directory")


def run(args: argparse.Namespace) -> Exit:
    reading = Reading(args.lower, args.data_only)
    for text in args.options:
        read(text, reading, strict=True)
    named = {"upper": args.upper, "work": args.work}
    reading.union.update({name: path for name, path in named.items() if path is not None})
    if args.ro:
        read("ro", reading)
    if args.engine:
        read(f"engine={args.engine}", reading)
    if args.supervise is not None:
        read(f"supervise={'on' if args.supervise else 'off'}", reading)
    has_layers = reading.lower or reading.data_only or named["upper"] or named["work"]
    stacked = bool(has_layers or reading.engine.get("remount"))
    if not args.places:
        if reading.is_empty() and not args.foreground:
            return mounts.show([], as_json=args.json, stats=False)
        raise ConfigError("the mountpoint is missing; try: unionfs mount --help")
    if args.json:
        raise ConfigError("--json is for the list of mounts; a mount prints its path alone; try: unionfs mount --json")
    if len(args.places) > 2 - stacked:
        raise ConfigError(f"too many arguments: {' '.join(args.places)}; try: unionfs mount --help")
    if stacked:
        if args.rw is not None or args.as_root:
            raise ConfigError("--rw and --as-root are for images; directories have --upper, --work and -o uidmapping")
        return start(reading, Path(args.places[0]), foreground=args.foreground)

    from unionfs.cli.image_mount import mount_image

    if args.as_root:
        read(f"uidmapping={_swapped(os.geteuid())},gidmapping={_swapped(os.getegid())}", reading)
    mountpoint = Path(args.places[1]) if len(args.places) == 2 else None
    return mount_image(reading, args.places[0], mountpoint, args.rw, foreground=args.foreground)


def _swapped(number: int) -> str:
    """Return the mapping in which 0 and *number* change places.

    >>> _swapped(1000)
    '0:1000:1:1:1:999:1000:0:1:1001:1001:4294966294'
    """
    ranges = [(0, number, 1), (1, 1, number - 1), (number, 0, 1), (number + 1, number + 1, (1 << 32) - 2 - number)]
    return ":".join(
        f"{stored}:{shown}:{length}" for stored, shown, length in ranges if length > 0 and (number or stored)
    )
