"""What starts and ends together with a supervised mount, and what does not begin at all."""

import os
import resource
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mounting import PATIENCE_S, ROOT, Stack, eventually
from unionfs.fuse import state
from unionfs.fuse.takeover import control_socket

pytestmark = pytest.mark.fuse


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    for above in (tmp_path, tmp_path.parent):
        above.chmod(0o755)
    result = Stack(tmp_path, engine="direct")
    yield result
    result.end()


def processes(stack: Stack) -> tuple[int, int]:
    """Return the supervisor and the server."""
    record = stack.server()
    assert record.supervisor is not None
    return record.supervisor, record.pid


def are_gone(*pids: int) -> bool:
    return all(state.started(pid) is None for pid in pids)


def leftovers(stack: Stack) -> list[str]:
    """Return what is left in the directories of records of *stack*'s mount."""
    return [
        str(path)
        for directory in state.directories()
        for path in directory.iterdir()
        if path.suffix in {".json", ".sock", ".new"}
        and (path.suffix != ".json" or str(stack.merged) in path.read_text())
        if path.suffix == ".json" or state.started(int(path.name.partition(".")[0])) is None
    ]


@pytest.mark.parametrize(
    ("how", "kills"), [("unionfs", 0), ("unionfs", 1), ("umount", 1), ("lazily", 0), ("server", 1), ("supervisor", 0)]
)
def test_both_end_with_the_mount(stack: Stack, how: str, kills: int) -> None:
    stack.mount()
    supervisor, server = processes(stack)
    for _ in range(kills):
        os.kill(server, signal.SIGKILL)
        eventually(lambda: stack.server().restarts == kills)
        _, server = processes(stack)
    match how:
        case "unionfs":
            stack.unmount()
            assert are_gone(supervisor, server)
        case "umount":
            subprocess.run(["umount", stack.merged], check=True)
        case "lazily":
            with (stack / "base").open():
                subprocess.run(["umount", "--lazy", stack.merged], check=True)
                assert not are_gone(supervisor)
        case "server":
            os.kill(server, signal.SIGTERM)
        case "supervisor":
            os.kill(supervisor, signal.SIGTERM)
    eventually(lambda: are_gone(supervisor, server))
    assert not stack.is_mounted()
    assert leftovers(stack) == []
    assert "ERROR" not in stack.logged().replace(f"the server {server} has died", "") or kills
    stack.mount()  # the layers are free


