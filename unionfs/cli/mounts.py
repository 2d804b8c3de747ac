"""List what is mounted: where, by which engine, over which layers.

A mount whose daemon died shows the state "dead": every access to it fails until it is unmounted. One whose
daemon is there and says nothing shows "not answering": every access to it waits; unionfs umount --lazy ends that.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import as_json as render_json
from unionfs.cli.render import as_table, counts, printable
from unionfs.fuse import session, state
from unionfs.linux import mount as kernel
from unionfs.linux.answers import answers

__all__ = ["Mounted", "configure", "find", "run", "show"]

PATIENCE_S: Final = 2.0
"""How long a daemon may take to answer, or to write its counts."""


class Mounted(NamedTuple):
    """One mount in the tree, and what its daemon recorded about it."""

    mountpoint: str
    device: str
    """``MAJOR:MINOR`` of its st_dev."""
    source: str
    type: str
    record: state.Record | None
    records: Path | None
    """The directory the record was found in."""

    def condition(self, answer: int | None) -> str:
        """Return what it is, given what statvfs(2) there answered (see `answers`).

        ``live``, ``dead`` (its daemon is gone), ``not answering``, or ``unknown`` (it lives, but left us no record).
        """
        if answer is None:
            return "not answering"
        if answer in session.GONE:
            return "dead"
        return "unknown" if self.record is None else "live"

    def values(self, condition: str) -> dict[str, Any]:
        """Return what ``--json`` prints; None for what only a record could tell."""
        told = dict.fromkeys(state.Record._fields) if self.record is None else self.record._asdict()
        for name in ("device", "started", "supervisor_started"):
            del told[name]
        return {**told, "mountpoint": self.mountpoint, "source": self.source, "type": self.type, "state": condition}


def find(mountpoint: Path | None = None) -> list[Mounted]:
    """Return the mounts of unionfs in the tree, or those on one place; the last one there is the visible one."""
    place = mountpoint and kernel.resolved(mountpoint)
    recorded = list(state.read_all())
    found = []
    for mount in kernel.mounts():
        if not mount.type.startswith("fuse"):  # it may have the number of a mount that is gone
            continue
        directory, record = _recorded(mount, recorded)
        if record is None and mount.type != "fuse.unionfs":
            continue
        if place is None or mount.mountpoint == place:
            found.append(
                Mounted(
                    mountpoint=mount.mountpoint,
                    device=mount.device,
                    source=mount.source,
                    type=mount.type,
                    record=record,
                    records=directory,
                )
            )
    return found


def _recorded(
    mount: kernel.Mount, recorded: list[tuple[Path, state.Record]]
) -> tuple[Path | None, state.Record | None]:
    """Return the record of *mount*: a daemon whose mount is gone may live on, and its device number be another's.

    The one for this place comes first: a mount that was moved, or bound elsewhere, has one for another.
    """
    same = [each for each in recorded if each[1].device == mount.device]
    return max(same, key=lambda each: (each[1].mountpoint == mount.mountpoint, each[1].started), default=(None, None))


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.add_argument("--json", action="store_true", help="one JSON array, for scripts")
    parser.add_argument("--stats", action="store_true", help="ask the daemons what they counted")
    parser.add_argument("mountpoint", nargs="*", type=Path, help="only these")


def run(args: argparse.Namespace) -> Exit:
    return show(args.mountpoint, as_json=args.json, stats=args.stats)


def show(places: Sequence[Path], *, as_json: bool, stats: bool) -> Exit:
    """Print the mounts, or those on *places*; NOT_FOUND if one of these is none."""
    found = [mounted for place in places for mounted in find(place)] if places else find()
    missing = [place for place in places if not find(place)]
    asked = {mounted.mountpoint: statistics(mounted) for mounted in found} if stats else {}
    silent = [mounted.mountpoint for mounted in found if not asked.get(mounted.mountpoint)]
    answer = answers(silent, PATIENCE_S)  # not where the daemon has told its counts, which this would change
    conditions = [mounted.condition(answer.get(mounted.mountpoint, 0)) for mounted in found]
    if as_json:
        values = [
            {**mounted.values(condition), **({"stats": asked[mounted.mountpoint]} if stats else {})}
            for mounted, condition in zip(found, conditions, strict=True)
        ]
        print(render_json(values), end="")
    else:
        rows = [_row(mounted, condition) for mounted, condition in zip(found, conditions, strict=True)]
        print(as_table(["MOUNTPOINT", "STATE", "MODE", "ENGINE", "PID", "RESTARTS", "LAYERS"], rows), end="")
        for name, numbers in asked.items():
            print(f"\n{printable(name)}")
            for group, counted in (numbers or {}).items():
                print(f"  {group}: {counts(counted)}")
            if numbers is None:
                print("  the daemon does not answer")
    for place in missing:
        print(f"unionfs: error: {place}: no unionfs is mounted there; try: unionfs mounts", file=sys.stderr)
    return Exit.NOT_FOUND if missing else Exit.OK


def _row(mounted: Mounted, condition: str) -> list[object]:
    record = mounted.record
    if record is None:
        return [mounted.mountpoint, condition, "-", "-", "-", "-", "-"]
    layers = ":".join([*([record.upper] if record.upper else []), *record.lower])
    mode, restarts = "ro" if record.read_only else "rw", "-" if record.supervisor is None else record.restarts
    return [mounted.mountpoint, condition, mode, record.engine, record.pid, restarts, layers]


def statistics(mounted: Mounted) -> dict[str, dict[str, int]] | None:
    """Return what the daemon has counted so far, or None if it does not answer."""
    record, directory = mounted.record, mounted.records
    if record is None or directory is None:
        return None
    file = state.statistics_file(directory, record.pid)
    before = _changed(file)
    with suppress(ProcessLookupError):  # another one is just taking over
        os.kill(record.pid, signal.SIGUSR1)
    deadline = time.monotonic() + PATIENCE_S
    while _changed(file) == before:
        if time.monotonic() > deadline:
            return None
        time.sleep(0.005)
    numbers: dict[str, dict[str, int]] = json.loads(file.read_text(encoding="utf-8"))
    return numbers


def _changed(file: Path) -> tuple[int, int] | None:
    """Return what changes when *file* is replaced."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns
