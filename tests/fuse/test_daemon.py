"""Going into the background: what the caller learns, whatever becomes of the child."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.mounting import PATIENCE_S, ROOT, eventually
from unionfs.errors import MountError
from unionfs.fuse import state
from unionfs.fuse.daemon import daemonize


def describe(exc: Exception) -> tuple[int, str]:
    return 7, f"said: {exc}\n"


def test_an_error_reaches_the_caller_with_its_status() -> None:
    def work(ready: Callable[[], None]) -> None:
        raise MountError("no\udcff " + "long " * 50_000)

    status, text = daemonize(work, describe)
    assert status == 7
    assert text.startswith("said: no\udcff long")
    assert len(text) > 250_000


def test_a_child_that_dies_is_an_error_that_says_of_what() -> None:
    def die(ready: Callable[[], None]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(MountError, match="signal SIGKILL"):
        daemonize(die, describe)

    def leave(ready: Callable[[], None]) -> None:
        os._exit(3)

    with pytest.raises(MountError, match="exit status 3"):
        daemonize(leave, describe)


def test_the_child_goes_on_after_it_is_ready_as_leader_of_its_own_session() -> None:
    reading, writing = os.pipe()

    def work(ready: Callable[[], None]) -> None:
        kept = os.dup(writing)
        ready()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        os.write(kept, f"{os.getsid(0) == os.getpid()} {os.getcwd()} {len(blocked)} blocked".encode())

    assert daemonize(work, describe) == (0, "")
    os.close(writing)
    said = b""
    while part := os.read(reading, 100):
        said += part
    os.close(reading)
    os.wait()
    assert said == b"True / 0 blocked"


def test_an_interrupted_caller_takes_the_child_with_him() -> None:
    code = (
        "import sys, time; from unionfs.fuse.daemon import daemonize; "
        "daemonize(lambda ready: (print(__import__('os').getpid(), flush=True), time.sleep(60)), None)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as caller:
        assert caller.stdout is not None
        child = int(caller.stdout.readline())
        caller.send_signal(signal.SIGINT)
        caller.wait(PATIENCE_S)
    eventually(lambda: state.started(child) is None)


def test_an_interrupt_right_after_the_fork_does_so_too() -> None:
    code = (
        "import os, signal, sys, time; from unionfs.fuse.daemon import daemonize\n"
        "fork, caller = os.fork, os.getpid()\n"
        "def interrupted():\n"
        "    pid = fork()\n"
        "    if pid:\n"
        "        print(pid, flush=True)\n"
        "        os.kill(caller, signal.SIGINT)\n"
        "    return pid\n"
        "os.fork = interrupted\n"
        "daemonize(lambda ready: time.sleep(60), None)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment, timeout=PATIENCE_S
    )
    assert "KeyboardInterrupt" in done.stderr
    child = int(done.stdout)
    eventually(lambda: state.started(child) is None)
