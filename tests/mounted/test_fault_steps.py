"""An upper layer that begins to refuse changes in the middle of an operation, on a real mount.

The upper lies on a filesystem of the test's own, which answers the first change with an errno; then only the second,
and so on until the operation gets through. In a second round it refuses all that comes after it too, so that not even
the way back is free. Each time

* the caller gets that errno,
* the tree is what it was,
* and the same operation, when the filesystem has come to its senses, does what it does where nothing fails.

A truncation is not among them: the file is cut on its way up, and the last step, which can fail, gives it the time of
the change. A write that takes set-id bits or a capability takes them first, as on any filesystem.

The trees are held against that of the kernel's overlayfs, and looked at again by a union that is mounted afresh.
"""

import errno
import itertools
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.engines import ENGINES, backends
from tests.mounted.faulty import Refusal, faulty
from tests.profile import LONG
from unionfs.testing import disk
from unionfs.testing.driver import Op, attempt
from unionfs.testing.literal import PAST, Dir, File, HardLink, Symlink, Tree, capability
from unionfs.testing.mounted import Mounted
from unionfs.testing.snapshot import Seen, Snapshot, differences, snapshot, without_directory_links
from unionfs.testing.stack import Backend, Features, Stack, kernel

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.overlayfs]

CODES: Final = (errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EIO, errno.EROFS)
EXCHANGE: Final = 2

MANY: Final = 40
"""Places in which a case may be tried in each round."""

OWNED: Final = File(b"data" * 2000, mode=0o750, uid=7, gid=8, xattrs={"user.k": b"v"})
CAPABLE: Final = File(b"program", mode=0o6755, xattrs={"security.capability": capability()})
DEEP: Final[Tree] = {
    "d": Dir({"f": OWNED, "c": CAPABLE, "sub": {"x": "x"}}, mode=0o2750, gid=9, mtime_ns=PAST + 1),
    "e": {},
    "f": "f",
    "s": Symlink("f"),
}
LINKS: Final[Tree] = {"d": {"f": File(b"links" * 2000), "g": HardLink("d/f")}, "h": HardLink("d/f"), "x": "x"}


PLAIN: Final = Features()
INDEX: Final = Features(index=True)
METACOPY: Final = Features(metacopy=True)


@dataclass(frozen=True)
class Case:
    """One operation, on a tree of its own."""

    op: Op
    lower: Tree = field(default_factory=lambda: DEEP)
    before: tuple[Op, ...] = ()
    features: Features = PLAIN
    in_place: bool = False
    """The data are written into the file itself, which may lose its time for it."""


CASES: Final = {
    "write": Case(("write", "d/f", b"new")),
    "chmod": Case(("chmod", "d/f", 0o600)),
    "chown of a symlink": Case(("chown", "s", 7, 8)),
    "utime of a directory": Case(("utime", "d", PAST, PAST + 7)),
    "setxattr": Case(("setxattr", "d/c", "user.n", b"v")),
    "chmod, metacopy": Case(("chmod", "d/f", 0o600), features=METACOPY),
    "write to a metacopy file": Case(
        ("write", "d/f", b"new"), before=(("chmod", "d/f", 0o600),), features=METACOPY, in_place=True
    ),
    "write to a hard link": Case(("write", "d/f", b"new"), LINKS, features=INDEX),
    "write to the other name": Case(("write", "d/g", b"new"), LINKS, (("read", "h"),), INDEX),
    "unlink of a hard link": Case(("unlink", "d/f"), LINKS, features=INDEX),
    "rename of a hard link": Case(("rename", "d/f", "new"), LINKS, features=INDEX),
    "rename over a hard link": Case(("rename", "x", "h"), LINKS, (("write", "d/f", b"n"),), INDEX),
    "create": Case(("create", "d/new")),
    "create over a whiteout": Case(("create", "f"), before=(("unlink", "f"),)),
    "mkdir": Case(("mkdir", "d/new")),
    "mkdir over a whiteout": Case(("mkdir", "e"), before=(("rmdir", "e"),)),
    "mknod": Case(("mknod", "d/p", 0o010640)),
    "symlink": Case(("symlink", "d/l", "target")),
    "link": Case(("link", "d/f", "l")),
    "unlink": Case(("unlink", "d/f")),
    "unlink of a copy": Case(("unlink", "d/f"), before=(("chmod", "d/f", 0o600),)),
    "rmdir": Case(("rmdir", "e")),
    "rmdir of whiteouts": Case(("rmdir", "d/sub"), before=(("unlink", "d/sub/x"),)),
    "rename": Case(("rename", "d/c", "new")),
    "rename over another": Case(("rename", "d/f", "f")),
    "rename over a whiteout": Case(("rename", "d/f", "f"), before=(("unlink", "f"),)),
    "rename of a directory": Case(("rename", "d", "new")),
    "rename of a directory below another": Case(("rename", "d/sub", "e/sub")),
    "rename of a directory over whiteouts": Case(("rename", "e", "d/sub"), before=(("unlink", "d/sub/x"),)),
    "rename of a new directory": Case(("rename", "n", "e"), before=(("mkdir", "n"), ("create", "n/x"))),
    "exchange": Case(("rename", "d/f", "f", EXCHANGE)),
    "exchange of directories": Case(("rename", "d", "e", EXCHANGE)),
}


