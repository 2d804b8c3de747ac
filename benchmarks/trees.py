"""How fast is a tree walked, listed and packed?

Cold means that the mount is new and nothing was asked of it yet; what lies below it is as warm as building it left it,
for everybody. Warm means that the same walk was done just before.
"""

from __future__ import annotations

import contextlib
import os
import subprocess

from benchmarks.command import main
from benchmarks.rows import Job, Row, names
from benchmarks.stacks import Stack, image, make_files

__all__ = ["ROWS", "visit"]

WALKERS = 4
QUIET = {**os.environ, "LC_ALL": "C"}


def visit(top: str = ".") -> int:
    """Stat everything below *top* and return how much that is; as lean as Python allows."""
    seen = 0
    pending = [top]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                entry.stat(follow_symlinks=False)
                seen += 1
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
    return seen


def walk(job: Job) -> None:
    with job.timed():
        seen = visit()
    assert seen > job.count(2_400)
    job.operations = seen


def walk_once(_job: Job) -> None:
    visit()


def four_walkers(job: Job) -> None:
    """Start four processes on one tree and wait for the last."""
    with job.timed(WALKERS):
        walkers = [walker() for _ in range(WALKERS)]
        for pid in walkers:
            assert os.waitpid(pid, 0)[1] == 0


def walker() -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(OSError):
            code = 0 if visit() else 1
        os._exit(code)
    return pid


def big_directory(stack: Stack) -> None:
    make_files(stack.add_lower() / "big", stack.count(10_000), size=10)


def ls_l(job: Job) -> None:
    with job.timed(job.count(10_000)):
        listed = subprocess.run(["ls", "-l", "big"], check=True, capture_output=True, env=QUIET)
    assert listed.stdout.count(b"\n") == job.count(10_000) + 1


def stat_names(job: Job) -> None:
    """Look 2,000 names up of the 10,000 in one directory, none of which is known yet."""
    wanted = [f"big/{name}" for name in names(job.count(10_000))[::5]]
    with job.timed(len(wanted)):
        for name in wanted:
            os.stat(name)


def stat_absent(job: Job) -> None:
    """Look 2,000 names up that are not there."""
    absent = [f"big/{name}" for name in names(job.count(2_000), "absent")]
    exists = os.access
    with job.timed(len(absent)):
        for name in absent:
            exists(name, os.F_OK)


def tar_c(job: Job) -> None:
    """Pack everything; through a pipe, since tar reads no file when it sees that it writes to /dev/null."""
    with job.timed(job.count(2_400)):
        subprocess.run(["sh", "-c", "tar cf - . | cat >/dev/null"], check=True, env=QUIET)


ROWS: tuple[Row, ...] = (
    Row(name="walk cold", layers=image, work=walk),
    Row(name="walk warm", layers=image, work=walk, warm=walk_once),
    Row(name="walk cold, read-only", layers=image, work=walk, read_only=True),
    Row(name="four walkers cold", layers=image, work=four_walkers),
    Row(name="ls -l of 10,000 cold", layers=big_directory, work=ls_l),
    Row(name="ls -l of 10,000 warm", layers=big_directory, work=ls_l, warm=ls_l),
    Row(name="stat cold", layers=big_directory, work=stat_names),
    Row(name="stat of an absent name", layers=big_directory, work=stat_absent),
    Row(name="tar c cold", layers=image, work=tar_c),
)

if __name__ == "__main__":
    main(ROWS, "trees")
