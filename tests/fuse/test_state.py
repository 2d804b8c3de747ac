"""Records of mounts: whole or not there, and believed only while their daemon lives."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from unionfs.fuse import state
from unionfs.fuse.state import Record, own_directory, read_all, started


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def own() -> Record:
    return Record(
        pid=os.getpid(),
        started=started(os.getpid()) or 0,
        mountpoint="/mnt/\udcff",
        device="0:1",
        engine="direct",
        lower=["/a", "/b"],
        data_only=[],
    )


def found(directory: Path) -> list[Record]:
    return [record for where, record in read_all() if where == directory]


@pytest.fixture
def directory(runtime: Path) -> Path:
    path = runtime / "unionfs"
    path.mkdir()
    return path


def test_what_is_written_is_read(directory: Path) -> None:
    own().write(directory)
    assert found(directory) == [own()]


def test_a_process_that_was_given_an_old_pid_is_not_the_daemon(directory: Path) -> None:
    own()._replace(started=own().started + 1).write(directory)
    assert found(directory) == []


def test_a_process_that_ended_is_not_alive() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert started(process.pid) is None, "its zombie is nobody"
    assert started(process.pid) is None


def test_a_daemon_that_ends_removes_what_killed_ones_left(directory: Path) -> None:
    with subprocess.Popen(["true"]) as killed:
        pass
    for name in (f"{os.getpid()}.json", f"{os.getpid()}.stats", f"{killed.pid}.json", f"{killed.pid}.new", "1.json"):
        (directory / name).touch()
    (directory / "other").touch()
    state.remove(directory, os.getpid())
    assert sorted(path.name for path in directory.iterdir()) == ["1.json", "other"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', json.dumps({"pid": "x", "started": [], "odd": 1})])
def test_what_is_malformed_is_passed_by(directory: Path, text: str) -> None:
    (directory / "1.json").write_text(text)
    own().write(directory)
    assert found(directory) == [own()]


@pytest.mark.root
def test_a_record_by_another_user_than_its_process_is_not_believed(directory: Path) -> None:
    """Else root would send signals to whatever process a user's file names."""
    os.chown(own().write(directory), 12345, 12345)
    assert found(directory) == []


@pytest.mark.root
def test_a_directory_that_somebody_else_prepared_is_not_used(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "_candidates", lambda: iter([directory]))
    assert own_directory() == directory
    os.chown(directory, 12345, 12345)
    assert own_directory() is None


def test_nobody_else_may_write_what_a_daemon_writes(directory: Path) -> None:
    """Its umask is that of whoever last made a file in the mount."""
    before = os.umask(0)
    try:
        path = own().write(directory)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644
