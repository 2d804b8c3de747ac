"""Any operations in any order, on ours and on the kernel's overlayfs at once."""

import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import note, reject
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.property.literals import DATA, METACOPY, layers, trees, without_heirs
from tests.property.operations import WHITEOUT, handle_operations, operations, settle
from unionfs.core.config import RedirectDir
from unionfs.testing import disk
from unionfs.testing.driver import Driver, Op, Outcome, Status, attempt
from unionfs.testing.literal import ACL_DEFAULT, Tree
from unionfs.testing.mounted import acting_as
from unionfs.testing.snapshot import Seen, Snapshot, differences, snapshot
from unionfs.testing.stack import Backend, Features, Stack, in_process, kernel, lay
from unionfs.testing.wanted import is_gone_directory, with_links_of

__all__ = ["FEATURES", "Machine"]

FEATURES = (
    Features(),
    Features(redirect_dir=RedirectDir.OFF),
    Features(redirect_dir=RedirectDir.FOLLOW),
    Features(redirect_dir=RedirectDir.NOFOLLOW),
    Features(index=True),
    Features(index=True, redirect_dir=RedirectDir.OFF),
    Features(metacopy=True),
    Features(index=True, metacopy=True),
    Features(xino=True),
    Features(userxattr=True),
)


MAX_LAYERS = 6
REFUSED = "content='EPERM'"
"""In what is said of a name that a listing shows, and of which nothing else is."""

REFUSED_ANYWAY = {"EACCES", "EPERM", "ENOTEMPTY", "EISDIR", "ENOTDIR"}
ABSENT_ACL = {"ok", "ENODATA"}
"""What is said of the removal of an ACL that is not there: the first of an upper file, the second of a lower one.

With an index, what is known of a hard link's names is copied up with it here, and so are the directories they are in.
"""
GROUPS = {7: (5,)}
"""The groups that a user is in besides his own."""

HARD_LINKS = {"x", "y", "w"}
"""The names that `literals.layers` gives to hard links."""


