"""The front door: what is imported when, and what is said to whom."""

import os
import subprocess
import sys

import pytest

from tests.mounting import ROOT
from unionfs.cli.exitcodes import REPORTED, Exit, describe, status_of
from unionfs.cli.main import COMMANDS, main, usage
from unionfs.errors import ConfigError, ReadOnlyUnion, StackError
from unionfs.oci.images import Images


def imported_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_the_front_door_opens_without_what_a_mount_needs() -> None:
    slow = {"trio", "pyfuse3", "asyncio", "httpx", "unionfs.core.union", "unionfs.oci", "unionfs.fuse.session"}
    assert not slow & imported_by("import unionfs.cli.main")


def test_a_mount_is_made_without_the_code_generator_of_dataclasses() -> None:
    """With the classes that it would make here it took 20 of 80 ms."""
    started = "unionfs.cli.overlay, unionfs.fuse.daemon, unionfs.fuse.supervisor, unionfs.fuse.session"
    served = (
        "unionfs.core.union, unionfs.fuse.direct, unionfs.fuse.takeover, unionfs.fuse.noting, unionfs.fuse.settings"
    )
    assert not {"dataclasses", "encodings.ascii", "inspect", "trio", "argparse"} & imported_by(
        f"import {started}, {served}"
    )


def test_options_are_refused_before_the_engines_are_imported() -> None:
    statement = "from unionfs.cli.main import main; main(['mount', '--lower', 'x', '-o', 'index=5', 'y'])"
    assert not {"trio", "pyfuse3"} & imported_by(statement)


def test_without_a_command_it_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == Exit.USAGE
    assert capsys.readouterr().err == usage()
    assert main(["--help"]) == Exit.OK
    assert capsys.readouterr().out == usage()
    assert all(name in usage() for name in COMMANDS)


def test_a_bug_shows_its_traceback_and_a_mistake_one_line() -> None:
    bug = KeyError("planted")
    assert status_of(bug) is None
    assert describe(bug) == (Exit.FAILED, "KeyError: 'planted'\n")
    assert describe(ConfigError("a; because b; try: c")) == (Exit.USAGE, "unionfs: error: a; because b; try: c\n")
    assert describe(StackError("line\nbreak"))[1].count("\n") == 1


@pytest.mark.parametrize("command", ["--help", "images", "images --json", "save app:1", "export app:1"])
def test_whoever_stops_reading_hears_no_complaint(app: str, images: Images, command: str) -> None:
    """As in ``unionfs find IMAGE | head -1``: the status is what a shell expects of SIGPIPE."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as closed:
        argv = [sys.executable, "-m", "unionfs", *command.split()]
        done = subprocess.run(argv, check=False, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stderr) == (141, "")


def test_the_first_match_counts() -> None:
    assert status_of(ReadOnlyUnion()) is Exit.FAILED
    kinds = list(REPORTED)
    assert all(not issubclass(later, kinds[at]) for at in range(len(kinds)) for later in kinds[at + 1 :])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    assert f"usage: unionfs {name}" in capsys.readouterr().out
