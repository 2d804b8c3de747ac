"""Compare two images, layers, containers or directories; one container alone is compared with its image.

Marks: A added, C changed, D deleted. Each change says in which respects: type, content, mode, owner,
mtime, xattrs. IMAGE#N is one layer alone, 0 the bottom. Exit status as diff(1): 0 equal, 1 different,
2 trouble.
"""

import argparse
import difflib
import sys
from collections.abc import Iterator
from typing import Any

from unionfs.analysis.difference import RESPECTS, Change, difference
from unionfs.cli.entries import shown_path, values
from unionfs.cli.exitcodes import Exit, describe
from unionfs.cli.render import as_json, as_table, printable
from unionfs.cli.target import only, split, view_of
from unionfs.errors import ConfigError, UnionFSError
from unionfs.oci.digest import CHUNK
from unionfs.oci.entry import Entry, Kind
from unionfs.oci.view import View

__all__ = ["configure", "run"]

TROUBLE = 2
MAX_TEXT = 4 << 20
"""Bytes of the largest file whose text is compared."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    add = parser.add_argument
    add("--content", action="store_true", help="a unified diff of text files")
    add("--ignore", action="append", default=[], metavar="RESPECT,...", help=f"of {', '.join(RESPECTS)}")
    add("--platform", metavar="OS/ARCH[/VARIANT]", help="which image of an archive's index")
    add("--json", action="store_true", help="one JSON object: added, changed, deleted")
    add("old", metavar="A", help="an image, archive, container or directory; IMAGE:/PATH begins there")
    add("new", metavar="B", nargs="?")


def run(args: argparse.Namespace) -> Exit | int:
    try:
        return _compare(args)
    except (UnionFSError, OSError) as error:
        print(describe(error)[1], end="", file=sys.stderr)
        return TROUBLE


def _compare(args: argparse.Namespace) -> Exit:
    ignored = {respect for text in args.ignore for respect in text.split(",") if respect}
    if unknown := ignored - set(RESPECTS):
        raise ConfigError(f"--ignore {', '.join(sorted(unknown))}: known are {', '.join(RESPECTS)}")
    old, new = _sides(args)
    changes = list(difference(old.entries, new.entries, lambda a, b: _same(old, a, new, b), ignored))
    if args.json:
        print(as_json(_values(changes)), end="")
    else:
        _print(changes)
    if args.content and not args.json:
        for change in changes:
            sys.stdout.writelines(_text_diff(change, old, new))
    return Exit.FAILED if changes else Exit.OK


class _Side:
    """One of the two trees: entries below where it begins, and their content."""

    def __init__(self, view: View, path: bytes) -> None:
        self.view = view
        top = view.merged.resolve(path)
        self._skip = len(top.entry.path) + 1 if top.entry.path else 0
        self._top = top.entry.path
        self.entries = {
            shown.entry.path[self._skip :]: shown.entry for shown in view.merged.walk(top) if shown is not top
        }

    def read(self, entry: Entry) -> Iterator[bytes]:
        shown = self.view.merged.at(entry.path)
        assert shown is not None  # noqa: S101 - it was listed
        with self.view.open(shown) as file:
            while chunk := file.read(CHUNK):
                yield chunk


def _sides(args: argparse.Namespace) -> tuple[_Side, _Side]:
    old_name, old_path = split(args.old)
    old = _view(old_name, args.platform)
    if args.new is not None:
        new_name, new_path = split(args.new)
        return _Side(old, old_path), _Side(_view(new_name, args.platform), new_path)
    if len(old.layers) < 2 or old.layers[-1].packed_size is not None:
        raise ConfigError(f"{args.old} is no container; name what to compare it with")
    return _Side(View(old.name, old.layers[:-1]), old_path), _Side(old, old_path)


def _view(text: str, platform: str | None) -> View:
    name, mark, number = text.rpartition("#")
    if mark and number.lstrip("-").isdigit():
        return only(view_of(name, platform), int(number))
    return view_of(text, platform)


def _same(old: _Side, a: Entry, new: _Side, b: Entry) -> bool:
    return b"".join(old.read(a)) == b"".join(new.read(b)) if a.size <= CHUNK else _same_stream(old.read(a), new.read(b))


def _same_stream(old: Iterator[bytes], new: Iterator[bytes]) -> bool:
    return all(next(new, b"") == chunk for chunk in old)


def _print(changes: list[Change]) -> None:
    rows = []
    for change in changes:
        columns = [respect if respect in change.respects else "-" for respect in RESPECTS] if change.kind == "C" else []
        rows.append([change.kind, *(columns or [""] * len(RESPECTS)), shown_path(change.path)])
    print(as_table(["", *RESPECTS, "path"], rows), end="")


def _values(changes: list[Change]) -> dict[str, Any]:
    named = {"A": "added", "C": "changed", "D": "deleted"}
    result: dict[str, Any] = {name: [] for name in named.values()}
    for change in changes:
        result[named[change.kind]].append(
            {
                "Path": shown_path(change.path),
                "Respects": list(change.respects),
                "Old": values(change.old) if change.old else None,
                "New": values(change.new) if change.new else None,
            }
        )
    return result


def _text_diff(change: Change, old: _Side, new: _Side) -> Iterator[str]:
    if change.kind == "C" and "content" not in change.respects and "type" not in change.respects:
        return
    texts = [_text(side, entry) for side, entry in ((old, change.old), (new, change.new))]
    if texts[0] is None or texts[1] is None:
        if Kind.FILE in {entry.kind for entry in (change.old, change.new) if entry}:
            yield f"Binary files {printable(shown_path(change.path))} differ\n"
        return
    path = printable(shown_path(change.path))
    before, after = f"a{path}" if change.old else "/dev/null", f"b{path}" if change.new else "/dev/null"
    for line in difflib.unified_diff(texts[0], texts[1], before, after):
        yield line if line.endswith("\n") else line + "\n\\ No newline at end of file\n"


def _text(side: _Side, entry: Entry | None) -> list[str] | None:
    """Return the lines of a text file; of no file, none; None where it is no text."""
    if entry is None or entry.kind is Kind.DIR:
        return []
    if entry.kind is not Kind.FILE or entry.size > MAX_TEXT:
        return None
    raw = b"".join(side.read(entry))
    try:
        return None if b"\0" in raw else raw.decode().splitlines(keepends=True)
    except UnicodeDecodeError:
        return None
