"""From the command to the mount and back: when it returns, what it leaves, how it ends."""

import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.mounting import PATIENCE_S, ROOT, Stack, eventually
from unionfs.fuse import state
from unionfs.fuse.session import TABLE_SIZE
from unionfs.linux.mount import MNT_DETACH, mount, umount

pytestmark = [pytest.mark.root, pytest.mark.fuse]


def is_running(pid: int) -> bool:
    return state.started(pid) is not None


def close_though_its_mount_is_gone(fd: int) -> None:
    with suppress(OSError):
        os.close(fd)


def test_the_mount_answers_when_the_command_returns(stack: Stack) -> None:
    stack.mount()
    assert sorted(os.listdir(stack.merged)) == ["base", "directory", "top"]
    assert (stack / "base").read_text() == "base\n"


def test_changes_go_to_the_upper_and_outlive_the_mount(stack: Stack) -> None:
    stack.mount()
    (stack / "new").write_text("new\n")
    (stack / "base").unlink()
    stack.unmount()
    assert (stack.upper / "new").read_text() == "new\n"
    assert (stack.base / "base").read_text() == "base\n"
    stack.mount()
    assert sorted(os.listdir(stack.merged)) == ["directory", "new", "top"]
    assert stack.logged() == ""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_is_no_reason_to_fail(dirs: Stack, closed: str) -> None:
    command = shlex.join(dirs.command("mount", *dirs.arguments, dirs.merged))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **dirs.environment}
    assert subprocess.run(["sh", "-c", f"{command} {closed}"], check=False, timeout=60, env=environment).returncode == 0
    assert dirs.is_mounted()
    assert (dirs / "base").read_text() == "base\n"


def test_the_program_itself_may_be_covered_by_its_mount(dirs: Stack) -> None:
    """What it takes to serve is imported before: nobody would answer who reads it from there."""
    code = dirs.directory / "code" / "unionfs"
    shutil.copytree(ROOT / "unionfs", code)
    command = [sys.executable, "-m", "unionfs", "mount", *dirs.arguments, "--lower", str(code), str(code)]
    environment = {**os.environ, "PYTHONPATH": str(code.parent), **dirs.environment}
    try:
        done = subprocess.run(command, check=False, timeout=PATIENCE_S, env=environment, cwd=code.parent)
        assert done.returncode == 0
        assert {"cli", "top"} <= set(os.listdir(code))
        assert dirs.run("umount", code).returncode == 0
    finally:
        with suppress(OSError):
            umount(str(code), MNT_DETACH)


def test_umount_returns_when_the_daemon_is_gone(stack: Stack) -> None:
    stack.mount()
    pid = stack.pid
    stack.unmount()
    assert not stack.is_mounted()
    assert not is_running(pid)


def test_the_daemon_holds_nothing_of_its_caller(stack: Stack) -> None:
    """It neither keeps his pipes open, for then whoever waits for their end waits for ever, nor his directory."""
    reading, writing = os.pipe()
    command = stack.command("mount", *stack.arguments, stack.merged)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **stack.environment}
    caller = subprocess.Popen(
        command, stdin=writing, stdout=writing, stderr=writing, pass_fds=[writing], cwd=stack.top, env=environment
    )
    os.close(writing)
    assert caller.wait(PATIENCE_S) == 0
    assert os.read(reading, 1) == b""
    os.close(reading)
    daemon = Path(f"/proc/{stack.pid}")
    assert os.readlink(daemon / "cwd") == "/"
    assert {os.readlink(daemon / "fd" / fd) for fd in "012"} == {"/dev/null"}
    assert os.getsid(stack.pid) == stack.pid


def test_the_table_of_descriptors_need_not_grow(stack: Stack) -> None:
    stack.mount()
    status = Path(f"/proc/{stack.pid}/status").read_text()
    room = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("FDSize"))
    assert room >= min(TABLE_SIZE, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unmounts_and_ends(stack: Stack, number: signal.Signals) -> None:
    stack.mount()
    (stack / "written").write_text("before the end")
    pid = stack.pid
    os.kill(pid, number)
    eventually(lambda: not is_running(pid))
    assert not stack.is_mounted()
    assert (stack.upper / "written").read_text() == "before the end"
    assert stack.logged() == ""


def test_a_signal_ends_it_though_files_are_open(stack: Stack) -> None:
    stack.mount()
    pid = stack.pid
    fd = os.open(stack / "base", os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"written")
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not is_running(pid))
    close_though_its_mount_is_gone(fd)
    assert not stack.is_mounted()
    assert (stack.upper / "base").read_text() == "base\nwritten"


def test_in_the_foreground_it_stays_until_it_is_unmounted(stack: Stack) -> None:
    command = stack.command("mount", "-f", *stack.arguments, stack.merged)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        eventually(stack.is_mounted)
        assert (stack / "top").read_text() == "top\n"
        assert stack.pid == process.pid
        umount(str(stack.merged))
        _, said = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, said) == (0, "")