class Machine(RuleBasedStateMachine):
    """Two unions over equal layers that must stay equal, whatever is done to both.

    After every step: the same errno, and the same visible tree. At any time and at the end: the same after
    both are mounted again, and with each side's layers mounted by the other.
    """

    ours: ClassVar[Backend] = staticmethod(in_process)
    room: ClassVar[Callable[[], AbstractContextManager[Path]]] = staticmethod(disk.in_memory)
    """Makes a place for the layers of both."""

    lacks: ClassVar[frozenset[str]] = frozenset({"flock", "ofd_lock", "getflags", "setflags"})
    """Operations, and attributes to set, that are not tried; see `unionfs.testing.mounted.Mounted`."""

    compared: ClassVar[int] = 0o177777
    """The bits of a mode that must agree."""

    tells_links: ClassVar[bool] = True
    """False where two names of one inode may have two numbers."""

    uids: ClassVar[tuple[int, ...]] = (0,)
    """On whose behalf things are tried; others than root only where ours is a real mount."""

    filtered: ClassVar[bool] = True
    """False for the kernel, which lists the whiteouts of directories that it does not merge."""

    lists_refused: ClassVar[bool] = True
    """False where a directory with a redirect that is not to be followed is not even listed."""

    listed_at_once: ClassVar[bool] = True
    """False where the kernel caches listings: in those the numbers of broken hard links may be old."""

    def __init__(self) -> None:
        super().__init__()
        self.equal = False
        self.ground = ExitStack()
        self.base = self.ground.enter_context(type(self).room())
        self.mounts = ExitStack()
        self.tree: Snapshot = {}
        self.opened: dict[str, int] = {}
        """Labels of open files, and who opened them: whether a write keeps set-id bits goes by him."""
        self.flagged = False
        """Files may be immutable: the kernel then says EPERM also where there are other reasons to refuse."""

    @initialize(lower=layers(), upper=st.one_of(st.just({}), trees()), features=st.sampled_from(FEATURES))
    def stack_up(self, lower: list[Tree], upper: Tree, features: Features) -> None:
        note(f"lower = {lower}\nupper = {upper}\nfeatures = {features}")
        for side in ("ours", "kernel"):
            (self.base / side).mkdir()
        if ACL_DEFAULT in self.lacks:
            lower, upper = [without_heirs(tree) for tree in lower], without_heirs(upper)
        data = [DATA] if features.metacopy else []
        lower = [*lower[:-1], {**lower[-1], "m": METACOPY}] if data else lower
        self.mine: Stack = lay(self.base / "ours", lower, upper=upper, features=features, data_only=data)
        self.theirs: Stack = lay(self.base / "kernel", lower, upper=upper, features=features, data_only=data)
        self.mount()

    def mount(self) -> None:
        self.left: Driver = self.mounts.enter_context(type(self).ours(self.mine))
        self.right: Driver = self.mounts.enter_context(kernel(self.theirs))
        self.opened.clear()

    @rule(op=operations(), who=st.sampled_from((0, 0, 1000, 7)))
    def do(self, op: tuple[Any, ...], who: int) -> None:
        settled = settle(op, sorted(self.tree))
        if settled[0] == "rmtree":
            for each in _removal(settled[1], self.tree):
                self.both(each, who)
        elif self.both(settled, who).errno == "ok":
            if settled[0] in {"open", "tmpfile"}:
                self.opened[settled[1]] = who
            self.flagged |= settled[0] == "setflags"

    @precondition(lambda self: self.opened)
    @rule(op=handle_operations())
    def do_with_open_file(self, op: tuple[Any, ...]) -> None:
        settled = settle(op, sorted(self.tree))
        labels = [part for part in settled[1:3] if part in {"h", "k"}]
        if settled[0] == "lseek" and labels[0] in self.opened and stat.S_ISDIR(self.left.fstat(labels[0]).mode):
            return  # nobody looks for holes in a directory, and every kind of it has an answer of its own
        if self.opened.keys() >= set(labels):
            self.both(settled, self.opened[labels[-1]])
            if settled[0] == "close":
                del self.opened[labels[0]]

    def both(self, op: Op, who: int) -> Outcome:
        if not self.lacks.isdisjoint(map(str, op)) or (op[1] in self.tree and self.is_idle(op, self.tree[op[1]])):
            return Outcome("skipped")
        uid = who if who in self.uids else 0
        note(f"{op} as {uid}")
        self.equal = False
        with acting_as(uid, uid, GROUPS.get(uid, ())):
            outcome, expected = (
                self.levelled(attempt(driver, asked))
                for driver, asked in ((self.left, op), (self.right, _for_kernel(op)))
            )
        if (outcome.errno, expected.errno) == ("ok", "ENOTEMPTY") and self.is_empty_but_for_whiteouts(
            op[2 if op[0] == "rename" else 1]
        ):
            reject()
        if self.flagged and expected.errno == "EPERM" and outcome.errno in REFUSED_ANYWAY:
            return outcome
        if self.mine.features.index and _removes_acl(op) and {outcome.errno, expected.errno} == ABSENT_ACL:
            return outcome
        agree = _is_as_sparse(op, outcome, expected) if op[0] == "lseek" else outcome == expected
        assert agree or is_gone_directory(outcome, expected), f"{op}: ours {outcome}, kernel {expected}"
        return outcome

    def is_idle(self, op: Op, seen: Seen) -> bool:
        """Tell what changes nothing and makes the kernel copy up all the same, which moves times and breaks links."""
        if op[0] == "truncate":
            return bool(op[2] == seen.status.size)
        flags = op[4] if op[0] == "setxattr" and len(op) > 4 else 0
        return bool(flags) and (op[2] in dict(seen.xattrs)) == (flags == os.XATTR_CREATE)

    def is_empty_but_for_whiteouts(self, path: str) -> bool:
        """Tell whether the kernel's upper layer has nothing but whiteouts in the directory *path*.

        In one that nothing is merged with, as only a hand-made upper layer can have it, the kernel takes
        them for files: it shows them, and refuses to remove or replace the directory.
        """
        assert self.theirs.upper is not None
        found = [entry.stat(follow_symlinks=False) for entry in os.scandir(self.theirs.upper / path)]
        return bool(found) and all(stat.S_ISCHR(seen.st_mode) and seen.st_rdev == 0 for seen in found)

    @rule()
    def remount(self) -> None:
        note("remount")
        self.mounts.close()
        self.mount()

    @rule(others=st.sampled_from(FEATURES))
    def remount_with(self, others: Features) -> None:
        """Look at the same layers with other features.

        The index and where the marks are must stay, and metacopy once it was there: without it the kernel fails to
        list a directory that holds a file without its data.
        """
        kept = self.mine.features
        if others.redirect_dir is RedirectDir.NOFOLLOW and not self.lists_refused:
            return
        if (others.userxattr, others.index) != (kept.userxattr, kept.index) or kept.metacopy > others.metacopy:
            return
        note(f"remount with {others}")
        self.mounts.close()
        self.mine, self.theirs = self.mine.with_features(others), self.theirs.with_features(others)
        self.mount()

    @precondition(lambda self: len(self.mine.lower) < MAX_LAYERS and not self.mine.features.index)
    @rule()
    def new_upper(self) -> None:
        """Make the upper layer the topmost lower one: layers as real unions write them."""
        note("new upper layer")
        self.mounts.close()
        self.mine, self.theirs = _with_new_upper(self.mine), _with_new_upper(self.theirs)
        self.mount()

    @invariant()
    def same_tree(self) -> None:
        if hasattr(self, "left"):
            self.tree = self.snapshot(self.left)
            kernels = self.snapshot(self.right)
            seen = with_links_of(self.tree, kernels, index=self.mine.features.index)
            self.check(differences(seen, kernels, names=("ours", "kernel")))
            self.numbers_agree()
            self.equal = True

    def check(self, differing: list[str]) -> None:
        lines = [line for line in differing if not self.is_excused(line)]
        assert not lines, "\n".join(lines)

    def snapshot(self, driver: Driver) -> Snapshot:
        """Look at the tree, at what this engine can show of it.

        With userxattr, under the kernel's overlayfs the old and the new name of a symlink from below, which
        takes no user.* attribute to remember its number in, have two numbers. With redirect_dir=nofollow it does not
        even list a directory in which it has to ask a renamed one for its number: then nothing is compared.
        """
        tells_links = self.tells_links and not self.mine.features.userxattr
        try:
            found = snapshot(driver)
        except PermissionError:
            if driver is self.left or self.mine.features.redirect_dir is not RedirectDir.NOFOLLOW:
                raise
            return self.tree
        return {
            path: seen._replace(status=self.masked(seen.status), same_as=seen.same_as if tells_links else "")
            for path, seen in found.items()
        }

    def levelled(self, outcome: Outcome) -> Outcome:
        value = outcome.value
        return outcome._replace(value=self.masked(value)) if isinstance(value, Status) else outcome

    def masked(self, status: Status) -> Status:
        return status._replace(mode=status.mode & self.compared)

    def is_excused(self, line: str) -> bool:
        """Tell a difference that is the kernel's fault.

        With metacopy, the data it copies at an open move the mtime. Where redirects are not followed, it does not list
        a directory with one, which it refuses to be asked about, in an upper directory that has been moved into.
        """
        if self.mine.features.redirect_dir is RedirectDir.NOFOLLOW and REFUSED in line:
            return ": only in ours: " in line or ": only in before: " in line
        return self.mine.features.metacopy and ": mtime_ns: " in line

    def numbers_agree(self) -> None:
        """Check that a listing shows the numbers that a stat shows."""
        if not self.filtered:
            return
        for path, seen in self.tree.items():
            if stat.S_ISDIR(seen.status.mode):
                listed = self.left.numbers(path)
                paths = {name: f"{path}/{name}" if path else name for name in listed}
                answering = [name for name in listed if paths[name] in self.tree and self.tree[paths[name]].status.mode]
                differing = {name for name in answering if listed[name] != self.left.inode(paths[name])}
                assert not differing if self.listed_at_once else differing <= HARD_LINKS

    def teardown(self) -> None:
        try:
            self.mounts.close()
            if self.equal:
                self.cross_mount()
        finally:
            self.ground.close()

    def cross_mount(self) -> None:
        """Mount each side's layers with the other's code."""
        note("layers exchanged")
        for backend, stack in ((kernel, self.mine), (type(self).ours, self.theirs)):
            with backend(stack) as driver:
                seen = self.snapshot(driver)
                before = with_links_of(self.tree, seen, index=stack.features.index)
                self.check(differences(seen, before, names=("exchanged", "before")))


