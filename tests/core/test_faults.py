"""An operation that fails at any of its system calls says so with that errno, changes nothing, and can be tried again.

Each operation is run with its first call failing, then its second, and so on until nothing fails. After each failure

* the caller got the errno,
* the tree is what it was: for this union, and for one that is opened afresh over the same directories,
* nothing is left in the work directory,
* and the same operation, tried again, does what it does where nothing fails.

Some failures are not the caller's business, because the operation can do without the call: then it must have done all
of its work.
"""

import contextlib
import errno
import itertools
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests.core.faults import CHANGING as FAULTS_THAT_CHANGE
from tests.core.faults import Faults
from tests.core.stacks import ME, PAST, PREFIX, WHITEOUT, Maker, Stack, Tree, fifo, marked, symlink
from unionfs.linux import at, fileops

pytestmark = pytest.mark.root

EVERYWHERE: Final = (errno.EIO,)
"""Any call may find a bad block."""
CHANGING: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""Only what changes something finds no space, no right or no writable filesystem."""

BIG: Final = "0123456789abcdef" * 1000


@dataclass(frozen=True)
class Operation:
    """What is done to which stack."""

    act: Callable[[Stack], object]
    lowers: tuple[Tree, ...] = ({},)
    upper: Tree = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    before: Callable[[Stack], object] = lambda s: None
    too_late: frozenset[str] = frozenset()
    """Calls after the point of no return: when one of them fails, the tree need only be what a fresh union shows."""


def hard_links(*names: str) -> Maker:
    """A directory of names for one file."""

    def make(path: Path) -> None:
        path.mkdir()
        (path / names[0]).write_bytes(BIG.encode())
        for name in names[1:]:
            os.link(path / names[0], path / name)

    return make


def rich(path: Path) -> None:
    """A file with everything a copy-up has to carry."""
    path.write_bytes(b"data" * 2000)
    os.chown(path, 1234, 1235)
    path.chmod(0o6751)
    os.setxattr(path, "user.note", b"n")
    os.setxattr(
        path,
        "system.posix_acl_access",
        bytes.fromhex("0200000001000700ffffffff02000400e803000004000500ffffffff10000500ffffffff20000100ffffffff"),
    )
    os.setxattr(path, "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))


DEEP: Final[Tree] = {"a": {"b": {"f": rich, "g": "g"}}}
XWHITEOUT: Final = marked({"f": marked("", whiteout=b"y")}, opaque=b"x")


def no_mknod(s: Stack) -> None:
    upper = s.union._state.upper
    assert upper is not None
    upper.can_mknod = False


def looked_up(*paths: str) -> Callable[[Stack], object]:
    return lambda s: [s.id(path) for path in paths]


def opened(path: str) -> Callable[[Stack], object]:
    return lambda s: s.open(path)


def created(path: str) -> Callable[[Stack], object]:
    def create(s: Stack) -> None:
        node, _, fh = s.union.create(*s.at(path), 0o644, os.O_RDWR, ME)
        s.seen(node)
        s.opened(fh)

    return create


def metacopied(path: str) -> Callable[[Stack], object]:
    return lambda s: s.setattr(path, mode=0o640)


METACOPY: Final = {"metacopy": True}
INDEX: Final = {"index": True}
CUT: Final = frozenset({"truncate", "ftruncate", "open-create"})
"""The copy has no more than the data that were to stay; what follows gives it the time of the change."""
FILLED: Final = frozenset({"setxattr", "fchmod", "utime", "removexattr"})
"""Writing the data has dropped a capability and moved the times; putting them back fails, or taking the mark off."""
CLEARED: Final = frozenset({"rename", "renameat2", "setxattr", "mkdir", "chown", "chmod"})
"""The directory to be replaced was emptied of its whiteouts, so it has another number."""
LINKS: Final[Tree] = {"d": hard_links("f", "g", "h"), "e": {}}
EX: Final = at.RENAME_EXCHANGE

OPERATIONS: dict[str, Operation] = {
    "write to a lower file": Operation(lambda s: s.write("a/b/f", b"NEW"), (DEEP,)),
    "write to an open lower file": Operation(lambda s: s.write("a/b/f", b"NEW"), (DEEP,), before=opened("a/b/f")),
    "write, fsync=strict": Operation(lambda s: s.write("a/b/f", b"NEW"), (DEEP,), options={"fsync": "strict"}),
    "chmod of a lower file": Operation(lambda s: s.setattr("a/b/f", mode=0o600), (DEEP,)),
    "chown of a lower file": Operation(lambda s: s.setattr("a/b/f", uid=7, gid=8), (DEEP,)),
    "utimes of a lower file": Operation(lambda s: s.setattr("a/b/f", mtime_ns=5), (DEEP,)),
    "truncation of a lower file": Operation(lambda s: s.setattr("a/b/f", size=10), (DEEP,), too_late=CUT),
    "setxattr of a lower file": Operation(lambda s: s.union.setxattr(s.id("a/b/f"), b"user.k", b"v"), (DEEP,)),
    "removexattr of a lower file": Operation(lambda s: s.union.removexattr(s.id("a/b/f"), b"user.note"), (DEEP,)),
    "open with O_TRUNC": Operation(lambda s: s.open("a/b/f", os.O_WRONLY | os.O_TRUNC), (DEEP,), too_late=CUT),
    "chmod of a lower directory": Operation(lambda s: s.setattr("a/b", mode=0o700), (DEEP,)),
    "chown of a lower symlink": Operation(lambda s: s.setattr("l", uid=7), ({"l": symlink("x")},)),
    "utimes of a lower fifo": Operation(lambda s: s.setattr("p", mtime_ns=7), ({"p": fifo},)),
    "metacopy": Operation(lambda s: s.setattr("a/b/f", mode=0o600), (DEEP,), options=METACOPY),
    "metacopy of an open file": Operation(
        lambda s: s.setattr("a/b/f", mode=0o600), (DEEP,), options=METACOPY, before=opened("a/b/f")
    ),
    "the data of a metacopy file": Operation(
        lambda s: s.write("a/b/f", b"NEW"), (DEEP,), options=METACOPY, before=metacopied("a/b/f"), too_late=FILLED
    ),
    "the rest of a metacopy file": Operation(
        lambda s: s.setattr("a/b/f", size=10),
        (DEEP,),
        options=METACOPY,
        before=metacopied("a/b/f"),
        too_late=CUT | FILLED,
    ),
    "rename of a metacopy file": Operation(
        lambda s: s.rename("a/b/f", "m"), (DEEP,), options=METACOPY, before=metacopied("a/b/f")
    ),
    "rename without the data": Operation(lambda s: s.rename("a/b/f", "m"), (DEEP,), options=METACOPY),
    "link of a metacopy file": Operation(
        lambda s: s.link("a/b/f", "m"), (DEEP,), options=METACOPY, before=metacopied("a/b/f")
    ),
    "link without the data": Operation(lambda s: s.link("a/b/f", "m"), (DEEP,), options=METACOPY),
    "creation": Operation(created("a/b/new"), (DEEP,)),
    "creation over a whiteout": Operation(created("f"), ({"f": "x"},), {"f": WHITEOUT}),
    "mkdir": Operation(lambda s: s.mkdir("a/b/new"), (DEEP,)),
    "mkdir over a whiteout": Operation(lambda s: s.mkdir("d"), ({"d": {"f": "x"}},), {"d": WHITEOUT}),
    "mkdir over an attribute whiteout": Operation(lambda s: s.mkdir("d/f"), ({"d": {"f": "x"}},), {"d": XWHITEOUT}),
    "mknod": Operation(lambda s: s.mknod("a/p", stat.S_IFIFO | 0o600), (DEEP,)),
    "symlink": Operation(lambda s: s.symlink("a/l", "target"), (DEEP,)),
    "symlink over a whiteout": Operation(lambda s: s.symlink("f", "x"), ({"f": "x"},), {"f": WHITEOUT}),
    "link of a lower file": Operation(lambda s: s.link("a/b/f", "l"), (DEEP,)),
    "link over a whiteout": Operation(lambda s: s.link("g", "f"), ({"f": "x", "g": "y"},), {"f": WHITEOUT}),
    "unlink of a lower file": Operation(lambda s: s.unlink("a/b/f"), (DEEP,)),
    "unlink of a copied-up file": Operation(
        lambda s: s.unlink("a/b/f"), (DEEP,), before=lambda s: s.write("a/b/f", b"N")
    ),
    "unlink of an upper file": Operation(lambda s: s.unlink("f"), ({},), {"f": "x"}),
    "unlink of an open lower file": Operation(lambda s: s.unlink("a/b/f"), (DEEP,), before=opened("a/b/f")),
    "unlink without devices": Operation(lambda s: s.unlink("a/b/f"), (DEEP,), before=no_mknod),
    "second unlink": Operation(lambda s: s.unlink("a/b/f"), (DEEP,), before=lambda s: s.unlink("a/b/g")),
    "rmdir of a lower directory": Operation(lambda s: s.rmdir("a/d"), ({"a": {"d": {}}},)),
    "rmdir of a merged directory of whiteouts": Operation(
        lambda s: s.rmdir("d"), ({"d": {"f": "x", "g": "y"}},), {"d": {"f": WHITEOUT, "g": WHITEOUT}}
    ),
    "rmdir of an upper directory of whiteouts": Operation(lambda s: s.rmdir("d"), ({},), {"d": {"f": WHITEOUT}}),
    "rmdir of an attribute whiteout's directory": Operation(
        lambda s: s.rmdir("d"), ({"d": {"f": "x"}},), {"d": XWHITEOUT}, before=no_mknod
    ),
    "rename of a lower file": Operation(lambda s: s.rename("a/b/f", "new"), (DEEP,)),
    "rename of an upper file": Operation(lambda s: s.rename("u", "a/b/u"), (DEEP,), {"u": "u"}),
    "rename over a lower file": Operation(lambda s: s.rename("a/b/f", "a/b/g"), (DEEP,)),
    "rename over an upper file": Operation(lambda s: s.rename("a/b/f", "u"), (DEEP,), {"u": "u"}),
    "rename over a whiteout": Operation(lambda s: s.rename("g", "f"), ({"f": "x", "g": "y"},), {"f": WHITEOUT}),
    "rename without devices": Operation(lambda s: s.rename("a/b/f", "new"), (DEEP,), before=no_mknod),
    "rename of a lower directory": Operation(lambda s: s.rename("a/b", "new"), (DEEP,)),
    "rename of a lower directory in its place": Operation(lambda s: s.rename("a/b", "a/c"), (DEEP,)),
    "rename of a merged directory": Operation(lambda s: s.rename("a", "new"), (DEEP, DEEP), {"a": {"u": "u"}}),
    "rename of a known merged directory": Operation(
        lambda s: s.rename("a", "new"), (DEEP, DEEP), {"a": {"u": "u"}}, before=looked_up("a/b/f")
    ),
    "rename of an upper directory over a lower name": Operation(
        lambda s: s.rename("u", "d"), ({"d": {"f": "x"}},), {"u": {"n": "n"}, "d": WHITEOUT}
    ),
    "rename of an upper directory over a merged one": Operation(
        lambda s: s.rename("u", "d"), ({"d": {"f": "x"}},), {"u": {"n": "n"}, "d": {"f": WHITEOUT}}, too_late=CLEARED
    ),
    "rename of a lower directory over a merged one": Operation(
        lambda s: s.rename("a", "d"), ({**DEEP, "d": {"f": "x"}},), {"d": {"f": WHITEOUT}}, too_late=CLEARED
    ),
    "rename of a directory to another over an empty lower one": Operation(
        lambda s: s.rename("a", "d"), ({**DEEP, "d": {}},)
    ),
    "exchange of lower files": Operation(lambda s: s.rename("a/b/f", "x", EX), ({**DEEP, "x": "x"},)),
    "exchange of lower directories": Operation(lambda s: s.rename("a/b", "x", EX), ({**DEEP, "x": {"y": "y"}},)),
    "exchange of a lower file and a merged directory": Operation(
        lambda s: s.rename("f", "d", EX), ({"f": "f", "d": {"x": "x"}},), {"d": {"u": "u"}}
    ),
    "exchange of an upper and a lower directory": Operation(
        lambda s: s.rename("u", "d", EX), ({"d": {"x": "x"}},), {"u": {"u": "u"}}
    ),
    "rename that leaves a whiteout": Operation(lambda s: s.rename("a/b/f", "new", at.RENAME_WHITEOUT), (DEEP,)),
    "index: write": Operation(lambda s: s.write("d/f", b"NEW"), (LINKS,), options=INDEX),
    "index: write, other names known": Operation(
        lambda s: s.write("d/f", b"NEW"), (LINKS,), options=INDEX, before=looked_up("d/f", "d/g")
    ),
    "index: unlink": Operation(lambda s: s.unlink("d/f"), (LINKS,), options=INDEX),
    "index: unlink after a write": Operation(
        lambda s: s.unlink("d/g"), (LINKS,), options=INDEX, before=lambda s: s.write("d/f", b"N")
    ),
    "index: rename": Operation(lambda s: s.rename("d/f", "e/f"), (LINKS,), options=INDEX),
    "index: rename over another name's file": Operation(
        lambda s: s.rename("x", "d/g"), ({**LINKS, "x": "x"},), options=INDEX
    ),
    "index: link": Operation(lambda s: s.link("d/f", "e/f"), (LINKS,), options=INDEX),
    "index: exchange": Operation(lambda s: s.rename("d/f", "x", EX), ({**LINKS, "x": "x"},), options=INDEX),
    "index and metacopy: chmod": Operation(
        lambda s: s.setattr("d/f", mode=0o600), (LINKS,), options={**INDEX, **METACOPY}
    ),
    "index and metacopy: data": Operation(
        lambda s: s.write("d/f", b"NEW"),
        (LINKS,),
        options={**INDEX, **METACOPY},
        before=metacopied("d/f"),
        too_late=FILLED,
    ),
    "chattr of a lower file": Operation(lambda s: s.union.setflags(s.id("a/b/f"), 0x80), (DEEP,)),
    "immutable upper file": Operation(
        lambda s: s.union.setflags(s.id("f"), 0x10), ({"f": "x"},), before=lambda s: s.union.setflags(s.id("f"), 0x20)
    ),
}


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    from unionfs.testing import disk

    with disk.in_memory() as base:
        yield base


Picture = dict[str, tuple[object, ...]]


def shown(picture: Picture) -> Picture:
    """Leave out what two runs of the same thing do not have in common: inode numbers and the time of a write."""
    return {
        path: tuple(each for each in (*looks[:5], *looks[6:]) if not is_now(each)) for path, looks in picture.items()
    }


def is_now(value: object) -> bool:
    return isinstance(value, int) and value > PAST


def tree(s: Stack) -> Picture:
    """Return all that users see, but for the times of directories, which a failed attempt may move."""
    found: Picture = {}
    pending = [""]
    while pending:
        path = pending.pop()
        node, st = s.union.getattr(s.id(path))
        nodeid = node.nodeid
        content: object = None
        if stat.S_ISDIR(st.st_mode):
            content = s.names(path)
            pending += [f"{path}/{name}" if path else name for name in s.names(path)]
        elif stat.S_ISREG(st.st_mode):
            content = s.read(path)
        elif stat.S_ISLNK(st.st_mode):
            content = s.union.readlink(nodeid)
        attributes = tuple((name, s.union.getxattr(nodeid, name)) for name in sorted(s.union.listxattr(nodeid)))
        links = 0 if stat.S_ISDIR(st.st_mode) else st.st_nlink  # a directory shows how many layers it is in
        looks = (st.st_mode, st.st_uid, st.st_gid, links, st.st_rdev, node.ino, attributes)
        found[path] = (*looks, content) if stat.S_ISDIR(st.st_mode) else (*looks, st.st_size, st.st_mtime_ns, content)
    return found


@contextmanager
def stack(memory: Path, operation: Operation) -> Iterator[Stack]:
    """A fresh stack just before *operation*; it keeps what every stack promises."""
    base = Path(tempfile.mkdtemp(dir=memory))
    s = Stack(base, operation.lowers, operation.upper, dict(operation.options))
    try:
        operation.before(s)
        yield s
    except BaseException:
        s.union.close()
        raise
    else:
        s.check_promises()
    finally:
        for path in s.upper.iterdir():
            if path.is_file():
                lift_flags(path)
        shutil.rmtree(base)


def lift_flags(path: Path) -> None:
    """Let an immutable file be removed."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fileops.set_flags(fd, 0)
    os.close(fd)


