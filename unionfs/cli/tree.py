"""Draw the files of an image as a tree with sizes; --layer draws only what one layer adds."""

import argparse
import os
from collections.abc import Iterator
from typing import Any, Final

from unionfs.cli.entries import values_of
from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import as_json, printable, size
from unionfs.cli.target import only, split, view_of
from unionfs.errors import ConfigError
from unionfs.oci.entry import Kind
from unionfs.oci.merged import Shown
from unionfs.oci.view import View

__all__ = ["configure", "run"]

MAX_NESTED: Final = 200
"""Levels of directories that are printed as nested objects."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    add = parser.add_argument
    add("--layer", type=int, metavar="N", help="of this layer alone; 0 is the bottom, -1 the top")
    add("--layers", action="store_true", help="each layer after the other, with its instruction")
    add("--depth", type=int, metavar="N", help="levels of directories")
    add("--platform", metavar="OS/ARCH[/VARIANT]", help="which image of an archive's index")
    add("--json", action="store_true", help="nested JSON objects, with Children")
    add("target", metavar="IMAGE[:/PATH]", help="an image, archive, container or directory, and where to begin")


def run(args: argparse.Namespace) -> Exit:
    name, path = split(args.target)
    whole = view_of(name, args.platform)
    numbers = list(range(len(whole.layers))) if args.layers else [args.layer]
    drawn = []
    for number in numbers:
        view = only(whole, number)
        top = view.merged.resolve(path) if number is None else view.merged.at(path.strip(b"/"))
        if top is None:
            continue
        if args.json:
            drawn.append({"Layer": number, **_values(top, args.depth)})
            continue
        print(_title(view, number, top))
        for line in _lines(top, "", args.depth):
            print(line)
    if args.json:
        print(as_json(drawn if args.layers else drawn[0] if drawn else {}), end="")
    return Exit.OK


def _title(view: View, number: int | None, top: Shown) -> str:
    total = size(_size(top))
    if number is None:
        return f"{view.name}  {total}"
    layer = view.layers[0]
    made = " ".join((layer.made.created_by or "").split()) if layer.made else ""
    return printable(f"layer {number} {layer.name}  {total}  {made}")


def _size(shown: Shown) -> int:
    """Return the bytes in a tree; computed once for each directory that is drawn."""
    total, stack = 0, [shown]
    while stack:
        node = stack.pop()
        total += node.entry.size if node.source == node.entry.path else 0
        stack += (node.children or {}).values()
    return total


def _lines(top: Shown, indent: str, depth: int | None) -> Iterator[str]:
    """Draw iteratively: a tree may be deeper than Python's stack."""
    stack = [(name, child, indent, depth) for name, child in sorted((top.children or {}).items(), reverse=True)]
    last_of = {id(stack[0][1])} if stack else set()
    while stack:
        name, node, before, left = stack.pop()
        is_last = id(node) in last_of
        yield before + ("└── " if is_last else "├── ") + _label(name, node)
        if node.children and (left is None or left > 1):
            deeper = before + ("    " if is_last else "│   ")
            inner = [
                (n, c, deeper, None if left is None else left - 1)
                for n, c in sorted(node.children.items(), reverse=True)
            ]
            last_of.add(id(inner[0][1]))
            stack += inner


def _label(name: bytes, node: Shown) -> str:
    entry = node.entry
    text = printable(os.fsdecode(name))
    if entry.kind is Kind.DIR:
        return f"{text}/  {size(_size(node))}" + ("  (opaque)" if entry.opaque else "")
    if entry.kind is Kind.SYMLINK:
        return f"{text} -> {printable(os.fsdecode(entry.link))}"
    return f"{text}  {size(entry.size)}" if entry.kind is Kind.FILE else f"{text}  ({entry.kind.value})"


def _values(top: Shown, depth: int | None, level: int = 0) -> dict[str, Any]:
    if level > MAX_NESTED:
        raise ConfigError(f"the tree has more levels than readers of JSON take; try: --depth {MAX_NESTED}")
    result = values_of(top)
    if top.children is not None:
        result["TreeSize"] = _size(top)
        if depth is None or depth > 0:
            inner = None if depth is None else depth - 1
            result["Children"] = [_values(child, inner, level + 1) for _, child in sorted(top.children.items())]
    return result
