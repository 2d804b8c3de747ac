"""Without being root of the machine: through fusermount3, and as root of a user namespace.

The interpreter may be where another user cannot read it. So everything is imported first, by root,
and then the process becomes the user.
"""

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounting import PATIENCE_S, ROOT, Stack
from unionfs.linux.mount import mounts

pytestmark = [pytest.mark.root, pytest.mark.fuse]

USER, OTHER = pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("daemon").pw_uid
"""fusermount3 asks for users that have a name."""

AS_USER = """
import ctypes, importlib, os, pathlib, subprocess, sys
for name in ("argparse", "tempfile", "traceback", "encodings.idna", "json", "difflib", "trio", "pyfuse3",
             "unionfs.cli.main", "unionfs.cli.overlay", "unionfs.cli.mount", "unionfs.cli.umount", "unionfs.cli.mounts",
             "unionfs.cli.start", "unionfs.fuse.session", "unionfs.fuse.daemon", "unionfs.fuse.logfile",
             "unionfs.fuse.direct", "unionfs.fuse.takeover", "unionfs.fuse.noting", "unionfs.fuse.pyfuse3_engine",
             "unionfs.fuse.fusermount", "unionfs.core.union", "logging.handlers"):
    importlib.import_module(name)
from unionfs.cli.main import main
os.setgroups([])
os.setgid({user})
os.setuid({user})
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: setuid made /proc/self root's
os.environ["HOME"] = "/nonexistent"
"""

IN_A_USER_NAMESPACE = """
assert ctypes.CDLL(None).unshare(0x10020000) == 0  # CLONE_NEWUSER | CLONE_NEWNS
pathlib.Path("/proc/self/uid_map").write_text("0 {user} 1")
pathlib.Path("/proc/self/setgroups").write_text("deny")
pathlib.Path("/proc/self/gid_map").write_text("0 {user} 1")
"""


@pytest.fixture(autouse=True)
def device_for_all() -> Iterator[None]:
    """Make /dev/fuse what udev makes it everywhere: usable by all."""
    mode = os.stat("/dev/fuse").st_mode & 0o777
    os.chmod("/dev/fuse", 0o666)
    yield
    os.chmod("/dev/fuse", mode)


@pytest.fixture
def owned(stack: Stack) -> Stack:
    """Return a stack that belongs to the user."""
    stack.directory.chmod(0o755)
    stack.directory.parent.chmod(0o755)
    for path in [stack.directory, *stack.directory.rglob("*")]:
        os.chown(path, USER, USER)
    return stack


def python(script: str, *, stack: Stack, user: int = USER) -> subprocess.CompletedProcess[str]:
    """Run *script*, in which ``main`` is the program and ``S`` the stack's directory, as *user*."""
    start = AS_USER.format(user=user) + f"S = pathlib.Path({str(stack.directory)!r})\n" + script
    return subprocess.run(
        [sys.executable, "-c", start],
        check=False,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        env={**os.environ, "PYTHONPATH": str(ROOT), **stack.environment},
    )


def mounting(stack: Stack, options: str = "") -> str:
    return f"assert main(['mount', *{stack.arguments!r}, '-o', 'noatime{options}', str(S / 'merged')]) == 0\n"


def test_a_user_mounts_through_fusermount3(owned: Stack) -> None:
    done = python(
        mounting(owned) + "(S / 'merged/new').write_text('mine')\n(S / 'merged/base').unlink()\n"
        "os.chmod(S / 'merged/top', 0o600)\nprint(sorted(os.listdir(S / 'merged')))",
        stack=owned,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "['directory', 'new', 'top']\n")
    mount = next(mount for mount in mounts() if mount.mountpoint == str(owned.merged))
    assert {"nodev", "nosuid", "noatime"} <= set(mount.options.split(","))
    assert f"user_id={USER}" in mount.super_options.split(",")
    assert "allow_other" not in mount.super_options
    assert (owned.upper / "new").stat().st_uid == USER

    done = python("sys.exit(main([str(S / 'merged'), '-o', 'remount,ro']))", stack=owned)
    assert done.returncode == 1
    assert "cannot be remounted; because of Operation not permitted; try: as root" in done.stderr
    done = python("sys.exit(main(['umount', str(S / 'merged')]))", stack=owned)
    assert (done.returncode, done.stderr) == (0, "")
    assert not owned.is_mounted()
    assert owned.logged() == ""


def test_nobody_else_gets_into_a_users_mount(owned: Stack) -> None:
    assert python(mounting(owned), stack=owned).returncode == 0
    done = python("print(os.listdir(S / 'merged'))", stack=owned, user=OTHER)
    assert "PermissionError" in done.stderr


