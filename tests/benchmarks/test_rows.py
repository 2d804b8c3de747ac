"""Each row's work does what the row says, and the figures drawn from samples are right. No time is asserted."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import changes, copyups, mounts, reads, trees
from benchmarks.contenders import Bare, FuseOverlayfs, Kernel, Unionfs, all_contenders
from benchmarks.measure import Failed, in_child, interleaved, measured
from benchmarks.rows import Job, Row
from benchmarks.stacks import Stack, nothing

# The harness forks while other tests' idle worker threads may still be there; the child neither locks nor threads.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

ROWS = (*trees.ROWS, *reads.ROWS, *changes.ROWS, *copyups.ROWS, *mounts.ROWS)
SCALE = 0.01


def files(top: Path) -> list[Path]:
    return [path for path in top.rglob("*") if path.is_file()]


def holds(count: int) -> Callable[[Path], bool]:
    return lambda root: len(files(root)) == count


def keeps_everything(root: Path) -> bool:
    return bool(files(root))


def is_empty(root: Path) -> bool:
    return not any(root.iterdir())


def has_subdirectories(root: Path) -> bool:
    return sum(path.is_dir() for path in root.glob("work/*")) == 20


def has_moved(root: Path) -> bool:
    return len(list(root.glob("work/moved-*"))) == 20 and not list(root.glob("work/f*"))


def has_appended(root: Path) -> bool:
    return [path.stat().st_size for path in files(root)] == [4_097] * 10


def has_committed(root: Path) -> bool:
    return (root / ".git" / "refs" / "heads").is_dir() and len(files(root / ".git" / "objects")) > 10


def has_changed_owner(root: Path) -> bool:
    return {path.stat().st_uid for path in files(root)} == {1234}


AFTER: dict[str, Callable[[Path], bool]] = {
    "create": holds(20),
    "mkdir": has_subdirectories,
    "rename": has_moved,
    "unlink": holds(0),
    "unlink of lower files": holds(0),
    "rewrite": holds(20),
    "sequential write": lambda root: (
        (root / "new").stat().st_size == changes.WRITTEN // 100 // changes.STEP * changes.STEP
    ),
    "random write": holds(1),
    "untar": holds(24),
    "rm -rf upper": is_empty,
    "rm -rf lower": is_empty,
    "rm -rf merged": is_empty,
    "git init-add-commit": has_committed,
    "copy up 1,000 small files": has_appended,
    "copy up 256 MB": holds(1),
    "chown -R": has_changed_owner,
    "chown -R, metacopy": has_changed_owner,
}
"""What the directory is like after the work; rows that are not here only read."""


@pytest.mark.parametrize("row", [row for row in ROWS if row.work], ids=lambda row: row.name)
@pytest.mark.root
def test_the_work_does_what_the_row_says(row: Row, tmp_path: Path) -> None:
    stack = Stack(tmp_path / "stack", SCALE)
    row.layers(stack)
    root = Bare().mount(stack, ())

    def work(job: Job) -> None:
        row.warm(job)
        assert row.work is not None
        row.work(job)

    sample = in_child(work, root, Job(SCALE))
    assert sample.elapsed_ns > 0
    assert sample.operations > 0
    assert sample.cpu_s > 0
    assert AFTER.get(row.name, keeps_everything)(root)


def test_every_expectation_is_of_a_row() -> None:
    assert set(AFTER) <= {row.name for row in ROWS}


def test_names_of_rows_are_distinct() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.root
def test_the_bare_directory_shows_what_the_union_would(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "stack")
    base, top = stack.add_lower(), stack.add_lower()
    for path, text in (
        (base / "kept", "base"),
        (base / "replaced", "base"),
        (base / "gone", "base"),
        (top / "replaced", "top"),
    ):
        path.write_text(text)
    os.mknod(top / "gone", 0o020000, os.makedev(0, 0))
    (stack.upper / "new").write_text("upper")
    root = Bare().mount(stack, ())
    assert {path.name: path.read_text() for path in root.iterdir()} == {
        "kept": "base",
        "replaced": "top",
        "new": "upper",
    }


@pytest.mark.root
@pytest.mark.overlayfs
def test_a_row_is_measured_on_the_kernel(tmp_path: Path) -> None:
    """And nothing is left of it: that is for `tests.leaks` to find."""
    row = next(row for row in changes.ROWS if row.name == "create")
    sample = measured(row, Kernel(), tmp_path, SCALE)
    assert sample.operations == 20
    assert list(tmp_path.glob("*/*")) == []


def test_work_that_fails_is_a_failure_with_its_reason(tmp_path: Path) -> None:
    def work(_job: Job) -> None:
        os.stat("absent")

    row = Row(name="x", layers=nothing, work=work)
    with pytest.raises(Failed, match=r"FileNotFoundError: .*absent"):
        measured(row, Bare(), tmp_path)


def test_a_program_that_cannot_mount_is_a_failure_with_its_reason(tmp_path: Path) -> None:
    row = Row(name="x", layers=nothing, work=lambda job: None)
    with pytest.raises(Failed, match="false exited 1"):
        measured(row, FuseOverlayfs("x", "false"), tmp_path)


def test_only_what_is_timed_is_counted() -> None:
    job = Job()
    with job.timed(3):
        pass
    once = job.elapsed_ns
    with job.timed(4):
        pass
    assert job.operations == 7
    assert job.elapsed_ns >= once


def test_another_contender_is_first_in_each_round() -> None:
    rows = [Row(name=name, layers=nothing, work=None) for name in ("a", "b")]
    turns = list(interleaved(rows, [Bare(), Kernel()], 2))
    orders = [
        "".join(f"{turn.row.name}{turn.contender.name[0]} " for turn in group)
        for _, group in itertools.groupby(turns, lambda turn: turn.round)
    ]
    assert orders == ["ab ak bb bk ", "ak ab bk bb "]


def test_peers_are_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIONFS_BENCH_PEERS", "old one=/bin/true,newer=/nowhere/at/all")
    found = {contender.name: contender.missing() for contender in all_contenders()}
    assert found["old one"] is None
    assert found["newer"] == "there is no program /nowhere/at/all"


def test_an_engine_that_does_not_exist_is_missing_by_name() -> None:
    assert Unionfs("none").missing() is not None
