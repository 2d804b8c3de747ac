"""The nets that every test runs over do catch: pytest is run on planted tests that fall into each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def outcome(project: Path, tmp_path: Path) -> Path:
    return tmp_path / "test_planted.py"


def run(project: Path, test: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", project / "pyproject.toml", test],
        cwd=project,
        env={**os.environ, "CI": "false", "TMPDIR": str(test.parent), **environment},
        check=False,
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


CAUGHT = {
    "a warning in the log": (
        "import logging\ndef test_planted() -> None:\n    logging.getLogger('x').warning('boo')",
        "logged unexpectedly",
    ),
    "a warning that never came": (
        "import pytest\n@pytest.mark.logs('boo')\ndef test_planted() -> None:\n    pass",
        "expected in the log and not there",
    ),
    "a Python warning": (
        "import warnings\ndef test_planted() -> None:\n    warnings.warn('boo')",
        "UserWarning: boo",
    ),
    "a process left running": (
        "import subprocess\ndef test_planted() -> None:\n    subprocess.Popen('sleep 60 & echo', shell=True).wait()",
        "still running: ",
    ),
    "a temporary directory left": (
        "import tempfile\ndef test_planted() -> None:\n    tempfile.mkdtemp()",
        "temporary file left: ",
    ),
}


@pytest.mark.parametrize("what", CAUGHT)
@pytest.mark.slow
def test_it_is_caught(project: Path, outcome: Path, what: str) -> None:
    source, message = CAUGHT[what]
    outcome.write_text(source, encoding="utf-8")
    assert message in run(project, outcome)


@pytest.mark.root
def test_a_mount_left_behind_is_caught_and_undone(project: Path, outcome: Path) -> None:
    outcome.write_text(
        "import subprocess\ndef test_planted(tmp_path) -> None:\n"
        "    subprocess.run(['mount', '-t', 'tmpfs', 'planted', tmp_path], check=True)",
        encoding="utf-8",
    )
    output = run(project, outcome)
    point = output.split("still mounted: ")[1].split()[0]
    assert point not in Path("/proc/self/mountinfo").read_text(encoding="utf-8")


@pytest.mark.root
@pytest.mark.fuse
def test_a_test_that_waits_for_a_silent_daemon_is_let_go_of(project: Path, outcome: Path) -> None:
    """It takes no signal: nobody answers what nobody can take back."""
    outcome.write_text(
        "import os, pytest\nfrom unionfs.linux.mount import mount, umount\n"
        "@pytest.fixture\ndef place(tmp_path):\n"
        "    fd = os.open('/dev/fuse', os.O_RDWR)\n"
        "    mount('x', str(tmp_path), 'fuse', 0, f'fd={fd},rootmode=40000,user_id=0,group_id=0')\n"
        "    os.read(fd, 1 << 20)\n"
        "    yield tmp_path\n"
        "    umount(str(tmp_path))\n"
        "def test_planted(place) -> None:\n    os.statvfs(place)\n",
        encoding="utf-8",
    )
    output = run(project, outcome, PYTEST_ADDOPTS="--timeout 1")
    assert "1 failed" in output
    assert "still mounted" not in output


def test_an_announced_warning_is_no_failure(project: Path, outcome: Path) -> None:
    outcome.write_text(
        "import logging, pytest\n@pytest.mark.logs('b.o')\ndef test_planted() -> None:\n    logging.warning('boo')",
        encoding="utf-8",
    )
    assert "1 passed" in run(project, outcome)


@pytest.mark.parametrize(("ci", "verdict"), [("false", "1 skipped"), ("true", "1 failed")])
def test_a_skip_is_a_failure_in_ci(project: Path, outcome: Path, ci: str, verdict: str) -> None:
    outcome.write_text("import pytest\ndef test_planted() -> None:\n    pytest.skip('not here')", encoding="utf-8")
    output = run(project, outcome, CI=ci)
    assert verdict in output
    assert "not here" in output