@contextmanager
def few_descriptors() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_both_are_fit_for_it(stack: Stack) -> None:
    """They hold nothing of their caller, not even his limit; only root and their user may ask for a restart."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with few_descriptors():
        stack.mount()
    supervisor, server = processes(stack)
    os.kill(server, signal.SIGKILL)
    eventually(lambda: stack.server().restarts == 1)
    server = stack.server().pid
    assert [os.readlink(f"/proc/{pid}/cwd") for pid in (supervisor, server)] == ["/", "/"]
    assert os.getsid(server) == server
    for pid in (supervisor, server):
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (most, most)
    directory = state.own_directory()
    assert directory is not None
    assert stat.S_IMODE(os.stat(control_socket(directory, supervisor)).st_mode) == 0o600


def mount_fragile(stack: Stack) -> None:
    """Mount so that every interpreter of the mount dies at once where there is a file ``now``."""
    broken = stack.directory / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        f"import os, sys\nif os.path.exists({str(stack.directory / 'now')!r}): os._exit(9)\n"
    )
    stack.environment["PYTHONPATH"] = f"{broken}:{Path(__file__).parents[2]}"
    stack.mount()


def test_a_crash_loop_ends(stack: Stack) -> None:
    """As many servers as are tried die at once; then the mount is as dead as any whose daemon died."""
    mount_fragile(stack)
    supervisor, server = processes(stack)
    (stack.directory / "now").touch()
    os.kill(server, signal.SIGKILL)
    eventually(lambda: are_gone(supervisor, server))
    with pytest.raises(OSError, match=r"not connected|connection abort"):
        os.stat(stack / "base")
    assert stack.logged().count("has died before it could take over (9)") == 5
    assert "servers die again and again" in stack.logged()
    (stack.directory / "now").unlink()
    stack.unmount()


def test_a_new_version_that_does_not_start_changes_nothing(stack: Stack) -> None:
    mount_fragile(stack)
    before = processes(stack)
    del stack.environment["PYTHONPATH"]
    (stack.directory / "now").touch()
    done = stack.run("restart", stack.merged)
    assert done.returncode == 1
    assert done.stderr == (
        f"unionfs: error: {stack.merged}: it was not restarted; because the new server does not start "
        "(status 9, see the log); the old server goes on\n"
    )
    assert processes(stack) == before
    assert (stack / "base").read_text() == "base\n"
    (stack.directory / "now").unlink()
    assert stack.run("restart", stack.merged).returncode == 0


@pytest.mark.root
def test_auto_unmount_waits_for_the_supervisor(stack: Stack) -> None:
    stack.mount("-o", "auto_unmount")
    supervisor, server = processes(stack)
    os.kill(server, signal.SIGKILL)
    eventually(lambda: stack.server().restarts == 1)
    assert (stack / "base").read_text() == "base\n"
    os.kill(supervisor, signal.SIGKILL)
    os.kill(stack.server().pid, signal.SIGKILL)
    eventually(lambda: not stack.is_mounted())


def test_without_its_supervisor_the_server_goes_on(stack: Stack) -> None:
    stack.mount()
    supervisor, server = processes(stack)
    os.kill(supervisor, signal.SIGKILL)
    eventually(lambda: stack.server().supervisor is None)
    assert stack.server().pid == server
    assert (stack / "base").read_text() == "base\n"
    assert "the supervisor has died" in stack.logged()
    stack.unmount()
    assert leftovers(stack) == []


def test_a_layer_stays_locked(stack: Stack) -> None:
    stack.mount()
    os.kill(processes(stack)[1], signal.SIGKILL)
    other = stack.directory / "other"
    other.mkdir()
    done = stack.run("mount", *stack.arguments, other)
    assert (done.returncode, "in use" in done.stderr) == (1, True), done.stderr


def test_what_cannot_be_supervised_says_so(stack: Stack) -> None:
    done = stack.run("mount", *stack.arguments, "--supervise", "--engine", "pyfuse3", stack.merged)
    why = "pyfuse3 cannot take over a mount that it did not make"
    assert (done.returncode, done.stderr) == (1, f"unionfs: error: the mount cannot be supervised; because {why}\n")
    assert not stack.is_mounted()


@pytest.mark.parametrize("words", [["--engine", "pyfuse3"], ["--no-supervise"], ["-o", "supervise=off"]])
def test_a_mount_has_no_supervisor_that_cannot_or_shall_not(stack: Stack, words: list[str]) -> None:
    stack.mount(*words)
    server = stack.server()
    assert server.supervisor is None
    os.kill(server.pid, signal.SIGKILL)
    eventually(lambda: stack.record()["state"] == "dead")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--engine", "pyfuse3"], "pyfuse3 cannot take over a mount that it did not make"),
        (["--no-supervise"], "nobody supervises it; try: unmount, then mount in the background, without supervise=off"),
    ],
)
def test_what_cannot_be_restarted_says_so(stack: Stack, words: list[str], why: str) -> None:
    stack.mount(*words)
    done = stack.run("restart", stack.merged)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"unionfs: error: {stack.merged}: it cannot be restarted; because {why}\n"


def test_in_the_foreground_a_mount_is_supervised_if_that_is_asked_for(stack: Stack) -> None:
    command = stack.command("mount", *stack.arguments, "--foreground", "--supervise", stack.merged)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **stack.environment}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        eventually(lambda: stack.is_mounted() and stack.record()["state"] == "live")
        supervisor, server = processes(stack)
        assert supervisor == process.pid
        os.kill(server, signal.SIGKILL)
        eventually(lambda: stack.server().restarts == 1)
        assert (stack / "base").read_text() == "base\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert f"the server {server} has died (-9); another one takes over" in said
    assert not stack.is_mounted()
    assert leftovers(stack) == []


def test_in_the_foreground_a_supervised_mount_says_why_it_cannot_be(stack: Stack) -> None:
    done = stack.run("mount", "-f", "--supervise", "--lower", stack.base, stack.directory / "absent")
    assert (done.returncode, "there is no such directory to mount on" in done.stderr) == (1, True), done.stderr


def test_only_mounts_are_restarted(stack: Stack) -> None:
    done = stack.run("restart", stack.merged)
    assert done.returncode == 1
    assert done.stderr == f"unionfs: error: {stack.merged}: no unionfs is mounted there; try: unionfs mounts\n"
