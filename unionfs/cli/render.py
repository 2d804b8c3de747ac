"""How commands print: a table for people, JSON for programs; both from the same values."""

import json
import os
import sys
from collections.abc import Mapping, Sequence

__all__ = ["as_json", "as_table", "colour", "counts", "printable", "size"]


def as_json(value: object) -> str:
    """Return *value* as JSON for scripts: stable keys, names that are not UTF-8 escaped."""
    return json.dumps(value, indent=2, default=os.fspath) + "\n"


def as_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return aligned columns under *headers*, the last one as wide as it likes; nothing where there are no rows.

    >>> print(as_table(["NAME", "SIZE"], [["a", 1], ["longer", 20]]), end="")
    NAME    SIZE
    a       1
    longer  20
    """
    if not rows:
        return ""
    lines = [list(headers), *([printable(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(headers))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines
    )


def printable(text: str) -> str:
    r"""Return *text* with everything escaped that would break a line or move a cursor.

    >>> print(printable("a\nb\udcff\x1b"))
    a\nb\xff\x1b
    """
    raw = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in raw)


def colour(text: str, code: int) -> str:
    """Return *text* in a colour of the terminal, or plain where there is none or NO_COLOR is set."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{code}m{text}\x1b[0m"


def size(count: int) -> str:
    """Return a number of bytes for people.

    >>> size(0), size(1536), size(5 << 30)
    ('0 B', '1.5 KiB', '5.0 GiB')
    """
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def counts(values: Mapping[str, int]) -> str:
    """Return counts on one line, those that are 0 left out."""
    return ", ".join(f"{name} {value}" for name, value in values.items() if value)
