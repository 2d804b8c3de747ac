"""Layers that are too much of something: too deep, too long, too many, of the wrong type."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.core.conftest import Stacks
from tests.core.stacks import Tree, marked
from unionfs.core.config import Config
from unionfs.core.ondisk import PATH_MAX
from unionfs.core.union import Union
from unionfs.errors import BadMark, BadRedirect, StackError
from unionfs.linux import fileops, remove

DEPTH = 3000
"""More than Python may recurse, and than a path may have components of two bytes."""


def deep(top: Path) -> None:
    """Make directories in each other; no path could name the innermost."""
    top.mkdir()
    fd = os.open(top, os.O_PATH)
    for _ in range(DEPTH):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_PATH, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)


@pytest.mark.parametrize("lower", [{"d": {"x": ""}}, {}], ids=["merged", "upper alone"])
def test_a_directory_goes_that_has_more_below_a_hidden_name_than_python_may_recurse(stack: Stacks, lower: Tree) -> None:
    s = stack(lower, upper={"d": {".wh.x": ""}})
    deep(s.upper / "d/.wh.deep")
    s.rmdir("d")
    assert s.names() == []
    assert not any(path.is_dir() for path in (s.work / "work").iterdir())


def test_a_work_directory_is_emptied_however_deep_it_is(stack: Stacks) -> None:
    s = stack({"f": "x"})
    deep(s.work / "work/deep")
    s.forget_all()
    s.remount()
    assert os.listdir(s.work / "work") == []
    assert s.read("f") == b"x"


def test_redirects_that_add_up_are_refused_before_they_do(stack: Stacks) -> None:
    """Each layer on the way may lengthen the path for those below; nobody may have to walk the sum."""
    long = b"/" + b"/".join([b"p"] * (PATH_MAX // 4))
    nested: Tree | Callable[[Path], None] = {}
    for _ in range(8):
        nested = {"p": marked(nested, redirect=long)}  # type: ignore[arg-type]  # a marked directory may hold one
    s = stack({"d": marked({}, redirect=b"/" + b"/".join([b"p"] * 8))}, *([nested] * 4))
    with pytest.raises(BadRedirect):
        s.stat("d")
    assert s.names() == ["d", "p"]


@pytest.mark.parametrize("value", [b"../..", b"/a", b""])
def test_a_redirect_of_a_layers_root_means_nothing(stack: Stacks, value: bytes) -> None:
    s = stack(marked({"a": ""}, redirect=value), {"b": ""}, upper=marked({"c": ""}, redirect=value))
    assert s.names() == ["a", "b", "c"]


def linked(layer: Path) -> None:
    """A layer with one file of two names."""
    layer.mkdir()
    (layer / "a").write_text("low")
    os.link(layer / "a", layer / "b")


INTRUDERS: dict[str, Callable[[Path, Path], None]] = {
    "a symlink": lambda path, outside: path.symlink_to(outside / "secret"),
    "a directory": lambda path, _: path.mkdir(),
    "a fifo": lambda path, _: os.mkfifo(path),
    "a whiteout": lambda path, _: os.mknod(path, 0o020000, 0),
}


@pytest.mark.root
@pytest.mark.parametrize("intruder", INTRUDERS.values(), ids=INTRUDERS.keys())
def test_an_index_entry_of_another_type_is_not_believed(
    stack: Stacks, tmp_path: Path, intruder: Callable[[Path, Path], None]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    s = stack(linked, index=True)
    s.setattr("a", mode=0o600)
    [entry] = os.listdir(s.work / "index")
    s.forget_all()
    (s.upper / "a").unlink()
    (s.work / "index" / entry).unlink()
    intruder(s.work / "index" / entry, outside)
    os.setxattr(s.work / "index" / entry, "trusted.overlay.nlink", b"U+1", follow_symlinks=False)
    s.remount()
    for change in (lambda: s.stat("b"), lambda: s.read("b"), lambda: s.write("b", b"x")):
        with pytest.raises(BadMark):
            change()
    assert (outside / "secret").read_text() == "secret"


NONSENSE = [b"U+" + b"9" * 3000, b"L-99999999999", b"U+4294967296", b"U+-1", b"U+\xd9\xa3", b""]


@pytest.mark.root
@pytest.mark.parametrize("value", NONSENSE, ids=[value[:6].hex() or "empty" for value in NONSENSE])
def test_a_link_count_that_makes_no_sense_is_counted_instead(stack: Stacks, value: bytes) -> None:
    s = stack(linked, index=True)
    s.setattr("a", mode=0o600)
    [entry] = os.listdir(s.work / "index")
    os.setxattr(s.work / "index" / entry, "trusted.overlay.nlink", value)
    s.forget_all()
    s.remount()
    assert s.stat("b").st_nlink == 2


WORKS: dict[str, Callable[[Path, Path], object]] = {
    "work is a symlink": lambda work, outside: (work / "work").symlink_to(outside),
    "work is a fifo": lambda work, _: os.mkfifo(work / "work"),
    "index is a symlink": lambda work, outside: (work / "index").symlink_to(outside),
    "index is a file": lambda work, _: (work / "index").write_text(""),
}


@pytest.mark.root
@pytest.mark.parametrize("make", WORKS.values(), ids=WORKS.keys())
def test_a_work_directory_that_leads_elsewhere_is_refused(tmp_path: Path, make: Callable[[Path, Path], object]) -> None:
    places = {name: tmp_path / name for name in ("lower", "upper", "work", "outside")}
    for place in places.values():
        place.mkdir()
    (places["outside"] / "secret").write_text("")
    make(places["work"], places["outside"])
    config = Config(lower=(places["lower"],), upper=places["upper"], work=places["work"], index=True)
    with pytest.raises(StackError, match=r"workdir: .*(cannot be used|cannot be written): Not a directory"):
        Union(config)
    assert os.listdir(places["outside"]) == ["secret"]


@pytest.mark.root
@pytest.mark.parametrize("flag", [fileops.FS_IMMUTABLE, fileops.FS_APPEND])
def test_flags_of_chattr_keep_nothing_in_a_work_directory(tmp_path: Path, flag: int) -> None:
    config = Config(lower=(tmp_path / "lower",), upper=tmp_path / "upper", work=tmp_path / "work")
    for place in ("lower", "upper", "work/work/left/deep"):
        (tmp_path / place).mkdir(parents=True)
    for name in ("left/deep/file", "file"):
        (tmp_path / "work/work" / name).touch()
    for name in ("left/deep/file", "left/deep", "left", "file"):
        fd = os.open(tmp_path / "work/work" / name, os.O_RDONLY)
        fileops.set_flags(fd, flag)
        os.close(fd)
    Union(config).close()
    assert os.listdir(tmp_path / "work/work") == []


def test_a_work_directory_that_cannot_be_emptied_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    config = Config(lower=(tmp_path / "lower",), upper=tmp_path / "upper", work=tmp_path / "work")
    for place in ("lower", "upper", "work"):
        (tmp_path / place).mkdir()
    monkeypatch.setattr(remove, "empty", refuse)
    with pytest.raises(StackError, match="work cannot be emptied: Operation not permitted; try: another directory"):
        Union(config)
