"""One page about an image: what its layers are, where the bytes are, what is wasted, and every file.

The page is a template with the facts beside it as JSON: it needs no network, no other file, and nothing
but a browser. What can be drawn beforehand (the treemap) is drawn here; the script only searches and
unfolds.
"""

import html
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from unionfs.analysis.treemap import Box, squarify
from unionfs.analysis.usage import Usage, duplicates, usage
from unionfs.oci.entry import ROOT, Entry, Kind
from unionfs.oci.merged import Merged, Shown

__all__ = ["LayerFacts", "render"]

WIDTH, HEIGHT = 1200.0, 640.0
MIN_SIDE: Final = 3.0
"""A rectangle thinner than this is not drawn."""

TITLE: Final = 14.0
ROOM: Final = 3 * TITLE
"""The height from which on a directory has its name above what is in it."""
DEEPEST: Final = 12
TOP: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFacts:
    """A layer and what people want to know of it."""

    name: str
    entries: Sequence[Entry]
    created: str
    created_by: str
    packed_size: int | None


def render(title: str, facts: dict[str, str], layers: Sequence[LayerFacts]) -> str:
    """Return the page. *facts* are shown under the title as they are."""
    merged = Merged(layer.entries for layer in layers)
    account = usage([layer.entries for layer in layers])
    data = {
        "title": title,
        "facts": facts,
        "layers": [_layer(layer, account, number) for number, layer in enumerate(layers)],
        "usage": _usage(account),
        "largest": _largest(merged),
        "duplicates": _duplicates(layers),
        "files": [_files(layer.entries) for layer in layers],
    }
    # "<" is escaped so that no file name can end the script it stands in.
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    page = resources.files("unionfs.analysis").joinpath("report.html").read_text(encoding="utf-8")
    parts = {"TITLE": html.escape(title), "TREEMAP": _treemap(merged), "DATA": text}
    return re.sub("@(TITLE|TREEMAP|DATA)@", lambda mark: parts[mark[1]], page)  # in one pass: names hold marks, too


def _layer(layer: LayerFacts, account: Usage, number: int) -> dict[str, Any]:
    row = account.layers[number]
    return {
        "id": layer.name,
        "created": layer.created,
        "createdBy": layer.created_by,
        "packed": layer.packed_size,
        "files": row.files,
        "size": row.size,
        "wasted": row.wasted,
        "touched": row.touched,
    }


def _usage(account: Usage) -> dict[str, Any]:
    return {
        "total": account.total,
        "needed": account.needed,
        "wasted": account.wasted,
        "touched": account.touched,
        "efficiency": account.efficiency,
        "offenders": [[_text(each.path), each.wasted, each.versions, each.deleted] for each in account.offenders[:TOP]],
    }


def _largest(merged: Merged) -> list[list[Any]]:
    files = [shown for shown in merged.walk() if shown.entry.kind is Kind.FILE]
    files.sort(key=lambda shown: (-shown.entry.size, shown.entry.path))
    return [[_text(shown.entry.path), shown.entry.size, shown.layer] for shown in files[:TOP]]


def _duplicates(layers: Sequence[LayerFacts]) -> list[list[Any]]:
    numbered = [(str(number), layer.entries) for number, layer in enumerate(layers)]
    return [
        [each.wasted, [[int(layer), _text(path)] for layer, path in each.places]] for each in duplicates(numbered)[:TOP]
    ]


def _files(entries: Sequence[Entry]) -> list[list[Any]]:
    """Return a layer's files: path, type, size, mode, owner, and where a link leads."""
    return [
        [_text(e.path), e.kind.value, e.size, f"{e.mode:04o}", f"{e.uid}:{e.gid}", _text(e.link), int(e.opaque)]
        for e in entries
        if e.path
    ]


def _text(raw: bytes) -> str:
    """Return a name for people: one that turns the text around, or breaks the line, shows how it does so."""
    text = raw.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _treemap(merged: Merged) -> str:
    sizes = _tree_sizes(merged)
    if not sizes[ROOT]:
        return '<p class="dim">no file has any content</p>'
    shapes = "".join(_shapes(merged.root, sizes, Box(0.0, 0.0, WIDTH, HEIGHT)))
    return f'<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" aria-label="where the bytes are">{shapes}</svg>'


def _tree_sizes(merged: Merged) -> dict[bytes, int]:
    """Return the bytes below each path; a further name of a file counts nothing."""
    sizes: dict[bytes, int] = {}
    for shown in reversed(list(merged.walk())):
        path = shown.entry.path
        own = shown.entry.size if shown.source == path else 0
        sizes[path] = sizes.get(path, 0) + own
        if path:
            above = path.rpartition(b"/")[0]
            sizes[above] = sizes.get(above, 0) + sizes[path]
    return sizes


def _shapes(top: Shown, sizes: dict[bytes, int], whole: Box) -> Iterator[str]:
    stack = [(top, whole, 0)]
    while stack:
        node, box, depth = stack.pop()
        if depth:
            yield _shape(node, sizes[node.entry.path], box, depth)
        inner = box.inset(1.0, TITLE if box.height >= ROOM else 1.0) if depth else box
        if node.children and depth < DEEPEST and min(inner.width, inner.height) >= MIN_SIDE:
            children = [child for child in node.children.values() if sizes[child.entry.path]]
            children.sort(key=lambda child: (-sizes[child.entry.path], child.entry.path))
            boxes = squarify([sizes[child.entry.path] for child in children], inner)
            stack += [
                (child, cut, depth + 1)
                for child, cut in zip(children, boxes, strict=True)
                if min(cut.width, cut.height) >= MIN_SIDE
            ]


def _shape(node: Shown, size: int, box: Box, depth: int) -> str:
    path, name = html.escape("/" + _text(node.entry.path)), html.escape(_text(node.entry.name))
    kind = "dir" if node.entry.is_dir else "file"
    rect = (
        f'<rect class="{kind} d{depth} l{node.layer % 8}" x="{box.x:.1f}" y="{box.y:.1f}" '
        f'width="{box.width:.1f}" height="{box.height:.1f}"><title>{path} — {size:,} bytes</title></rect>'
    )
    fits = int((box.width - 6) / 6.2)
    if box.height < (ROOM if node.entry.is_dir else TITLE) or fits < 3:
        return rect
    shown = name if len(name) <= fits else name[: fits - 1] + "…"
    return rect + f'<text x="{box.x + 3:.1f}" y="{box.y + 11:.1f}">{shown}</text>'
