"""Examine the marks of an upper layer, or of any layer: says what is wrong, repairs only when asked.

Found are redirects that lead to nothing, whiteouts that hide nothing, marks in a dialect that the
union does not read, and leftovers, those in the work directory and its index too. The status is
fsck(8)'s: 0 nothing was wrong, 1 all is repaired, 4 something is left.
"""

import argparse
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unionfs.analysis.check import Finding, Repair, examine
from unionfs.analysis.repair import repair
from unionfs.cli.entries import shown_path
from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import as_json, printable
from unionfs.core.ondisk import XattrSet, encode_nlink
from unionfs.linux import at, xattr
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
    add(
        "--work",
        type=Path,
        metavar="DIR",
        help="its work directory: what a crash left there and in its index is found too",
    )
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
        results += _leftovers(args.work, form.marks, is_repaired=args.repair)
    if args.json:
        print(as_json(results), end="")
    else:
        if lower is None:
            print(
                "without --lower, whiteouts that hide nothing and redirects to nothing are not found", file=sys.stderr
            )
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


def _leftovers(work: Path, marks: XattrSet, *, is_repaired: bool) -> list[dict[str, Any]]:
    """Return what a union left where it stages and in its index, removed if asked.

    ``incompat`` in the first is its refusal of the next mount.
    """
    results = []
    for place in (work / "work", work / "index"):
        if not place.is_dir():
            continue
        with opened_directory(place) as fd:
            for name in sorted(map(os.fsencode, os.listdir(fd))):
                what = _staged(name) if place.name == "work" else _unindexed(fd, name, marks)
                if what is None:
                    continue
                if is_repaired:
                    remove(fd, name)
                path = str(place / os.fsdecode(name))
                told = {"Kind": "leftover", "Path": path, "What": what}
                results.append({**told, "Repair": Repair.REMOVE.value, "Repaired": is_repaired})
    return results


def _staged(name: bytes) -> str | None:
    return None if name == b"incompat" else "left over from a crash"


def _unindexed(index: int, name: bytes, marks: XattrSet) -> str | None:
    """Tell why an entry of the index is of no use; None if it may be: a lower name may lead to it yet."""
    if name.startswith(b"#"):
        return "left over from a crash"
    st = os.lstat(name, dir_fd=index)
    nameless = encode_nlink(0, st.st_nlink, of_upper=True)
    if stat.S_ISDIR(st.st_mode) or st.st_nlink > 1 or xattr.get(at.proc_path(index, name), marks.nlink) != nameless:
        return None
    return "an entry of the index to which no name leads"


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
