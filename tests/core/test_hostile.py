"""Layers made by somebody who wants out: nothing in one makes the union read or write outside of it, hang or die.

Beside every layer lies a secret that the layer's content points to in one way or another. Everything a user could
do is tried on every name; afterwards the secret and all lower layers are as they were, and nobody has read the secret.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.core.conftest import Stacks
from tests.core.stacks import ME, PAST, PREFIX, WHITEOUT, Stack, Tree, fifo, marked, picture, symlink
from unionfs.core.request import Changes

SECRET = b"the secret outside of every layer"


def xattr_junk(path: Path) -> None:
    path.mkdir()
    for mark in (
        "opaque",
        "redirect",
        "metacopy",
        "origin",
        "impure",
        "nlink",
        "upper",
        "whiteout",
        "protattr",
        "junk",
    ):
        os.setxattr(path, PREFIX + mark, os.urandom(200))


def junk_file(path: Path) -> None:
    path.write_bytes(b"")
    for mark in ("opaque", "redirect", "metacopy", "origin", "nlink", "whiteout", "protattr"):
        os.setxattr(path, PREFIX + mark, os.urandom(60))


def marked_symlink(target: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.symlink_to(target)
        if PREFIX.startswith("trusted."):
            os.setxattr(path, PREFIX + "redirect", b"/x", follow_symlinks=False)

    return make


OUT = "../../../../../.."
"""More than enough to leave the layer; the secret's own path follows."""

HOSTILE: dict[str, Tree] = {
    "symlink for a directory": {"d": symlink("{outside}"), "s": symlink("{outside}/secret")},
    "symlink up": {"d": symlink("../.."), "e": {"f": symlink("../../outside/secret")}},
    "redirect up": {"d": marked({}, redirect=b"../outside"), "e": marked({}, redirect=b"/../outside")},
    "redirect through a symlink": {"l": symlink("{outside}"), "d": marked({}, redirect=b"/l/dir")},
    "redirect onto a symlink": {
        "l": symlink("{outside}"),
        "d": marked({}, redirect=b"/l"),
        "e": marked({}, redirect=b"l"),
    },
    "redirect to itself": {"d": marked({"x": ""}, redirect=b"d"), "e": marked({}, redirect=b"/e")},
    "redirects in a circle": {"d": marked({}, redirect=b"/e/d"), "e": marked({"d": {}}, redirect=b"/d")},
    "redirect into its own depth": {"d": marked({"d": marked({}, redirect=b"/d/d")}, redirect=b"/d/d")},
    "redirect onto a file": {"f": "x", "d": marked({}, redirect=b"/f")},
    "metacopy up": {"f": marked("", metacopy=b"", redirect=b"../../outside/secret")},
    "metacopy through a symlink": {"l": symlink("{outside}"), "f": marked("", metacopy=b"", redirect=b"/l/secret")},
    "metacopy onto a symlink": {"s": symlink("{outside}/secret"), "f": marked("", metacopy=b"", redirect=b"/s")},
    "metacopy onto a fifo": {"p": fifo, "f": marked("", metacopy=b"", redirect=b"/p")},
    "metacopy of itself": {"f": marked("", metacopy=b"", redirect=b"/f"), "g": marked("", metacopy=b"")},
    "metacopy that is nonsense": {"f": marked("", metacopy=b"nonsense")},
    "junk attributes": {"d": xattr_junk, "f": junk_file, "e": {"d": xattr_junk}},
    "whiteout for a directory": {"d": WHITEOUT, ".wh..wh..opq": {}, ".wh.e": {"x": ""}, "e": {}},
    "fifo for everything": {"d": fifo, "f": fifo, "e": {"d": fifo, "f": fifo}},
    "names": {"n" * 255: {"m" * 255: ""}, "\udcff\udcfe": "", " ": "", "\n": {}, "..f": "", "#0": "", "work": {}},
    "opaque on files": {"f": marked("x", opaque=b"y"), "s": symlink("x")},
    "marks of images alone": {".wh.": "", ".wh..": "", ".wh...": "", ".wh..wh.": "", ".wh..wh..opq": ""},
}
BELOW: Tree = {"d": {"x": "low", "sub": {}}, "e": {"f": "low", "d": {"y": ""}}, "f": "low", "s": "low", "g": "low"}


def resolved(tree: Tree, outside: Path) -> Tree:
    """Put the place of the secret into the targets of symlinks."""
    found: dict[str, object] = {}
    for name, node in tree.items():
        if callable(node) and node.__name__ == "<lambda>":
            found[name] = pointing(node, outside)
        else:
            found[name] = resolved(node, outside) if isinstance(node, dict) else node
    return found  # type: ignore[return-value]  # a dict is invariant


def pointing(make: Callable[[Path], None], outside: Path) -> Callable[[Path], None]:
    def made(path: Path) -> None:
        make(path)
        target = os.readlink(path).replace("{outside}", str(outside))
        path.unlink()
        path.symlink_to(target)

    return made


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    place = tmp_path / "outside"
    (place / "dir").mkdir(parents=True)
    for where in (place, place / "dir"):
        (where / "secret").write_bytes(SECRET)
    return place


