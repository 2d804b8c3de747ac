"""Upper files that somebody has copied with all their attributes: two of them claim to come from one lower file.

Under the kernel's overlayfs the second one is stale. Here each is what it is, and no two share a number while both
are known: to tar and diff that would make them one file.
"""

import os
import shutil
from pathlib import Path

import pytest

from tests.core.conftest import Stacks
from unionfs.linux.remove import empty

pytestmark = pytest.mark.root


def copied(source: Path, target: Path, data: bytes | None = None) -> None:
    """Copy as cp -a does, marks included, with other data."""
    if source.is_dir():
        target.mkdir()
    else:
        target.write_bytes(data if data is not None else source.read_bytes())
    for name in os.listxattr(source):
        os.setxattr(target, name, os.getxattr(source, name))


@pytest.mark.parametrize("index", [False, True])
def test_two_copies_of_one_lower_file_are_two_files(stack: Stacks, index: bool) -> None:
    s = stack({"f": "low"}, index=index)
    s.setattr("f", mode=0o600)
    copied(s.upper / "f", s.upper / "g", b"other")
    s.forget_all()
    s.remount()
    assert s.node("f").ino != s.node("g").ino
    assert (s.read("f"), s.read("g")) == (b"low", b"other")
    s.write("g", b"CHANGED")
    assert (s.read("f"), s.read("g")) == (b"low", b"CHANGED")


def test_hard_links_of_two_copies_are_not_mixed_up(stack: Stacks) -> None:
    """A name of the one was taken for a name of the other, which then showed its content."""
    s = stack({"f": "low"})
    s.setattr("f", mode=0o600)
    s.link("f", "f2")
    copied(s.upper / "f", s.upper / "g", b"other")
    os.link(s.upper / "g", s.upper / "g2")
    s.forget_all()
    s.remount()
    for _ in range(2):
        numbers = {name: s.node(name).ino for name in ("f", "g", "f2", "g2")}
        assert numbers["f"] == numbers["f2"] != numbers["g"] == numbers["g2"]
        assert [s.read(name) for name in numbers] == [b"low", b"other", b"low", b"other"]
        assert s.id("g") == s.id("g2")
    s.write("g2", b"CHANGED")
    assert [s.read(name) for name in ("f", "g", "f2", "g2")] == [b"low", b"CHANGED", b"low", b"CHANGED"]


def test_two_directories_with_one_redirect_are_two_directories(stack: Stacks) -> None:
    s = stack({"d": {"a": "low"}})
    s.rename("d", "e")
    copied(s.upper / "e", s.upper / "e2")
    s.forget_all()
    s.remount()
    assert s.node("e").ino != s.node("e2").ino
    s.create("e2/new", b"x")
    assert (s.names("e"), s.names("e2")) == (["a"], ["a", "new"])


def test_a_copy_of_the_whole_upper_layer_is_as_good_as_the_original(stack: Stacks) -> None:
    s = stack({"f": "low", "d": {"a": "low"}})
    s.setattr("f", mode=0o600)
    s.setattr("d/a", mode=0o600)
    numbers = [s.node(name).ino for name in ("f", "d", "d/a")]
    s.forget_all()
    shutil.copytree(s.upper, s.upper.with_name("kept"), symlinks=True)
    fd = os.open(s.upper, os.O_RDONLY)
    empty(fd)
    os.close(fd)
    shutil.copytree(s.upper.with_name("kept"), s.upper, symlinks=True, dirs_exist_ok=True)
    s.remount()
    assert [s.node(name).ino for name in ("f", "d", "d/a")] == numbers


def test_a_file_is_never_the_copy_of_a_directory(stack: Stacks) -> None:
    s = stack({"d": {"a": "low"}, "f": "x"})
    s.setattr("f", mode=0o600)
    s.setattr("d", mode=0o700)
    os.setxattr(s.upper / "f", "trusted.overlay.origin", os.getxattr(s.upper / "d", "trusted.overlay.origin"))
    s.forget_all()
    s.remount()
    assert s.node("f").ino != s.node("d").ino
    assert (s.read("f"), s.names("d")) == (b"x", ["a"])
