"""The server is killed at every step of a change: the change is made all the same, once, and answered as ever.

Each case is one call. It is made over and over, each time in a directory of its own, and each time the server is
killed one step later than before, until the call gets through undisturbed. That one is what all others must look like:
at once, after one more process has taken over, and when the layers are mounted anew.
"""

import errno
import itertools
import os
import random
import signal
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.mounted.killing import Killer
from tests.mounting import ROOT, Stack
from tests.profile import LONG
from unionfs.linux import at

pytestmark = [pytest.mark.root, pytest.mark.fuse]

MOST = 24
"""Kills in one life of a mount: one more in a row, and the supervisor gives up."""

MANY = 250
"""Places for the attempts of one case."""

OPTIONS = "index=on,redirect_dir=on,metacopy=on"

Act = Callable[[Path], object]


def nothing(_: Path) -> None:
    """Prepare nothing."""


@dataclass(frozen=True)
class Case:
    """One call."""

    act: Act
    below: Act = nothing
    """Makes what the lower layer has."""
    before: Act = nothing
    """Changes something in the mount first."""


def make(*names: str, text: str = "text") -> Act:
    def act(place: Path) -> None:
        for name in names:
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).mkdir() if name.endswith("/") else (place / name).write_text(text)

    return act


def remove(*names: str) -> Act:
    def act(place: Path) -> None:
        for name in names:
            (place / name).rmdir() if (place / name).is_dir() else (place / name).unlink()

    return act


def each(*acts: Act) -> Act:
    def act(place: Path) -> None:
        for one in acts:
            one(place)

    return act


def create(name: str) -> Act:
    def act(place: Path) -> int:
        fd = os.open(place / name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o640)
        try:
            return os.write(fd, b"created")
        finally:
            os.close(fd)

    return act


def write(name: str, flags: int = 0) -> Act:
    def act(place: Path) -> int:
        fd = os.open(place / name, os.O_RDWR | flags)
        try:
            return os.write(fd, b"more")
        finally:
            os.close(fd)

    return act


def rename(old: str, new: str, flags: int = 0) -> Act:
    def act(place: Path) -> None:
        fd = os.open(place, os.O_PATH)
        try:
            at.rename(fd, os.fsencode(old), fd, os.fsencode(new), flags)
        finally:
            os.close(fd)

    return act


def copy_range(place: Path) -> int:
    with (place / "f").open("rb") as source, (place / "g").open("r+b") as target:
        return os.copy_file_range(source.fileno(), target.fileno(), 3, 1, 2)


def link_nameless(place: Path) -> None:
    fd = os.open(place, os.O_TMPFILE | os.O_RDWR, 0o600)
    try:
        os.write(fd, b"nameless")
        os.link(f"/proc/self/fd/{fd}", place / "new", src_dir_fd=fd, follow_symlinks=True)
    finally:
        os.close(fd)


def unlink_open(place: Path) -> tuple[bytes, int]:
    with (place / "f").open("r+b") as file:
        (place / "f").unlink()
        return file.read(), os.fstat(file.fileno()).st_nlink


CASES = {
    "mkdir": Case(lambda d: (d / "new").mkdir(0o750)),
    "mkdir where one was removed": Case(lambda d: (d / "a").mkdir(), make("a/f"), remove("a/f", "a")),
    "mkdir of what is there": Case(lambda d: (d / "f").mkdir(), make("f")),
    "create": Case(create("new")),
    "create where one was removed": Case(create("f"), make("f"), remove("f")),
    "mknod": Case(lambda d: os.mkfifo(d / "new", 0o640)),
    "symlink": Case(lambda d: os.symlink("target", d / "new")),
    "link": Case(lambda d: os.link(d / "f", d / "new"), before=make("f")),
    "link of a lower file": Case(lambda d: os.link(d / "f", d / "new"), make("f")),
    "link of a file without a name": Case(link_nameless),
    "unlink": Case(remove("f"), before=make("f")),
    "unlink of a lower file": Case(remove("f"), make("f")),
    "unlink of a copy": Case(remove("f"), make("f"), lambda d: (d / "f").chmod(0o600)),
    "unlink of a link": Case(remove("g"), each(make("f"), lambda d: os.link(d / "f", d / "g"))),
    "unlink of an open file": Case(unlink_open, make("f")),
    "rmdir": Case(remove("a"), before=make("a/")),
    "rmdir of a lower directory": Case(remove("a"), make("a/")),
    "rmdir of an emptied directory": Case(remove("a"), make("a/f", "a/g"), remove("a/f", "a/g")),
    "rename": Case(rename("f", "new"), before=make("f")),
    "rename of a lower file": Case(rename("f", "new"), make("f")),
    "rename of a copy over a lower file": Case(rename("f", "g"), make("f", "g"), write("f")),
    "rename over an emptied directory": Case(
        rename("b", "a"), make("a/f", "b/g"), each(remove("a/f"), lambda d: (d / "b").chmod(0o700))
    ),
    "rename of a directory": Case(rename("a", "b"), before=make("a/f")),
    "rename of a lower directory": Case(rename("a", "b"), make("a/f")),
    "rename where one was removed": Case(rename("f", "g"), make("f", "g"), remove("g")),
    "rename onto itself": Case(rename("f", "g"), before=each(make("f"), lambda d: os.link(d / "f", d / "g"))),
    "rename over an empty directory by a file": Case(rename("f", "a"), make("f", "a/")),
    "exchange": Case(rename("f", "a", at.RENAME_EXCHANGE), make("f", "a/g")),
    "rename without replacing": Case(rename("f", "g", at.RENAME_NOREPLACE), make("f", "g")),
    "write": Case(write("f"), before=make("f")),
    "append": Case(write("f", os.O_APPEND), before=make("f")),
    "write to a lower file": Case(write("f"), make("f")),
    "append to a lower file": Case(write("f", os.O_APPEND), make("f")),
    "truncate a lower file": Case(write("f", os.O_TRUNC), make("f")),
    "copy_file_range": Case(copy_range, make("f", "g")),
    "chmod": Case(lambda d: (d / "f").chmod(0o600), make("f")),
    "chown": Case(lambda d: os.chown(d / "f", 7, 8), make("f")),
    "new attribute": Case(lambda d: os.setxattr(d / "f", "user.a", b"1", os.XATTR_CREATE), make("f")),
    "new attribute of a new file": Case(
        lambda d: os.setxattr(d / "f", "user.a", b"1", os.XATTR_CREATE), before=make("f")
    ),
    "attribute that is there": Case(
        lambda d: os.setxattr(d / "f", "user.a", b"1", os.XATTR_CREATE),
        each(make("f"), lambda d: os.setxattr(d / "f", "user.a", b"1")),
    ),
    "removal of an attribute": Case(
        lambda d: os.removexattr(d / "f", "user.a"), each(make("f"), lambda d: os.setxattr(d / "f", "user.a", b"1"))
    ),
}