@pytest.fixture(scope="module")
def served() -> Iterator[dict[str, Backend]]:
    with backends() as found:
        yield found


@dataclass(frozen=True)
class Ground:
    """Where stacks are laid: a directory of the machine, and one that may refuse."""

    base: Path
    layer: Path
    refusal: Refusal

    def stacks(self, case: Case) -> tuple[Stack, Stack]:
        """Lay *case* many times, and return a stack for us and another one, of the same lower layer, for the kernel."""
        home = Path(tempfile.mkdtemp(dir=self.base))
        for number in range(2 * MANY):
            disk.write(case.lower, home / "lower" / str(number))
        return self._stack(home, self.layer / home.name, case), self._stack(home, home, case)

    @staticmethod
    def _stack(home: Path, upper: Path, case: Case) -> Stack:
        for each in (home / "mnt", upper / "upper", upper / "work"):
            each.mkdir(parents=True, exist_ok=True)
        return Stack(
            lower=(home / "lower",),
            upper=upper / "upper",
            work=upper / "work",
            mountpoint=home / "mnt",
            features=case.features,
        )


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with disk.in_memory() as real, disk.in_memory() as base:
        (base / "layer").mkdir()
        with faulty(real, base / "layer") as refusal:
            yield Ground(base, base / "layer", refusal)


def place(stack: Stack, number: int) -> Mounted:
    """Return the driver of one of the directories in which the operation is tried."""
    return Mounted(stack.mountpoint / str(number))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("engine", ENGINES if LONG else ENGINES[:1])
def test_a_layer_that_refuses_from_some_step_on_changes_nothing(
    engine: str, name: str, served: dict[str, Backend], ground: Ground
) -> None:
    case = CASES[name]
    ours, theirs = ground.stacks(case)
    with kernel(theirs):
        for op in (*case.before, case.op):
            assert attempt(place(theirs, 0), op).errno == "ok"
        expected = snapshot(place(theirs, 0))
    with served[engine](ours):
        once = refuse_and_retry(case, ours, ground.refusal, range(MANY), most=1)
        for_good = refuse_and_retry(case, ours, ground.refusal, range(MANY, 2 * MANY), most=1000)
        tried = [*once, *for_good]
    with served[engine](ours):
        for number in tried:
            assert changes(case, expected, snapshot(place(ours, number))) == [], number
    assert ours.work is not None
    assert os.listdir(ours.work / "work") == []


def changes(case: Case, before: Snapshot, after: Snapshot) -> list[str]:
    """Say what has changed, but for what a refused change cannot put back: the times of a directory, and its links."""

    def seen(found: Seen) -> Seen:
        return found._replace(mtime_ns=0) if case.in_place or stat.S_ISDIR(found.status.mode) else found

    return differences(
        *({path: seen(found) for path, found in without_directory_links(tree).items()} for tree in (after, before))
    )


def refuse_and_retry(case: Case, stack: Stack, refusal: Refusal, places: range, most: int) -> list[int]:
    """Try *case* in one place after another, with ever more changes let through; return those that it was tried in.

    *most*: how many changes are refused then.
    """
    for step, (number, code) in enumerate(zip(places, itertools.cycle(CODES))):
        driver = place(stack, number)
        for op in case.before:
            assert attempt(driver, op).errno == "ok"
        before = snapshot(driver)
        refusal.begin(code, step, most)
        outcome = attempt(driver, case.op)
        after = snapshot(driver)
        refused = refusal.end()
        where = f"step {step}, {errno.errorcode[code]}, {most} times"
        if not refused:
            assert step, "nothing is ever refused"
            assert outcome.errno == "ok"
            return list(places[: step + 1])
        if outcome.errno != "ok":
            assert outcome.errno == errno.errorcode[code], where
            assert changes(case, before, after) == [], where
            assert changes(case, before, snapshot(driver)) == [], where
            assert attempt(driver, case.op).errno == "ok", where
    raise AssertionError("it never gets through")
