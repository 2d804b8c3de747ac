"""The log of daemons: made when it is needed, shared, and never larger than two limits."""

import logging
from pathlib import Path

import pytest

from unionfs.fuse import logfile
from unionfs.fuse.logfile import LogFile, place


@pytest.fixture
def log(tmp_path: Path) -> logging.Logger:
    logger = logging.Logger("test")  # not in the tree of loggers: it ends with the test
    logger.addHandler(LogFile(tmp_path / "new" / "log"))
    return logger


def test_a_daemon_with_nothing_to_say_leaves_nothing(log: logging.Logger, tmp_path: Path) -> None:
    assert log.handlers
    assert list(tmp_path.iterdir()) == []


def test_each_line_is_there_at_once_and_readable_by_nobody_else(log: logging.Logger, tmp_path: Path) -> None:
    log.error("first \udcff")
    log.error("second")
    file = tmp_path / "new" / "log"
    assert file.read_text() == "first \\udcff\nsecond\n"
    assert file.stat().st_mode & 0o777 == 0o600


def test_at_its_limit_the_file_becomes_the_old_one(
    log: logging.Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logfile, "LIMIT", 10)
    for line in ("one", "a long line", "two"):
        log.error(line)
    assert (tmp_path / "new" / "log.old").read_text() == "one\na long line\n"
    assert (tmp_path / "new" / "log").read_text() == "two\n"


def test_a_symlink_in_its_place_is_not_followed(log: logging.Logger, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "victim").write_text("")
    (tmp_path / "new" / "log").symlink_to("../victim")
    log.error("lost")
    assert (tmp_path / "victim").read_text() == ""


def test_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIONFS_LOG", "/chosen")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert place() == Path("/chosen")
    monkeypatch.delenv("UNIONFS_LOG")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert place() == Path("/state/unionfs/unionfs.log")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert place() == Path("/var/log/unionfs.log")
