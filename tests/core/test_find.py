"""Looking a name up in the only directory that has it takes a shorter way, which must lead to the same."""

import errno
import os
from pathlib import Path

import pytest

from tests.core.conftest import Stacks
from tests.core.stacks import WHITEOUT, Stack, Tree, fifo, marked, symlink
from unionfs.core import find
from unionfs.core.config import Squash
from unionfs.core.layer import MISSES_TO_LEARN
from unionfs.core.nodes import File
from unionfs.names import ROOT_ID

LONG = "n" * 255


def linked(path: Path) -> None:
    path.write_text("linked")
    path.with_name("link").hardlink_to(path)


EVERYTHING: Tree = {
    "file": "x",
    LONG: "long",
    "linked": linked,
    "symlink": symlink("file"),
    "fifo": fifo,
    "directory": {"below": "x"},
    "deleted": WHITEOUT,
    ".wh.old": "",
    "empty": marked("", whiteout=b""),
    "apart": marked("", metacopy=b"", redirect=b"/other/data"),
}
NAMES = [*EVERYTHING, "link", "absent", "old", LONG + "n", "n" * 1000]


def looked_up(s: Stack, parent: int, names: list[bytes]) -> list[object]:
    """What each name is: its number and attributes, None if it is nothing, or the errno."""
    known: list[object] = []
    for each in s.union.lookup_all(parent, names):
        if each is None or isinstance(each, OSError):
            known.append(each and each.errno)
        else:
            node, st = each
            known.append((type(node), node.ino, st, isinstance(node, File) and node.data is not None))
            s.union.forget(node.nodeid, 1)
    return known


@pytest.mark.root
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("options", [{}, {"index": True}, {"metacopy": True}, {"squash": Squash(7, 8)}], ids=str)
@pytest.mark.parametrize(
    "layers",
    [
        [None, {"d": EVERYTHING}],
        [{"d": EVERYTHING}, {}],
        [{}, {"d": EVERYTHING}, {"other": {"data": "data"}}],
        [{"d": marked(EVERYTHING, impure=b"y")}, {}],
        [None, {"d": marked(EVERYTHING, opaque=b"x")}, {"d": {"old": "x"}}],
        [None, {"d": marked(EVERYTHING, opaque=b"x")}, {}],
        [None, {"d": marked(EVERYTHING, opaque=b"x")}],
    ],
    ids=["lower", "upper", "middle", "impure", "merged whiteouts", "whiteouts", "whiteouts in the lowest"],
)
def test_the_short_way_leads_to_the_same(
    stack: Stacks, monkeypatch: pytest.MonkeyPatch, layers: list[Tree], options: dict[str, object], learned: bool
) -> None:
    upper, *lowers = layers
    s = stack(*lowers, upper=upper, **options)
    d = s.id("d")
    if learned:
        for number in range(MISSES_TO_LEARN):
            with pytest.raises(FileNotFoundError):
                s.union.lookup(d, b"miss%d" % number)
    names = [os.fsencode(name) for name in NAMES]
    short = looked_up(s, d, names)
    single = [looked_up(s, d, [name])[0] for name in names]
    monkeypatch.setattr(find, "_only_place", lambda _state, _parent: None)
    assert looked_up(s, d, names) == short == single
    assert None in short
    assert short[-1] == errno.ENAMETOOLONG


def test_what_was_copied_up_and_moved_keeps_its_number(stack: Stacks) -> None:
    s = stack({"f": "x"}, upper={"d": {}})
    before = s.node("f").ino
    s.rename("f", "d/moved")
    s.remount()
    (found,) = s.union.lookup_all(s.id("d"), [b"moved"])
    assert isinstance(found, tuple)
    assert found[0].ino == before
    s.seen(found[0])


def test_what_is_known_is_found_again(stack: Stacks) -> None:
    s = stack({"f": "x"})
    (first,), (second,) = (s.union.lookup_all(ROOT_ID, [b"f"]) for _ in range(2))
    assert isinstance(first, tuple)
    assert isinstance(second, tuple)
    assert first[0] is second[0]
    assert first[0].lookups == 2
    s.union.forget(first[0].nodeid, 2)


def test_directories_that_are_looked_up_together_do_not_exhaust_the_descriptors(stack: Stacks) -> None:
    names = [f"d{number}" for number in range(100)]
    s = stack({name: {"f": "x"} for name in names}, {name: {"g": "x"} for name in names})
    s.union._state.descriptors.limit = 20
    found = s.union.lookup_all(ROOT_ID, [os.fsencode(name) for name in names])
    assert s.union.stats()["descriptors"] < 30
    for each in found:
        assert isinstance(each, tuple)
        s.union.forget(each[0].nodeid, 1)
