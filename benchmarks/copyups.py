"""What does it cost to change what lies in a lower layer?

``chown -R`` changes metadata alone. With metacopy only that is copied up; the row's ratios are to what the kernel takes
without it, because that is what most mounts have. Who has no metacopy is not in that row.
"""

from __future__ import annotations

import os
import subprocess

from benchmarks.command import main
from benchmarks.rows import Job, Row, names
from benchmarks.stacks import Stack, image, make_big_file, make_files

__all__ = ["ROWS"]

FILES = 1_000
BIG = 256 << 20


def small_files(stack: Stack) -> None:
    make_files(stack.add_lower() / "small", stack.count(FILES))


def append_to_each(job: Job) -> None:
    """Open each of 1,000 lower files to append, write a byte, close."""
    paths = [f"small/{name}" for name in names(job.count(FILES))]
    with job.timed(len(paths)):
        for path in paths:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND)
            os.write(fd, b"x")
            os.close(fd)


def big_file(stack: Stack) -> None:
    make_big_file(stack.add_lower() / "big", stack.count(BIG))


def append_to_big(job: Job) -> None:
    with job.timed():
        fd = os.open("big", os.O_WRONLY | os.O_APPEND)
        os.write(fd, b"x")
        os.close(fd)
    assert os.stat("big").st_size == job.count(BIG) + 1


def chown_tree(job: Job) -> None:
    with job.timed(job.count(2_400)):
        subprocess.run(["chown", "-R", "1234:1234", "."], check=True)


ROWS: tuple[Row, ...] = (
    Row(name="copy up 1,000 small files", layers=small_files, work=append_to_each),
    Row(name="copy up 256 MB", layers=big_file, work=append_to_big),
    Row(name="chown -R", layers=image, work=chown_tree),
    Row(name="chown -R, metacopy", layers=image, work=chown_tree, options=("metacopy=on",), relative_to="chown -R"),
)

if __name__ == "__main__":
    main(ROWS, "copyups")
