"""Examine the marks of an upper layer, or of any layer: says what is wrong, repairs only when asked.

Found are redirects that lead to nothing, whiteouts that hide nothing, marks in a dialect that the
union does not read, and leftovers. The status is fsck(8)'s: 0 nothing was wrong, 1 all is repaired,
4 something is left.
"""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unionfs.analysis.check import Finding, examine
from unionfs.analysis.repair import repair
from unionfs.cli.entries import shown_path
from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import as_json, printable
from unionfs.linux.remove import remove
from unionfs.oci.entry import Entry
from unionfs.oci.form import Form, RootForm, UserForm, form_here
from unionfs.oci.merged import Merged
from unionfs.oci.scan import found, scan

__all__ = ["configure", "opened_directory", "run"]

REPAIRED, LEFT = 1, 4


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.epilog = "example:\n  unionfs fsck --lower app --lower base --work work upper\n"
    add = parser.add_argument
    add("--lower", action="append", default=[], type=Path, metavar="DIR", help="a layer below; the top one first")
    add("--work", type=Path, metavar="DIR", help="its work directory: what a crash left there is found too")
    add(
        "--marks",
        choices=["trusted", "user"],
        help="the dialect of its union; what this process could write without it",
    )
    add("--repair", action="store_true", help="repair what can be repaired; nobody may have it mounted")
    add("--json", action="store_true", help="one JSON array, an object for each finding")
    add("upper", type=Path, help="the layer to examine")


def run(args: argparse.Namespace) -> Exit | int:
    lower = Merged([_entries(path) for path in reversed(args.lower)]) if args.lower else None
    with opened_directory(args.upper) as fd:
        form = _form(args.marks, fd)
        findings = list(examine(found(fd), form.marks, lower))
        done = [args.repair and repair(fd, finding, form) for finding in findings]
    results = [_values(finding, is_done) for finding, is_done in zip(findings, done, strict=True)]
    if args.work:
        results += _leftovers(args.work, is_repaired=args.repair)
    if args.json:
        print(as_json(results), end="")
    else:
        for result in results:
            print(f"{'repaired: ' if result['Repaired'] else ''}{printable(result['Path'])}: {result['What']}")
    if not results:
        return Exit.OK
    return REPAIRED if all(result["Repaired"] for result in results) else LEFT


def _form(marks: str | None, fd: int) -> Form:
    if marks is None:
        return form_here(fd)
    return RootForm() if marks == "trusted" else UserForm()


def _entries(path: Path) -> list[Entry]:
    with opened_directory(path) as fd:
        return [entry for entry, _ in scan(fd)]


def _leftovers(work: Path, *, is_repaired: bool) -> list[dict[str, Any]]:
    """Return what a union left where it stages, removed if asked; ``incompat`` is its refusal of the next mount."""
    inner = work / "work"
    names = sorted(name for name in os.listdir(inner) if name != "incompat") if inner.is_dir() else []
    if is_repaired and names:
        with opened_directory(inner) as fd:
            for name in names:
                remove(fd, os.fsencode(name))
    what = {"Kind": "leftover", "What": "left over from a crash", "Repair": "remove the file", "Repaired": is_repaired}
    return [{**what, "Path": str(inner / name)} for name in names]


def _values(finding: Finding, is_done: bool) -> dict[str, Any]:
    return {
        "Kind": finding.kind,
        "Path": shown_path(finding.path),
        "What": finding.what,
        "Repair": finding.repair.value,
        "Repaired": is_done,
    }


@contextmanager
def opened_directory(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
