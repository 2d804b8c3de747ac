"""How fast are files read: many small ones, and one big one in each of the ways there are?"""

from __future__ import annotations

import mmap
import os
import random

from benchmarks.command import main
from benchmarks.rows import Job, Row, names
from benchmarks.stacks import Stack, image, make_big_file, make_files

__all__ = ["BIG", "ROWS"]

BIG = 128 << 20
"""Bytes of the big file."""

STEP = 1 << 17
"""Bytes a sequential read asks for: what cp and tar use."""

PAGE = 4_096


def regular_files() -> list[str]:
    return [os.path.join(top, name) for top, _, files in os.walk(".") for name in files]


def read_all(job: Job) -> None:
    """Open, read and close every file of the tree, whose names are known."""
    paths = regular_files()
    with job.timed(len(paths)):
        for path in paths:
            fd = os.open(path, os.O_RDONLY)
            while os.read(fd, STEP):
                pass
            os.close(fd)


def unwarmed_files(job: Job) -> None:
    """Read everything once."""
    read_all(job)
    job.elapsed_ns = job.operations = 0


def small_files(stack: Stack) -> None:
    make_files(stack.add_lower() / "small", stack.count(1_000))
    stack.add_lower()


def open_read_close(job: Job) -> None:
    """Open, read 4 KiB of and close each of 1,000 files, ten times: the first time cold."""
    paths = [f"small/{name}" for name in names(job.count(1_000))]
    with job.timed(10 * len(paths)):
        for _ in range(10):
            for path in paths:
                fd = os.open(path, os.O_RDONLY)
                os.read(fd, PAGE)
                os.close(fd)


def big_file(stack: Stack) -> None:
    make_big_file(stack.add_lower() / "big", stack.count(BIG))


def big_upper_file(stack: Stack) -> None:
    stack.add_lower()
    make_big_file(stack.upper / "big", stack.count(BIG))


def read_sequentially(job: Job) -> None:
    buffer = bytearray(STEP)
    fd = os.open("big", os.O_RDONLY)
    total = 0
    with job.timed(job.count(BIG) // STEP + 1):
        while got := os.readv(fd, [buffer]):
            total += got
    assert total == job.count(BIG)
    os.close(fd)


def read_big_once(_job: Job) -> None:
    with open("big", "rb", buffering=0) as file:
        while file.read(STEP):
            pass


def read_at_random(job: Job) -> None:
    """Read 4 KiB at each of 10,000 random places of a file that was read before."""
    pages = job.count(BIG) // PAGE
    places = [PAGE * random.randrange(pages) for _ in range(job.count(10_000))]
    fd = os.open("big", os.O_RDONLY)
    with job.timed(len(places)):
        for place in places:
            os.pread(fd, PAGE, place)
    os.close(fd)


def read_mapped(job: Job) -> None:
    """Touch every page of a mapping of the whole file."""
    fd = os.open("big", os.O_RDONLY)
    length = job.count(BIG)
    with job.timed(length // PAGE + 1), mmap.mmap(fd, length, prot=mmap.PROT_READ) as mapped:
        bytes(mapped[::PAGE])
    os.close(fd)


ROWS: tuple[Row, ...] = (
    Row(name="read files cold", layers=image, work=read_all),
    Row(name="read files warm", layers=image, work=read_all, warm=unwarmed_files),
    Row(name="open-read-close", layers=small_files, work=open_read_close),
    Row(name="open-read-close, read-only", layers=small_files, work=open_read_close, read_only=True),
    Row(name="sequential read cold", layers=big_file, work=read_sequentially),
    Row(name="sequential read warm", layers=big_file, work=read_sequentially, warm=read_big_once),
    Row(name="sequential read of an upper file", layers=big_upper_file, work=read_sequentially),
    Row(name="random read", layers=big_file, work=read_at_random, warm=read_big_once),
    Row(name="mmap read cold", layers=big_file, work=read_mapped),
    Row(name="mmap read warm", layers=big_file, work=read_mapped, warm=read_big_once),
)

if __name__ == "__main__":
    main(ROWS, "reads")