def _for_kernel(op: Op) -> Op:
    """Return what the kernel's overlayfs is asked: it refuses RENAME_WHITEOUT, after which nothing more is shown."""
    return (*op[:3], op[3] & ~WHITEOUT) if op[0] == "rename" and not op[3] & ~(WHITEOUT | 1) else op


def _removes_acl(op: Op) -> bool:
    return op[0] == "removexattr" and str(op[2]).startswith("system.posix_acl_")


def _is_as_sparse(op: Op, outcome: Outcome, expected: Outcome) -> bool:
    """Tell whether we show data nowhere that the kernel shows a hole: its copy-up fills holes, ours keeps them."""
    ours, kernels = outcome.value, expected.value
    if not isinstance(ours, int) or not isinstance(kernels, int):
        return outcome.errno == expected.errno or (outcome.errno, op[3]) == ("ENXIO", os.SEEK_DATA)
    return ours >= kernels if op[3] == os.SEEK_DATA else ours <= kernels


def _with_new_upper(stack: Stack) -> Stack:
    number = len(stack.lower)
    upper, work = stack.mountpoint.parent / f"upper{number}", stack.mountpoint.parent / f"work{number}"
    upper.mkdir()
    work.mkdir()
    assert stack.upper is not None
    return replace(stack, lower=(stack.upper, *stack.lower), upper=upper, work=work)


def _removal(path: str, tree: Snapshot) -> list[Op]:
    """Return the operations of ``rm -r``."""
    inside = sorted((p for p in tree if p.startswith(f"{path}/") or p == path), reverse=True)
    return [("rmdir" if stat.S_ISDIR(tree[p].status.mode) else "unlink", p) for p in inside if p]