def outcome(act: Act, place: Path) -> object:
    try:
        return act(place)
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]


Seen = tuple[object, ...]


def tree(place: Path) -> dict[str, Seen]:
    """Return what is seen of everything below *place*."""
    seen: dict[str, Seen] = {}
    for path in sorted(place.rglob("*")):
        st = path.lstat()
        content: object = None
        if stat.S_ISREG(st.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(st.st_mode):
            content = os.readlink(path)
        attributes = {
            name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)
        }
        links = st.st_nlink if not path.is_dir() else 0
        seen[str(path.relative_to(place))] = (oct(st.st_mode), links, st.st_uid, st.st_gid, content, attributes)
    return seen


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path, engine="direct")
    yield stack
    stack.end()


DOUBLY: Final = (
    *("create", "link of a file without a name", "unlink of an open file", "rmdir of an emptied directory"),
    *("rename of a lower file", "exchange", "append to a lower file", "new attribute"),
)
"""Cases in which the process that takes over is killed as well, at each step of that."""


def steps_of(name: str, *, doubly: bool) -> Iterator[tuple[int, int]]:
    """Yield the steps at which to kill, and those of the next process; -1 for never.

    All of them in a long run, else one, which is another in each case.
    """
    numbers: Iterable[int] = itertools.count() if LONG else [random.Random(name).randrange(10)]
    for number in numbers:
        yield (number % 12, 3 * number if not LONG else number) if doubly else (number, -1)


class Trial:
    """A mount in which cases are tried, and what came of each attempt."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._killer = Killer(stack.directory)
        self._kills = 0
        self.outcomes: dict[Path, object] = {}
        self.trees: dict[Path, dict[str, Seen]] = {}
        stack.environment |= self._killer.environment | {"PYTHONPATH": f"{stack.directory}:{ROOT}"}

    def mount(self) -> None:
        self._stack.mount("-o", OPTIONS)
        self._kills = 0

    def attempt(self, case: Case, place: Path, steps: tuple[int, int] | None) -> bool:
        """Try it, and have servers killed after so many *steps*; return whether there were as many."""
        if self._kills >= MOST - 1:
            self._stack.unmount()
            self.mount()
        case.before(place)
        if steps is not None:
            self._killer.kill(self._stack.server().pid, *steps)
        self.outcomes[place] = outcome(case.act, place)
        self.trees[place] = tree(place)
        killed = self._killer.has_killed()
        self._kills += 1 + (steps is not None and steps[1] >= 0)
        return killed


def together(names: Iterable[str]) -> list[list[str]]:
    """Return what is tried on one mount: in a short run a third of it all."""
    return [[name] for name in names] if LONG else [list(names)[::3]]


@pytest.mark.parametrize(
    ("names", "doubly"),
    [*((names, False) for names in together(CASES)), *((names, True) for names in together(DOUBLY))],
)
def test_a_change_is_made_once(stack: Stack, names: list[str], doubly: bool) -> None:
    places = {name: [stack.merged / f"{name} {number}" for number in range(MANY if LONG else 2)] for name in names}
    for name, attempts in places.items():
        for attempt in attempts:
            below = stack.base / attempt.name
            below.mkdir()
            CASES[name].below(below)
    trial = Trial(stack)
    trial.mount()
    for name, attempts in places.items():
        left = iter(attempts)
        trial.attempt(CASES[name], expected := next(left), None)
        tried = [expected]
        for steps, attempt in zip(steps_of(name, doubly=doubly), left, strict=False):
            tried.append(attempt)
            if not trial.attempt(CASES[name], attempt, steps):
                assert any(steps) or not LONG, "nobody was ever killed"
                break
        else:
            assert not LONG, "there are more steps than places"
        places[name] = tried
        assert [trial.outcomes[place] for place in tried] == [trial.outcomes[expected]] * len(tried), name
        assert [trial.trees[place] for place in tried] == [trial.trees[expected]] * len(tried), name
    os.kill(stack.server().pid, signal.SIGKILL)
    for _ in range(2):  # by a process that knows them from the journal, and anew from the disk
        for name, tried in places.items():
            assert [tree(place) for place in tried] == [trial.trees[tried[0]]] * len(tried), name
        stack.unmount()
        stack.mount("-o", OPTIONS)
    stack.unmount()
    assert os.listdir(stack.work / "work") == []