def test_what_a_user_deleted_stays_deleted(owned: Stack) -> None:
    """Marks are user.overlay.* there, and a whiteout needs no privilege."""
    remove = "import shutil\nshutil.rmtree(S / 'merged/directory')\n(S / 'merged/directory').mkdir()\n"
    remove += "(S / 'merged/base').unlink()\nmain(['umount', str(S / 'merged')])\n"
    (owned.base / "directory" / "old").touch()
    done = python(mounting(owned) + remove + mounting(owned), stack=owned)
    assert (done.returncode, done.stderr) == (0, "")
    done = python("print([sorted(os.listdir(S / 'merged' / name)) for name in ('.', 'directory')])", stack=owned)
    assert done.stdout == "[['directory', 'top'], []]\n"


def test_a_user_may_let_others_in_only_where_the_machine_allows_it(owned: Stack) -> None:
    script = f"sys.exit(main(['mount', *{owned.arguments!r}, '-o', 'allow_other', str(S / 'merged')]))"
    done = python(script, stack=owned)
    if "user_allow_other" in [line.strip() for line in Path("/etc/fuse.conf").read_text().splitlines()]:
        assert done.returncode == 0
    else:
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "user_allow_other" in done.stderr
        assert not owned.is_mounted()


def test_a_user_cannot_mount_where_he_may_not_write(owned: Stack) -> None:
    os.chown(owned.merged, 0, 0)
    done = python(f"sys.exit(main(['mount', *{owned.arguments!r}, str(S / 'merged')]))", stack=owned)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert not owned.is_mounted()


def test_the_kernel_checks_permissions_for_all_others(stack: Stack) -> None:
    stack.directory.chmod(0o755)
    stack.directory.parent.chmod(0o755)
    (stack.base / "base").chmod(0o640)
    (stack.base / "directory").chmod(0o700)
    stack.mount()
    for forbidden in (
        "(S / 'merged/base').read_text()",
        "os.listdir(S / 'merged/directory')",
        "(S / 'merged/x').touch()",
    ):
        assert "PermissionError" in python(forbidden, stack=stack).stderr
    assert python("print((S / 'merged/top').read_text())", stack=stack).stdout == "top\n\n"


READ = """
def noted(name, act):
    os.utime(S / 'upper' / name, ns=(1, 2))
    act(S / 'merged' / name)
    return (S / 'upper' / name).stat().st_atime_ns != 1
print(noted('top', lambda path: path.read_text()), noted('more', os.listdir))
"""


@pytest.mark.parametrize(
    ("words", "notes"),
    [
        *((words, "True True") for words in ("atime", "relatime", "norelatime,diratime", "strictatime")),
        ("noatime", "False False"),
        ("nodiratime", "True False"),
    ],
)
def test_access_times_of_a_users_upper_layer(owned: Stack, words: str, notes: str) -> None:
    """fusermount3 knows few of the words; what is not said to the kernel is done all the same."""
    (owned.upper / "more").mkdir()
    (owned.upper / "top").write_text("upper")
    for name in ("more", "top"):
        os.chown(owned.upper / name, USER, USER)
    done = python(
        f"assert main(['mount', *{owned.arguments!r}, '-o', '{words}', str(S / 'merged')]) == 0" + READ, stack=owned
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"{notes}\n")


@pytest.mark.userns
def test_root_of_a_user_namespace_mounts_by_himself(owned: Stack) -> None:
    done = python(
        IN_A_USER_NAMESPACE.format(user=USER)
        + mounting(owned)
        + "(S / 'merged/new').write_text('mine')\n(S / 'merged/base').unlink()\n"
        "print(sorted(os.listdir(S / 'merged')), os.stat(S / 'merged/new').st_uid)\n"
        "sys.exit(main(['umount', str(S / 'merged')]))",
        stack=owned,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "['directory', 'new', 'top'] 0\n")
    assert (owned.upper / "new").stat().st_uid == USER
    assert owned.logged() == ""


@pytest.mark.userns
def test_a_user_namespace_without_a_mount_namespace_is_told_what_it_lacks(owned: Stack) -> None:
    """As of ``unshare -Ur``: its root may mount nothing, and fusermount3 has no rights there either."""
    script = IN_A_USER_NAMESPACE.format(user=USER).replace("0x10020000", "0x10000000")
    arguments = [*owned.arguments, str(owned.merged)]
    done = python(f"{script}sys.exit(main(['mount', *{arguments!r}]))", stack=owned)
    assert done.returncode == 1
    assert "a user namespace needs a mount namespace of its own; try: unshare -Urm" in done.stderr
    assert done.stderr.count("\n") == 1