@pytest.mark.timeout(60)
@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("position", ["top", "middle", "alone", "upper"])
def test_nothing_in_a_layer_leads_out_of_it(stack: Stacks, outside: Path, content: Tree, position: str) -> None:
    tree = resolved(content, outside)
    before = picture(outside)
    layers: dict[str, tuple[Tree, ...]] = {
        "top": (tree, BELOW), "middle": (BELOW, tree, BELOW), "alone": (tree,), "upper": (BELOW, BELOW)
    }  # fmt: skip
    upper = tree if position == "upper" else {}
    for options in ({}, {"metacopy": True, "index": True}):
        s = stack(*layers[position], upper=upper, **options)
        seen = try_everything(s)
        assert SECRET not in seen
        assert picture(outside) == before
        s.forget_all()
        s.remount()
        assert SECRET not in try_everything(s)


def try_everything(s: Stack) -> set[bytes]:
    """Do to every name whatever a user could, and return every content that was read."""
    contents: set[bytes] = set()
    for path in walk(s, ""):
        with contextlib.suppress(OSError):
            contents |= look(s, path)
        for change in CHANGES:
            with contextlib.suppress(OSError):
                change(s, path)
    for path in reversed(walk(s, "")):
        for remove in (s.unlink, s.rmdir):
            with contextlib.suppress(OSError):
                remove(path)
    return contents


def walk(s: Stack, path: str, depth: int = 0) -> list[str]:
    if depth > 6:
        return []
    found: list[str] = []
    for name in s.names(path):
        below = f"{path}/{name}" if path else name
        found.append(below)
        with contextlib.suppress(OSError):
            if stat.S_ISDIR(s.stat(below).st_mode):
                found += walk(s, below, depth + 1)
    return found


def look(s: Stack, path: str) -> set[bytes]:
    st = s.stat(path)
    nodeid = s.id(path)
    for name in s.union.listxattr(nodeid):
        s.union.getxattr(nodeid, name)
    for name in (b"secret", b"dir", b"..", b".", b"outside"):
        with contextlib.suppress(OSError):
            s.seen(s.union.lookup(nodeid, name)[0])
    return {s.read(path)} if stat.S_ISREG(st.st_mode) else set()


CHANGES: list[Callable[[Stack, str], object]] = [
    lambda s, path: s.create(f"{path}/new", b"data"),
    lambda s, path: s.mkdir(f"{path}/newdir"),
    lambda s, path: s.setattr(path, mtime_ns=1),
    lambda s, path: s.setattr(path, mode=0o700),
    lambda s, path: s.union.setxattr(s.id(path), b"user.k", b"v"),
    lambda s, path: s.write(path, b"overwritten"),
    lambda s, path: s.setattr(path, size=1),
    lambda s, path: s.link(path, f"{path}.link"),
    lambda s, path: s.rename(path, f"{path}.moved"),
    lambda s, path: s.rename(f"{path}.moved", path),
    lambda s, path: s.union.setattr(s.id(path), Changes(uid=ME.uid, gid=ME.gid)),
]


@pytest.mark.timeout(60)
def test_a_fifo_put_where_the_union_knew_a_file_does_not_block(stack: Stacks) -> None:
    s = stack({}, upper={"f": "x", "d": {}})
    node, directory = s.id("f"), s.id("d")
    (s.upper / "f").unlink()
    os.mkfifo(s.upper / "f")
    (s.upper / "d").rmdir()
    os.mkfifo(s.upper / "d")
    for flags in (os.O_RDONLY, os.O_WRONLY):
        with contextlib.suppress(OSError):
            s.opened(s.union.open(node, flags))
    for call in (
        lambda: s.union.setattr(node, Changes(size=1)),
        lambda: s.union.getflags(node),
        lambda: s.union.lookup(directory, b"x"),
    ):
        with pytest.raises(OSError, match=r"."):
            call()
    (s.upper / "f").unlink()
    (s.upper / "d").unlink()


def test_a_layer_that_changes_beneath_the_union_gives_errors_and_no_more(stack: Stacks) -> None:
    s = stack({"f": "x", "d": {"g": "y"}})
    moved = s.lowers[0].with_name("elsewhere")
    f, g, d = s.id("f"), s.id("d/g"), s.id("d")
    fh = s.open("d/g")
    s.lowers[0].rename(moved)
    assert s.content(fh) == b"y"
    (moved / "f").rename(moved / "f2")
    for call in (lambda: s.union.getattr(f), lambda: s.union.open(f, os.O_RDONLY), lambda: s.id("f")):
        with pytest.raises(OSError, match=r".") as caught:
            call()
        assert caught.value.errno in {errno.ENOENT, errno.ESTALE}
    assert s.union.getattr(g)[1].st_size == 1
    assert s.union.getattr(d)
    (moved / "f2").rename(moved / "f")
    os.utime(moved, ns=(PAST, PAST))
    moved.rename(s.lowers[0])
