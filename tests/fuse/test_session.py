"""What a session does between its mount and trio."""

import gc
import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unionfs.core.config import AccessTimes, Config
from unionfs.core.mountoptions import MountOptions
from unionfs.core.union import Union
from unionfs.errors import MountError
from unionfs.fuse import session, state


def moments(
    monkeypatch: pytest.MonkeyPatch, asked: Iterable[int], pending: set[int], copying: Iterable[int] = ()
) -> int:
    """Return how many moments it waits while the engine counts *asked* requests, with signals *pending*.

    *copying* are the files that are being copied up, whenever that is asked for; then none.
    """
    waited: list[float] = []
    counts = iter(asked)
    engine: Any = SimpleNamespace(statistics=lambda: {"lookup": next(counts), "getattr": 0})
    jobs = itertools.chain(copying, itertools.repeat(0))
    union: Any = SimpleNamespace(stats=lambda: {"copying_up": next(jobs)})
    unused: Any = None
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setattr(signal, "sigpending", lambda: pending)
    served = session.Session(
        config=Config(lower=(Path("/"),)), options=MountOptions(), mountpoint=Path("/mnt"), log_file=None
    )
    session._Served(served, union, engine, unused, None)._let_work()
    return len(waited)


def test_trio_waits_for_the_first_moment_without_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    assert moments(monkeypatch, [5, 9, 9], set()) == 3


def test_trio_waits_until_a_file_is_copied_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert moments(monkeypatch, itertools.repeat(5), set(), copying=[1, 2]) == 4


def test_trio_waits_for_nobody_where_a_signal_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert moments(monkeypatch, itertools.count(), {signal.SIGTERM}) == 1


def test_trio_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 10 < moments(monkeypatch, itertools.count(), set()) < 1000


@pytest.mark.root
@pytest.mark.parametrize("kind", ["lower", "data", "upper", "work"])
def test_no_place_inside_a_layer_is_mounted_on(tmp_path: Path, kind: str) -> None:
    for name in ("lower", "data", "upper", "work"):
        (tmp_path / name / "inside").mkdir(parents=True)
        (tmp_path / f"{name}-beside").mkdir()
    layers: dict[str, Any] = {name: tmp_path / name for name in ("upper", "work")}
    layers |= {"lower": (tmp_path / "lower",), "data_only": (tmp_path / "data",)}
    config = Config(**layers)
    with Union(config) as union:
        with pytest.raises(MountError, match=f"inside the layer {tmp_path / kind},"):
            session.check_outside(tmp_path / kind / "inside", config, union.descriptors())
        session.check_outside(tmp_path / f"{kind}-beside", config, union.descriptors())
    with Union(Config(**layers, access_times=AccessTimes.RELATIME)) as union:  # through mounts of its own
        session.check_outside(tmp_path / kind / "inside", config, union.descriptors())


def test_a_process_that_is_about_to_serve_is_not_ended_by_who_asks_for_counts(project: Path) -> None:
    """Nor does it take bits from the modes that it is asked for."""
    code = (
        "import os, signal; from unionfs.fuse.session import prepare\n"
        "os.umask(0o77); prepare(); os.kill(os.getpid(), signal.SIGUSR1); print('alive', os.umask(0))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=project)
    assert (done.returncode, done.stdout) == (0, "alive 0\n")


def test_who_serves_looks_for_garbage_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What starts a mount does not; see `unionfs.cli.start`."""
    engine: Any = SimpleNamespace(start=lambda: True)
    unused: Any = None
    served = session._Served(unused, unused, engine, unused, None)
    monkeypatch.setattr(gc, "freeze", lambda: None)  # what this process has is no mount's
    gc.disable()
    try:
        served.start()
        assert gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize(("upper", "read_only", "stays"), [
    ("upper", False, True),
    ("lower", False, True),
    ("data", False, True),
    ("work", False, False),
    ("upper", True, False),
])  # fmt: skip
def test_whose_layers_are_in_use_by_a_mount_that_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upper: str, read_only: bool, stays: bool
) -> None:
    """A union that is mounted read-only writes to none, so somebody else has the lock, and may be about to end."""
    record: Any = SimpleNamespace(upper=str(tmp_path / upper), read_only=read_only)
    monkeypatch.setattr(state, "read_all", lambda: [(tmp_path, record)])
    monkeypatch.setattr(session, "_is_in_its_tree", lambda _record: True)
    config = Config(
        lower=(tmp_path / "lower",), data_only=(tmp_path / "data",), upper=tmp_path / "upper", work=tmp_path / "work"
    )
    assert session._is_mounted(config) is stays
