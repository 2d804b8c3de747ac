"""Layers as literals: a dictionary is a directory, bytes are a file, the rest is named."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import Final

from msgspec.structs import replace

from unionfs.oci.entry import Entry, Kind

WHITEOUT: Final = Kind.WHITEOUT
OPAQUE: Final = "(opaque)"
"""A key that makes its directory opaque."""

Literal = Mapping[str, "Literal | bytes | str | Kind | Entry"]


def layer(tree: Literal) -> list[Entry]:
    """Return the entries of a literal layer, sorted, parents first."""
    return list(_entries(b"", tree))


def _entries(path: bytes, tree: Literal) -> Iterator[Entry]:
    yield Entry(path=path, kind=Kind.DIR, mode=0o755, opaque=OPAQUE in tree)
    for name, value in sorted(tree.items()):
        inner = path + b"/" + os.fsencode(name) if path else os.fsencode(name)
        if name == OPAQUE:
            continue
        if isinstance(value, bytes):
            yield Entry(path=inner, kind=Kind.FILE, size=len(value), digest=hashlib.sha256(value).digest())
        elif isinstance(value, str):
            yield Entry(path=inner, kind=Kind.SYMLINK, mode=0o777, link=value.encode())
        elif isinstance(value, Kind):
            yield Entry(path=inner, kind=value, mode=0)
        elif isinstance(value, Entry):
            yield replace(value, path=inner)
        else:
            yield from _entries(inner, value)
