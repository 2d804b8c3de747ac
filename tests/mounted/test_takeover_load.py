"""Servers are killed under load: nothing fails, nothing is lost.

Short in CI; ``make conformance`` kills twenty times during one untar and during one build of a program in C.
"""

import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.mounting import Stack
from tests.profile import LONG

pytestmark = pytest.mark.fuse

KILLS = 20 if LONG else 4
FILES = 12_000 if LONG else 4000
UNITS = 120 if LONG else 48


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    result = Stack(tmp_path, engine="direct")
    yield result
    result.end()


def outlives(stack: Stack, command: list[str], ends: Sequence[str]) -> None:
    """Run *command*, while one server after the other meets its end: a kill or a restart."""
    errors = stack.directory / "errors"
    with errors.open("wb") as file:
        running = subprocess.Popen(command, stdout=file, stderr=file, cwd=stack.merged)
        for number, end in enumerate(ends):
            time.sleep(0.02 + 0.03 * (number % 5))
            server = stack.server().pid
            assert running.poll() is None, "it was done too soon"
            if end == "restart":
                assert stack.run("restart", stack.merged).returncode == 0
            else:
                os.kill(server, signal.SIGKILL)
        assert (running.wait(600), errors.read_text()) == (0, "")
    assert stack.server().restarts == len(ends)


def same(one: Path, other: Path) -> None:
    done = subprocess.run(["diff", "-r", "--no-dereference", one, other], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def archive(directory: Path) -> Path:
    """Return a tar of some thousand files in as many sizes, links of both kinds among them."""
    source = directory / "source"
    for number in range(FILES):
        above = source / f"{number % 97}" / f"{number % 11}"
        above.mkdir(parents=True, exist_ok=True)
        path = above / f"file {number}"
        match number % 20:
            case 0:
                path.symlink_to(f"file {number + 1}")
            case 1:
                (above / f"first {number}").write_bytes(b"linked")
                path.hardlink_to(above / f"first {number}")
            case _:
                path.write_bytes(f"{number}".encode() * (number % 3000))
    with tarfile.open(directory / "archive.tar", "w") as tar:
        tar.add(source, "source")
    return directory / "archive.tar"


@pytest.mark.parametrize("ends", [["kill"] * KILLS, ["kill", "restart"]], ids=["killed", "restarted"])
def test_untar(stack: Stack, ends: list[str]) -> None:
    tar = archive(stack.directory)
    stack.mount()
    outlives(stack, ["tar", "xf", str(tar)], ends)
    same(stack.directory / "source", stack / "source")
    stack.unmount()
    same(stack.directory / "source", stack.upper / "source")
    assert os.listdir(stack.work / "work") == []


def program(directory: Path) -> None:
    """Write a program in C with a makefile; many units, each with a header of its own."""
    directory.mkdir()
    objects = " ".join(f"u{number}.o" for number in range(UNITS))
    (directory / "makefile").write_text(
        f"program: main.o {objects}\n\t$(CC) -o $@ $^\n\n%.o: %.c\n\t$(CC) -c -o $@.tmp $<\n\tmv $@.tmp $@\n"
    )
    for number in range(UNITS):
        (directory / f"u{number}.h").write_text(f"int u{number}(int);\n")
        (directory / f"u{number}.c").write_text(
            f'#include "u{number}.h"\n#include <stdio.h>\n#include <string.h>\n'
            f"int u{number}(int n) {{ return n + {number}; }}\n"
        )
    declared = "".join(f'#include "u{number}.h"\n' for number in range(UNITS))
    total = " + ".join(f"u{number}(1)" for number in range(UNITS))
    (directory / "main.c").write_text(
        f'#include <stdio.h>\n{declared}int main(void) {{ printf("%d\\n", {total}); return 0; }}\n'
    )


@pytest.mark.skipif(shutil.which("gcc") is None or shutil.which("make") is None, reason="needs gcc and make")
def test_build(stack: Stack) -> None:
    program(stack.base / "program")
    shutil.copytree(stack.base / "program", stack.directory / "beside")
    make = ["make", "-s", "-j2", "CC=gcc -frandom-seed=1", "-C"]
    subprocess.run([*make, stack.directory / "beside"], check=True)
    stack.mount()
    outlives(stack, [*make, "program"], ["kill"] * KILLS)
    assert int(subprocess.check_output([stack / "program" / "program"])) == sum(range(UNITS)) + UNITS
    same(stack.directory / "beside", stack / "program")
    stack.unmount()
    stack.mount()
    same(stack.directory / "beside", stack / "program")
