"""Try a script of operations on two unions at once, and say where they part.

The reference is the running kernel's overlayfs, the specification that is installed on the machine. Both
sides get layers of their own, written from the same literals, and the same operations one by one. They
must agree on the outcome of each, on the whole visible tree after each, on the tree after a remount,
on the names, whiteouts and redirects that they left in their upper layers, and, when each mounts the
layers that the *other* one wrote, on the tree once more. The other marks are each side's own affair as long
as both sides read them alike: the kernel writes ``opaque`` on every new directory, needed or not, and
with an index under which of its names a hard link stands in the upper layer.
"""

import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from unionfs.core.config import RedirectDir
from unionfs.testing.driver import Op, attempt
from unionfs.testing.literal import Dir, Tree
from unionfs.testing.snapshot import differences, snapshot
from unionfs.testing.stack import Backend, Features, Stack, kernel, lay
from unionfs.testing.wanted import is_gone_directory, with_links_of

__all__ = ["Case", "compare", "marks"]


@dataclass(frozen=True)
class Case:
    """Layers, top first, and a script."""

    name: str
    lower: Sequence[Tree | Dir]
    ops: Sequence[Op]
    upper: Tree | Dir = field(default_factory=dict)
    features: Sequence[Features] = (Features(), Features(redirect_dir=RedirectDir.OFF))
    read_only: bool = False
    data_only: Sequence[Tree] = ()
    same_marks: bool = True
    """False where the two may write down the same tree in different ways."""
    kernel_merges: Sequence[str] = ()
    """Directories that the kernel's overlayfs copies up for an operation that it then refuses."""


def compare(case: Case, features: Features, ours: Backend, base: Path) -> list[str]:
    """Run *case* on *ours* and on the kernel, and return what differs, one line each; none is well."""
    stacks = []
    for side in ("ours", "kernel"):
        (base / side).mkdir()
        options = {name: getattr(case, name) for name in ("upper", "read_only", "data_only")} | {"features": features}
        stacks.append(lay(base / side, case.lower, **options))
    mine, theirs = stacks
    lines = _run_both(case, ours, mine, theirs)
    if lines:
        return lines
    lines = _compare_trees(case, "remounted", (ours, mine), (kernel, theirs))
    if case.same_marks and not features.index and mine.upper and theirs.upper:
        lines += _compare_marks(mine.upper, theirs.upper)
    lines += _compare_trees(case, "our layers in the kernel, against the kernel's", (kernel, mine), (kernel, theirs))
    return lines + _compare_trees(case, "the kernel's layers in ours, against it", (ours, theirs), (kernel, theirs))


def _run_both(case: Case, ours: Backend, mine: Stack, theirs: Stack) -> list[str]:
    with ExitStack() as mounts:
        left, right = mounts.enter_context(ours(mine)), mounts.enter_context(kernel(theirs))
        lines = differences(snapshot(left), snapshot(right), names=("ours", "kernel"))
        for step, op in enumerate(case.ops):
            if lines:
                break
            outcome, expected = attempt(left, op), attempt(right, op)
            if outcome != expected and not is_gone_directory(outcome, expected):
                lines.append(f"step {step} {op}: ours {outcome}, kernel {expected}")
            seen, expected_tree = snapshot(left), snapshot(right)
            seen = with_links_of(seen, expected_tree, index=mine.features.index, kernel_merges=case.kernel_merges)
            trees = differences(seen, expected_tree, names=("ours", "kernel"))
            lines += [f"after step {step} {op}: {line}" for line in trees]
    return lines


def _compare_trees(case: Case, when: str, left: tuple[Backend, Stack], right: tuple[Backend, Stack]) -> list[str]:
    """Look at two stacks, one after the other: they may be the same layers, which one mount at a time owns."""
    seen = []
    for backend, stack in (left, right):
        with backend(stack) as driver:
            seen.append(snapshot(driver))
    seen[0] = with_links_of(*seen, index=left[1].features.index, kernel_merges=case.kernel_merges)
    return [f"{when}: {line}" for line in differences(*seen)]


def marks(upper: Path) -> dict[str, tuple[str, bytes | None]]:
    """Return what a layer says to a union: each path with its type and its redirect.

    A type is a letter as ``ls -l`` has it, or ``w``, a whiteout, or ``m``, a file without its data: one that has them
    again keeps its redirect in the kernel's layers, where it means nothing.
    """
    found = {}
    for directory, names, files in os.walk(upper, followlinks=False):
        for name in [*names, *files]:
            path = Path(directory, name)
            letter = _letter(path)
            found[str(path.relative_to(upper))] = (letter, _redirect(path) if letter in "dm" else None)
    return found


def _letter(path: Path) -> str:
    st = path.lstat()
    if stat.S_ISCHR(st.st_mode) and st.st_rdev == 0:
        return "w"
    lacks_data = stat.S_ISREG(st.st_mode) and "trusted.overlay.metacopy" in os.listxattr(path)
    return "m" if lacks_data else stat.filemode(st.st_mode)[0]


def _redirect(path: Path) -> bytes | None:
    if "trusted.overlay.redirect" not in os.listxattr(path):
        return None
    return os.getxattr(path, "trusted.overlay.redirect")


def _compare_marks(mine: Path, theirs: Path) -> list[str]:
    ours, kernels = marks(mine), marks(theirs)
    return [
        f"in the upper layer: {path}: ours {ours.get(path)}, kernel {kernels.get(path)}"
        for path in sorted(ours.keys() | kernels.keys())
        if ours.get(path) != kernels.get(path)
    ]