def test_sigusr1_prints_counts(stack: Stack) -> None:
    command = stack.command("mount", "-f", *stack.arguments, stack.merged)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        eventually(stack.is_mounted)
        with (stack / "top").open():  # so that the kernel does not forget it, however short of memory it is
            eventually(lambda: bool(stack.record()["pid"]))
            process.send_signal(signal.SIGUSR1)
            assert process.stderr is not None
            counts = json.loads(process.stderr.readline())
        process.terminate()
        process.wait(PATIENCE_S)
    assert counts["union"]["nodes"] >= 2
    assert counts["requests"]["lookup"] >= 1


@pytest.mark.parametrize("older", [False, True])
def test_a_daemon_that_outlived_its_mount_is_not_taken_for_that_of_another(stack: Stack, *, older: bool) -> None:
    """Neither a younger one of another place, nor an older one of this."""
    stack.mount()
    pid, device = stack.pid, os.stat(stack.merged).st_dev
    directory = state.own_directory()
    assert directory is not None
    with subprocess.Popen(["sleep", "60"]) as other:
        gone_pid = 1 if older else other.pid
        gone = state.Record(
            pid=gone_pid,
            started=state.started(gone_pid) or 0,
            mountpoint=str(stack.merged) if older else "/elsewhere",
            device=f"{os.major(device)}:{os.minor(device)}",
            engine="direct",
            lower=[],
        )
        record = gone.write(directory)
        shown = stack.pid
        record.unlink()
        other.kill()
    assert shown == pid


def test_statistics_can_be_asked_for(stack: Stack) -> None:
    stack.mount()
    (stack / "base").write_text("copied up")
    found = json.loads(stack.run("mounts", "--json", "--stats", stack.merged).stdout)
    assert found[0]["stats"]["union"]["copy_ups"] == 1


def test_the_keys_of_mounts_are_stable(stack: Stack) -> None:
    """Those of a mount without a record, too, which is all that is left of a daemon that was killed."""
    stack.mount("--no-supervise")
    live = stack.record().keys()
    os.kill(stack.pid, signal.SIGKILL)
    eventually(lambda: stack.record()["state"] == "dead")
    assert live == stack.record().keys() == {
        "mountpoint", "source", "type", "state", "pid", "engine", "lower", "data_only", "upper", "work", "read_only",
        "log", "supervisor", "restarts",
    }  # fmt: skip


UNMOUNTERS: dict[str, Callable[[str], object]] = {
    "umount(2)": umount,
    "umount(2), detached": lambda place: umount(place, MNT_DETACH),
    "fusermount3": lambda place: subprocess.run(["fusermount3", "-u", place], check=True),
}


@pytest.mark.parametrize("how", UNMOUNTERS)
def test_it_can_be_mounted_again_and_again_in_quick_succession(stack: Stack, how: str) -> None:
    """Container engines do not wait for the old daemon, which may still be on its way out."""
    for turn in range(4):
        stack.mount_overlay()
        (stack / f"turn-{turn}").write_text("")
        UNMOUNTERS[how](str(stack.merged))
    stack.mount_overlay()
    assert {f"turn-{turn}" for turn in range(4)} <= set(os.listdir(stack.merged))
    assert stack.logged() == ""


def test_an_old_daemon_does_not_unmount_its_successor(stack: Stack) -> None:
    """Detached while a file is open, it lives on; when it ends, the mount on its old place is another's."""
    stack.mount()
    old = stack.pid
    fd = os.open(stack / "top", os.O_RDONLY)
    umount(str(stack.merged), MNT_DETACH)
    done = stack.run("mount", "--lower", stack.base, "--engine", stack.engine, stack.merged)
    assert done.returncode == 0
    os.kill(old, signal.SIGTERM)
    eventually(lambda: not is_running(old))
    close_though_its_mount_is_gone(fd)
    assert stack.is_mounted()
    assert (stack / "base").read_text() == "base\n"


def test_the_upper_of_a_live_mount_is_refused(stack: Stack, tmp_path: Path) -> None:
    stack.mount()
    (tmp_path / "elsewhere").mkdir()
    started = time.monotonic()
    done = stack.run("mount", *stack.arguments, tmp_path / "elsewhere")
    assert time.monotonic() - started < PATIENCE_S / 2, "it waited for a mount that stays"
    assert done.returncode == 1
    assert "is in use by another union" in done.stderr
    assert not os.path.ismount(tmp_path / "elsewhere")


def test_a_killed_daemon_leaves_a_mount_that_says_so_and_can_be_replaced(stack: Stack) -> None:
    stack.mount("--no-supervise")
    (stack / "kept").write_text("kept")
    pid = stack.pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not is_running(pid))
    with pytest.raises(OSError, match=r"not connected|connection abort"):
        os.listdir(stack.merged)
    assert stack.record()["state"] == "dead"

    refused = stack.run("mount", *stack.arguments, stack.merged)
    assert refused.returncode == 1
    assert f"try: unionfs umount {stack.merged}" in refused.stderr

    stack.unmount()
    stack.mount()
    assert (stack / "kept").read_text() == "kept"
    assert list((stack.work / "work").iterdir()) == []


