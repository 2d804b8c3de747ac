"""Metacopy: a change of attributes copies them alone; the data stay below, and are found under whatever name."""

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.core.conftest import Stacks
from tests.core.test_copyup import BIG, with_mode
from unionfs.linux import xattr


def test_metacopy_leaves_the_data_below_until_they_change(stack: Stacks) -> None:
    s = stack({"f": BIG}, metacopy=True)
    fh = s.open("f")
    st = s.setattr("f", mode=0o600)
    assert (stat.S_IMODE(st.st_mode), st.st_size) == (0o600, len(BIG))
    assert (s.upper / "f").stat().st_blocks * 512 < len(BIG) // 8
    assert s.mark("f", "metacopy") is not None
    assert st.st_blocks == (s.lowers[0] / "f").stat().st_blocks
    assert s.read("f") == s.content(fh) == BIG
    s.remount()
    assert s.read("f") == BIG
    fh = s.open("f")
    s.write("f", b"NEW")
    assert s.content(fh)[:5] == b"NEW34"
    assert s.mark("f", "metacopy") is None
    assert stat.S_IMODE(s.stat("f").st_mode) == 0o600


def test_metacopy_data_follow_a_renamed_file(stack: Stacks) -> None:
    s = stack({"f": BIG, "d": {}}, metacopy=True)
    s.setattr("f", mode=0o600)
    s.rename("f", "d/g")
    s.rename("d/g", "h")
    for _ in range(2):
        assert s.read("h") == BIG
        s.remount()


def test_metacopy_leaves_the_data_below_when_a_file_gets_another_name(stack: Stacks) -> None:
    s = stack({"d": {"f": BIG, "g": BIG}, "e": {}}, metacopy=True)
    s.rename("d/f", "d/f2")
    assert s.mark("d/f2", "redirect") == b"f"
    s.rename("d/f2", "d/f3")
    s.rename("d", "d2")
    s.rename("d2/f3", "e/f4")
    assert s.mark("e/f4", "redirect") == b"/d/f"
    s.link("d2/g", "e/g2")
    assert s.mark("d2/g", "redirect") == b"/d/g"
    assert s.union.stats()["copied_bytes"] == 0
    for _ in range(2):
        assert [s.read(path) for path in ("e/f4", "d2/g", "e/g2")] == [BIG] * 3
        assert s.stat("e/f4").st_blocks == (s.lowers[0] / "d/f").stat().st_blocks
        s.remount()
    s.write("e/g2", b"NEW")
    assert s.read("d2/g") == s.read("e/g2") == b"NEW" + BIG[3:]
    assert s.mark("e/g2", "redirect") is None


@pytest.mark.parametrize("index", [False, True])
def test_a_name_of_a_lower_hard_link_gets_a_redirect_that_all_of_them_can_share(stack: Stacks, index: bool) -> None:
    def make(path: Path) -> None:
        path.mkdir()
        (path / "f").write_bytes(BIG)
        os.link(path / "f", path / "g")

    s = stack({"d": make}, metacopy=True, index=index)
    s.rename("d/f", "d/h")
    assert s.mark("d/h", "redirect") == b"/d/f"
    s.rename("d/h", "h")
    s.remount()
    assert s.read("h") == s.read("d/g") == BIG
    assert (s.node("h") is s.node("d/g")) == index


def test_data_are_copied_where_a_redirect_would_be_too_long(stack: Stacks) -> None:
    name = "n" * 200
    s = stack({name: {name: BIG, "x" * 40: BIG}}, metacopy=True)
    s.rename(f"{name}/{name}", "far")
    s.rename(f"{name}/{'x' * 40}", "near")
    assert [s.mark(path, "metacopy") for path in ("far", "near")] == [None, b""]
    s.remount()
    assert s.read("far") == s.read("near") == BIG


def test_data_are_copied_where_a_redirect_cannot_be_written(stack: Stacks, monkeypatch: pytest.MonkeyPatch) -> None:
    s = stack({"f": BIG, "g": BIG}, metacopy=True)
    real, code = xattr.set, errno.EPERM

    def refuse(target: int | bytes, name: str, value: bytes, flags: int = 0) -> None:
        if name.endswith(".redirect"):
            raise OSError(code, os.strerror(code))
        real(target, name, value, flags)

    monkeypatch.setattr(xattr, "set", refuse)
    s.rename("f", "moved")
    assert s.mark("moved", "metacopy") is None
    assert s.read("moved") == BIG
    code = errno.ENOSPC
    with pytest.raises(OSError, match="No space"):
        s.rename("g", "moved")
    assert s.names() == ["g", "moved"]
    monkeypatch.undo()
    s.remount()
    assert s.read("g") == BIG


def test_metacopy_of_a_truncated_file_copies_only_what_is_left(stack: Stacks) -> None:
    s = stack({"f": BIG}, metacopy=True)
    s.setattr("f", uid=os.getuid())
    s.setattr("f", size=10)
    assert s.read("f") == BIG[:10]
    assert s.union.stats()["copied_bytes"] <= 10
    s.setattr("f", size=0)
    assert s.mark("f", "metacopy") is None


@pytest.mark.root
def test_data_copied_up_later_keep_capability_and_set_id_bits(stack: Stacks) -> None:
    value = bytes.fromhex("0100000200040000000000000000000000000000")

    def make(path: Path) -> None:
        with_mode(0o6755, BIG)(path)
        os.setxattr(path, "security.capability", value)

    s = stack({"f": make}, metacopy=True)
    s.union.setxattr(s.id("f"), b"user.k", b"v")
    s.open("f", os.O_RDWR)
    assert os.getxattr(s.upper / "f", "security.capability") == value
    assert stat.S_IMODE((s.upper / "f").stat().st_mode) == 0o6755
    assert s.read("f") == BIG


@pytest.mark.parametrize(("strict", "change", "synced"), [(False, "mode", 0), (True, "mode", 1), (False, "write", 1)])
def test_attributes_alone_are_written_through_only_where_that_is_asked(
    stack: Stacks, monkeypatch: pytest.MonkeyPatch, strict: bool, change: str, synced: int
) -> None:
    s = stack({"f": "data"}, metacopy=True)
    upper = s.union._state.writable()
    upper.syncs, upper.syncs_directories = True, strict
    files = []
    monkeypatch.setattr(os, "fsync", lambda fd: files.append(fd) if stat.S_ISREG(os.fstat(fd).st_mode) else None)
    if change == "mode":
        s.setattr("f", mode=0o600)
    else:
        s.write("f", b"new")
    assert len(files) == synced
    assert s.read("f") == (b"data" if change == "mode" else b"newa")
