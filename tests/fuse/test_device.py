"""The two ways to a mount: mount(2), and fusermount3 for users and for what must outlive the daemon."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounting import Stack, eventually
from unionfs.core.mountoptions import MountOptions
from unionfs.errors import MountError
from unionfs.fuse import fusermount
from unionfs.fuse.device import Device
from unionfs.linux.mount import mounts

pytestmark = pytest.mark.fuse


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    result = Stack(tmp_path, engine="direct")
    yield result
    result.end()


def kind(stack: Stack) -> tuple[str, str]:
    """Return the type and the source of the mount."""
    found = [mounted for mounted in mounts() if mounted.mountpoint == str(stack.merged)]
    return found[-1].type, found[-1].source


@pytest.mark.root
def test_names_are_as_given(stack: Stack) -> None:
    stack.mount("-o", r"fsname=a\,b c,subtype=other")
    assert kind(stack) == ("fuse.other", "a,b c")


@pytest.mark.root
def test_with_auto_unmount_a_killed_daemon_leaves_no_mount(stack: Stack) -> None:
    stack.mount("-o", "auto_unmount,fsname=given,supervise=off")
    assert kind(stack) == ("fuse.unionfs", "given")
    assert (stack / "base").read_text() == "base\n"
    os.kill(stack.pid, signal.SIGKILL)
    eventually(lambda: not stack.is_mounted())


def test_the_socket_of_fusermount3_is_closed_after_the_device() -> None:
    """By number, if we are killed; else it finds a mount that seems to live, and leaves it there."""
    lower = os.open(os.devnull, os.O_RDONLY)
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    fd = os.open(os.devnull, os.O_RDWR)
    os.close(lower)  # so the next number to be had is below the device's
    device = Device(fd, Path("/"), privileged=True, keeper=ours, number="0:0")
    assert device.keeper is not None
    assert device.keeper > device.fd
    with pytest.raises(BlockingIOError):
        theirs.recv(1)
    device.close()
    assert theirs.recv(1) == b""
    theirs.close()


@pytest.mark.root
def test_open_files_do_not_keep_a_daemon_from_ending(stack: Stack) -> None:
    stack.mount()
    pid = stack.pid
    fd = os.open(stack / "base", os.O_RDONLY)
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not stack.is_mounted())
    eventually(lambda: not Path(f"/proc/{pid}").exists())
    with contextlib.suppress(OSError):  # there is nobody left to tell
        os.close(fd)
    assert not re.search("ERROR|Traceback", stack.logged())


@pytest.mark.root
def test_a_mount_that_ends_while_it_is_used_ends_the_daemon(stack: Stack) -> None:
    stack.mount()
    pid = stack.pid
    subprocess.run(["umount", "-l", stack.merged], check=True)
    eventually(lambda: not Path(f"/proc/{pid}").exists())
    assert not re.search("ERROR|Traceback", stack.logged())


@pytest.mark.userns
def test_root_of_a_user_namespace_mounts_by_itself(stack: Stack) -> None:
    """No fusermount3 there: it is not found."""
    script = (
        f"{sys.executable} -c 'import sys; from unionfs.cli.main import main; sys.exit(main())' mount --engine direct "
        f"--lower {stack.top} --lower {stack.base} --upper {stack.upper} --work {stack.work} {stack.merged} && "
        f"cat {stack.merged}/base && echo new > {stack.merged}/new && cat {stack.merged}/new && umount {stack.merged}"
    )
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "/bin/sh", "-c", script],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin", **stack.environment},
    )
    assert (done.returncode, done.stdout) == (0, "base\nnew\n"), done.stderr


def test_without_fusermount3_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fusermount, "HELPER", "no-such-helper")
    with pytest.raises(MountError, match="apt install fuse3"):
        Device.mount(tmp_path, MountOptions(auto_unmount=True))


def test_what_fusermount3_refuses_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(MountError, match=r"fusermount3.*; try: unionfs doctor"):
        Device.mount(tmp_path / "missing", MountOptions(auto_unmount=True))