def test_a_daemon_that_does_not_answer_keeps_nobody_waiting_who_lists_or_unmounts(dirs: Stack) -> None:
    """The kernel is told to keep nothing, so that every question about the place is the daemon's to answer."""
    stack = dirs
    stack.mount("-o", "timeout=0")
    pid = stack.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        assert stack.record()["state"] == "not answering"
        refused = stack.run("mount", "--lower", stack.base, stack.merged)
        assert refused.returncode == 1
        assert f"does not answer is there; try: unionfs umount --lazy {stack.merged}" in refused.stderr
        assert stack.run("umount", "--lazy", stack.merged).returncode == 0
        assert not stack.is_mounted()
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: not is_running(pid))


def test_a_busy_mount_is_not_unmounted_unless_lazily(stack: Stack) -> None:
    stack.mount()
    with (stack / "top").open() as file:
        refused = stack.run("umount", stack.merged)
        assert refused.returncode == 1
        assert f"try: unionfs umount --lazy {stack.merged}" in refused.stderr
        assert stack.is_mounted()
        assert stack.run("umount", "--lazy", stack.merged).returncode == 0
        assert not stack.is_mounted()
        assert file.read() == "top\n"


def test_a_symlink_to_the_mountpoint_does_as_well(stack: Stack) -> None:
    link = stack.directory / "link"
    link.symlink_to(stack.merged)
    done = stack.run("mount", *stack.arguments, link)
    assert (done.returncode, done.stderr) == (0, "")
    assert stack.record()["mountpoint"] == str(stack.merged)
    assert stack.run("umount", link).returncode == 0
    assert not stack.is_mounted()


def test_a_mount_that_another_one_covers_is_left_alone(stack: Stack) -> None:
    """Also where that one has got the number of a union which is gone, while its daemon is still on its way out."""
    stack.mount()
    mount("tmpfs", str(stack.merged), "tmpfs", 0, "size=64k")
    device = os.stat(stack.merged).st_dev
    leaving = state.Record(
        pid=os.getpid(),
        started=state.started(os.getpid()) or 0,
        mountpoint="/elsewhere",
        device=f"{os.major(device)}:{os.minor(device)}",
        engine=stack.engine,
        lower=[],
    )
    directory = stack.directory / "runtime" / "unionfs"
    directory.mkdir(exist_ok=True)
    leaving.write(directory)
    done = stack.run("umount", stack.merged)
    assert done.returncode == 1
    assert "another mount covers it" in done.stderr
    umount(str(stack.merged))
    assert (stack / "top").read_text() == "top\n"


def test_nothing_is_left_in_the_runtime_directory(stack: Stack) -> None:
    stack.mount()
    lives_by = stack.record()["supervisor"] or stack.pid
    assert list(Path("/run/unionfs").glob(f"{lives_by}.*"))
    stack.unmount()
    assert not list(Path("/run/unionfs").glob(f"{lives_by}.*"))


def test_a_mount_in_place_of_its_own_layer(stack: Stack) -> None:
    """As with the kernel's overlayfs: the layer was opened before, so it is reached below the mount."""
    shutil.copytree(stack.base, stack.merged, dirs_exist_ok=True)
    layers = ["--lower", stack.merged, "--upper", stack.upper, "--work", stack.work, "--engine", stack.engine]
    assert stack.run("mount", *layers, stack.merged).returncode == 0
    (stack / "base").write_text("changed")
    assert (stack / "base").read_text() == "changed"
    stack.unmount()
    assert (stack.merged / "base").read_text() == "base\n"


def test_the_mountpoint_and_another_file_system_may_be_in_a_layer(stack: Stack) -> None:
    """As with the kernel's overlayfs: a layer is seen without what is mounted in it, so even / can be one."""
    inside, other = stack.base / "directory", stack.base / "other"
    other.mkdir()
    mount("tmpfs", str(other), "tmpfs", 0, "size=1m")
    try:
        for name in ("upper", "work"):
            (other / name).mkdir()
        layers = ["--lower", stack.base, "--upper", other / "upper", "--work", other / "work"]
        done = stack.run("mount", *layers, "--engine", stack.engine, inside)
        assert (done.returncode, done.stderr) == (0, "")
        assert sorted(os.listdir(inside)) == ["base", "directory", "other"]
        assert os.listdir(inside / "directory") == os.listdir(inside / "other") == []
        (inside / "other/new").touch()
        assert stack.run("umount", inside).returncode == 0
        assert os.listdir(other / "upper/other") == ["new"]
    finally:
        umount(str(other))
