"""Which layer a file comes from, as a table of stacks."""

import pytest

from tests.analysis.layers import OPAQUE, WHITEOUT, Literal, layer
from unionfs.analysis.trace import trace
from unionfs.oci.entry import Entry


class Table:
    def __init__(self, tree: Literal) -> None:
        self._entries = {entry.path: entry for entry in layer(tree)}

    def find(self, path: bytes) -> Entry | None:
        return self._entries.get(path)


def told(path: str, *stack: Literal) -> list[str]:
    """Return what each layer says, top first; the stack is written top first, too."""
    layers = [Table(tree) for tree in reversed(stack)]
    return [
        f"{line.layer} {line.verdict.value}" + (f" by {line.shadow}: {line.why}" if line.shadow is not None else "")
        for line in trace(layers, path.encode())
    ]


def test_the_top_one_is_shown_and_hides_the_others() -> None:
    assert told("a", {"a": b"3"}, {}, {"a": b"1"}) == ["2 shown", "0 hidden by 2: replaces it"]


def test_what_is_nowhere_is_told_by_nobody() -> None:
    assert told("a", {}, {"b": b""}) == []


def test_a_whiteout_deletes() -> None:
    assert told("a", {"a": WHITEOUT}, {"a": b""}) == ["1 deletes", "0 hidden by 1: deletes it"]


def test_a_file_above_a_whiteout_is_shown() -> None:
    assert told("a", {"a": b""}, {"a": WHITEOUT}, {"a": b""}) == [
        "2 shown",
        "1 hidden by 2: replaces it",
        "0 hidden by 2: replaces it",
    ]


def test_directories_merge_until_one_is_opaque() -> None:
    assert told("d", {"d": {}}, {"d": {OPAQUE: b""}}, {"d": {}}) == [
        "2 shown",
        "1 merged",
        "0 hidden by 1: has an opaque directory there",
    ]


@pytest.mark.parametrize(
    ("above", "told_by", "why"),
    [
        ({"d": WHITEOUT}, "1 deletes", "deletes a directory above it"),
        ({"d": b"file"}, "1 deletes", "has a file in place of a directory above it"),
        ({"d": {OPAQUE: b""}}, "1 opaque", "has an opaque directory above it"),
    ],
)
def test_what_stands_above_decides(above: Literal, told_by: str, why: str) -> None:
    assert told("d/x", above, {"d": {"x": b""}}) == [told_by, f"0 hidden by 1: {why}"]


def test_a_file_in_an_opaque_directory_hides_by_itself_and_by_it() -> None:
    assert told("d/x", {"d": {OPAQUE: b"", "x": b""}}, {"d": {"x": b""}}) == ["1 shown", "0 hidden by 1: replaces it"]
