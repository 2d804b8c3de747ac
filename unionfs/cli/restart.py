"""Upgrade in place: another process, with the program that is installed now, serves each of the mounts.

Processes with open files go on; their requests wait for about as long as unionfs takes to start. A new process that
does not start leaves the old one where it is. It takes a supervisor: mounts by the direct engine have one from
Linux 6.9 on, unless they were made with supervise=off, or in the foreground without supervise=on.
"""

import argparse
import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from unionfs.cli import mounts
from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import as_json, printable
from unionfs.errors import MountError
from unionfs.fuse import supervisor, takeover

if TYPE_CHECKING:
    from unionfs.fuse.state import Record

__all__ = ["configure", "run"]

PATIENCE_S: Final = 3 * supervisor.PATIENCE_S
"""The new process may take as long to start as the old one to stop; and then there is what it has to take over."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.add_argument("--json", action="store_true", help="print one JSON array, an object for each mount")
    parser.add_argument("mountpoint", nargs="+", type=Path)


def run(args: argparse.Namespace) -> Exit:
    """Restart each, in the order given; the first that cannot be ends it."""
    done = []
    for mountpoint in args.mountpoint:
        found = mounts.find(mountpoint)
        if not found:
            raise MountError(f"{mountpoint}: no unionfs is mounted there; try: unionfs mounts")
        answer = {"mountpoint": found[-1].mountpoint, **restart(found[-1])}
        done.append(answer)
        if not args.json:
            print(f"{printable(answer['mountpoint'])}: process {answer['pid']} serves it now")
    if args.json:
        print(as_json(done), end="")
    return Exit.OK


def restart(mounted: mounts.Mounted) -> dict[str, Any]:
    """Have another process take a mount over; return its ``pid`` and how many ``restarts`` that makes.

    Raises:
        MountError: it cannot be, and is served as before, or is lost; says which.
    """
    record, place = mounted.record, mounted.mountpoint
    if record is None or mounted.records is None:
        raise MountError(f"{place}: it cannot be restarted; because its daemon is gone, or left no record")
    if record.supervisor is None:
        raise MountError(f"{place}: it cannot be restarted; because {_why_not(record)}")
    try:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(PATIENCE_S)
            asking.connect(takeover.control_socket(mounted.records, record.supervisor))
            text = asking.makefile("rb").read()
    except OSError as exc:
        raise MountError(f"{place}: its supervisor does not answer; because of {exc.strerror or exc}") from exc
    answer: dict[str, Any] = json.loads(text) if text else {"error": "the supervisor ended meanwhile"}
    if "error" in answer:
        raise MountError(f"{place}: it was not restarted; because {answer['error']}")
    return answer


def _why_not(record: "Record") -> str:
    unsupervised = "nobody supervises it; try: unmount, then mount in the background, without supervise=off"
    return supervisor.unfit(record.engine) or unsupervised