def leftovers(s: Stack) -> list[str]:
    """Return what lies in the work directory; the whiteout that all others are links to belongs there."""
    with os.scandir(s.work / "work") as entries:
        return [entry.name for entry in entries if not _is_spare_whiteout(entry)]


def _is_spare_whiteout(entry: "os.DirEntry[str]") -> bool:
    st = entry.stat(follow_symlinks=False)
    is_device = stat.S_ISCHR(st.st_mode) and not st.st_rdev
    return is_device or (stat.S_ISREG(st.st_mode) and PREFIX + "whiteout" in os.listxattr(entry.path))


def expected(memory: Path, operation: Operation) -> "tuple[Picture, Picture]":
    """Return the tree before and after *operation* where nothing fails."""
    with stack(memory, operation) as s:
        before = tree(s)
        operation.act(s)
        return before, tree(s)


def check(s: Stack, picture: Picture, *, exactly: bool) -> None:
    """Hold the tree against *picture*, which is *exactly* so if it is of this very stack."""
    if exactly:
        assert tree(s) == picture
    else:
        assert shown(tree(s)) == shown(picture)


def is_reading(call: str | None) -> bool:
    return call not in FAULTS_THAT_CHANGE


@dataclass
class Outcome:
    """What a trial ended with."""

    failed: str | None
    raised: int | None


