"""How fast is the union changed: names made, moved and removed, and data written?

The first rows are loops of single calls; the last are programs that people run, on trees of real shape.
"""

from __future__ import annotations

import os
import random
import subprocess
import tarfile
from pathlib import Path

from benchmarks.command import main
from benchmarks.rows import Job, Row, names
from benchmarks.stacks import Stack, image, make_big_file, make_files, make_tree, nothing

__all__ = ["ROWS"]

FILES = 2_000
BIG = 64 << 20
WRITTEN = 128 << 20
STEP = 1 << 17
PAGE = 4_096
DATA = b"x" * PAGE


def write_files(paths: list[str], flags: int) -> None:
    for path in paths:
        fd = os.open(path, os.O_WRONLY | flags, 0o644)
        os.write(fd, DATA)
        os.close(fd)


def directory(_job: Job) -> None:
    os.mkdir("work")


def files(job: Job) -> None:
    """Make the files that the work then moves, removes or writes to: through the mount, so that it knows them."""
    os.mkdir("work")
    write_files([f"work/{name}" for name in names(job.count(FILES))], os.O_CREAT)


def create(job: Job) -> None:
    """Create files, 4 KiB in each."""
    paths = [f"work/{name}" for name in names(job.count(FILES))]
    with job.timed(len(paths)):
        write_files(paths, os.O_CREAT | os.O_EXCL)


def mkdir(job: Job) -> None:
    paths = [f"work/{name}" for name in names(job.count(FILES))]
    with job.timed(len(paths)):
        for path in paths:
            os.mkdir(path)


def rename(job: Job) -> None:
    pairs = [(f"work/{name}", f"work/moved-{name}") for name in names(job.count(FILES))]
    with job.timed(len(pairs)):
        for old, new in pairs:
            os.rename(old, new)


def unlink(job: Job) -> None:
    paths = [f"work/{name}" for name in names(job.count(FILES))]
    with job.timed(len(paths)):
        for path in paths:
            os.unlink(path)


def rewrite(job: Job) -> None:
    """Open with O_TRUNC, write 4 KiB, close."""
    paths = [f"work/{name}" for name in names(job.count(FILES))]
    with job.timed(len(paths)):
        write_files(paths, os.O_TRUNC)


def lower_files(stack: Stack) -> None:
    make_files(stack.add_lower() / "work", stack.count(FILES))


def write_sequentially(job: Job) -> None:
    buffer = os.urandom(STEP)
    steps = max(1, job.count(WRITTEN) // STEP)
    fd = os.open("new", os.O_WRONLY | os.O_CREAT, 0o644)
    with job.timed(steps):
        for _ in range(steps):
            os.write(fd, buffer)
    os.close(fd)
    assert os.stat("new").st_size == steps * STEP


def big_upper_file(stack: Stack) -> None:
    stack.add_lower()
    make_big_file(stack.upper / "big", stack.count(BIG))


def write_at_random(job: Job) -> None:
    """Write 4 KiB at each of 10,000 random places of a file in the upper."""
    pages = max(1, job.count(BIG) // PAGE)
    places = [PAGE * random.randrange(pages) for _ in range(job.count(10_000))]
    fd = os.open("big", os.O_WRONLY)
    with job.timed(len(places)):
        for place in places:
            os.pwrite(fd, DATA, place)
    os.close(fd)


def archive(stack: Stack) -> None:
    """Leave a tar of the ordinary tree beside the layers, where untar finds it: one level above the mountpoint."""
    stack.add_lower()
    tree = stack.top / "tree"
    make_tree(tree, stack.count(2_400))
    with tarfile.open(stack.top / "tree.tar", "w") as tar:
        tar.add(tree, "tree")


def untar(job: Job) -> None:
    with job.timed(job.count(2_400)):
        subprocess.run(["tar", "xf", "../tree.tar"], check=True)


def upper_tree(stack: Stack) -> None:
    stack.add_lower()
    make_tree(stack.upper / "tree", stack.count(2_400))


def lower_tree(stack: Stack) -> None:
    make_tree(stack.add_lower() / "tree", stack.count(2_400))


def rm_rf(job: Job) -> None:
    with job.timed(job.count(2_400)):
        subprocess.run(["rm", "-rf", "tree"], check=True)
    assert not Path("tree").exists()


def rm_merged(job: Job) -> None:
    """Remove all that the ordinary tree of three layers shows."""
    with job.timed(job.count(2_400)):
        subprocess.run(["sh", "-c", "rm -rf ./*"], check=True)
    assert not os.listdir(".")


def repository(stack: Stack) -> None:
    make_tree(stack.add_lower(), stack.count(1_000))


def git_commit(job: Job) -> None:
    """Make a repository of a tree of 1,000 files in a lower layer: init, add, commit."""
    identity = ["-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0"]
    with job.timed(job.count(1_000)):
        for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "all"]):
            subprocess.run(["git", "-c", "safe.directory=*", *command], check=True)


ROWS: tuple[Row, ...] = (
    Row(name="create", layers=nothing, work=create, warm=directory),
    Row(name="mkdir", layers=nothing, work=mkdir, warm=directory),
    Row(name="rename", layers=nothing, work=rename, warm=files),
    Row(name="unlink", layers=nothing, work=unlink, warm=files),
    Row(name="unlink of lower files", layers=lower_files, work=unlink),
    Row(name="rewrite", layers=nothing, work=rewrite, warm=files),
    Row(name="sequential write", layers=nothing, work=write_sequentially),
    Row(name="random write", layers=big_upper_file, work=write_at_random),
    Row(name="untar", layers=archive, work=untar),
    Row(name="rm -rf upper", layers=upper_tree, work=rm_rf),
    Row(name="rm -rf lower", layers=lower_tree, work=rm_rf),
    Row(name="rm -rf merged", layers=image, work=rm_merged),
    Row(name="git init-add-commit", layers=repository, work=git_commit),
)

if __name__ == "__main__":
    main(ROWS, "changes")