def trial(memory: Path, operation: Operation, faults: Faults, pictures: "tuple[Picture, Picture]") -> Outcome:
    """Run *operation* once with *faults*, hold what it leaves against *pictures*, and try it again."""
    before, after = pictures
    raised: int | None = None
    with stack(memory, operation) as s:
        exact = tree(s)
        assert shown(exact) == shown(before)
        with faults.armed():
            try:
                operation.act(s)
            except OSError as exc:
                raised = exc.errno
        if faults.failed not in {"unlink", "rmdir"} and not is_reading(faults.failed):
            assert leftovers(s) == []
        now = tree(s)
        s.forget_all()
        s.remount()
        is_late = faults.failed in operation.too_late
        check(s, now, exactly=not is_late and not is_reading(faults.failed))
        if raised is None:
            check(s, after, exactly=False)
        elif not is_late and not is_reading(faults.failed):
            check(s, exact, exactly=True)
            operation.act(s)
            check(s, after, exactly=False)
    return Outcome(faults.failed, raised)


@pytest.mark.parametrize("only_changes", [False, True], ids=["bad block", "no space, no right"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_failure_at_any_step_changes_nothing(memory: Path, name: str, only_changes: bool) -> None:
    operation = OPERATIONS[name]
    pictures = expected(memory, operation)
    codes = CHANGING if only_changes else EVERYWHERE
    surfaced = 0
    for step in range(300):
        code = codes[step % len(codes)]
        faults = Faults(step, code, only_changes=only_changes)
        try:
            outcome = trial(memory, operation, faults, pictures)
        except BaseException as exc:
            exc.add_note(f"call {step}, {faults.failed}, failed with {errno.errorcode[code]}")
            raise
        if outcome.failed is None:
            assert outcome.raised is None
            break
        assert outcome.raised in {None, code}, f"call {step}, {outcome.failed}"
        surfaced += outcome.raised is not None
    else:
        pytest.fail("the operation never ended")
    assert surfaced


def test_a_hard_link_whose_index_entry_could_not_be_asked_for_is_found_the_next_time(memory: Path) -> None:
    """Not under a number of which the union has no node: that was ESTALE until the next mount."""
    operation = Operation(lambda s: s.id("d/f"), (LINKS,), options=INDEX)
    refused = 0
    for step in itertools.count():
        with stack(memory, operation) as s:
            faults = Faults(step, errno.EIO, only_changes=False)
            with faults.armed(), contextlib.suppress(OSError):
                s.id("d/f")
            if faults.failed is None:
                break
            refused += 1
            assert s.read("d/f") == BIG.encode()
    assert refused > 1


@pytest.mark.parametrize("flag", [fileops.FS_APPEND, fileops.FS_IMMUTABLE])
def test_the_flag_of_an_indexed_hard_link_can_be_lifted(memory: Path, flag: int) -> None:
    """The copy gets its flags after its names: the kernel links no file that has one of these."""
    operation = Operation(lambda s: None, (LINKS,), options=INDEX)
    with stack(memory, operation) as s:
        lower = s.lowers[0] / "d/f"
        fd = os.open(lower, os.O_RDONLY)
        fileops.set_flags(fd, flag)
        try:
            s.union.setflags(s.id("d/f"), 0)
            assert (s.upper / "d/f").read_text() == BIG
            s.write("d/g", b"NEW")
            assert s.read("d/f").startswith(b"NEW")
        finally:
            fileops.set_flags(fd, 0)
            os.close(fd)
