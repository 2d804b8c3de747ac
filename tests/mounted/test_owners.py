"""Mounts whose owners are not those on disk: id maps, and attributes of ordinary users and user namespaces."""

import os
import shutil
import stat
from collections.abc import Iterator

import pytest

from tests.cli.test_users import IN_A_USER_NAMESPACE, mounting, python
from tests.cli.test_users import USER as NOBODY
from tests.mounted.users import as_user, outcome
from tests.mounting import Stack

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.xattrs]

CONTAINERS = "user.containers.override_stat"


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
    for path in [stack.directory, *stack.directory.rglob("*")]:
        os.chown(path, NOBODY, NOBODY)
    return stack


def test_a_container_sees_its_own_ids(stack: Stack) -> None:
    os.chown(stack.base / "base", 100005, 100006)
    stack.mount("-o", "uidmapping=100000:0:1000,gidmapping=100000:0:1000")
    st = (stack / "base").stat()
    assert (st.st_uid, st.st_gid) == (5, 6)
    os.chown(stack / "base", 7, 8)
    st = (stack.upper / "base").stat()
    assert (st.st_uid, st.st_gid) == (100007, 100008)
    with pytest.raises(OSError, match="too large"):
        os.chown(stack / "base", 5000, 8)
    assert (stack / "top").stat().st_uid == 65534
    assert stack.logged() == ""


def test_permissions_are_checked_against_what_is_shown(stack: Stack) -> None:
    """By the kernel: a file that shows as the user's is his, and one of his own id on disk is not."""
    me = 54321
    os.chown(stack.base / "base", 100000 + me, 0)
    os.chown(stack.top / "top", me, me)
    for path in (stack.base / "base", stack.top / "top"):
        path.chmod(0o600)
    stack.mount("-o", "uidmapping=100000:0:65536,gidmapping=0:0:65536")
    said = [as_user(lambda n=n: outcome(lambda root: (root / n).read_bytes(), stack.merged)) for n in ("base", "top")]  # type: ignore[misc]  # mypy infers no lambda with a default
    assert said == [repr(b"base\n"), "Permission denied"]


def test_a_users_mount_keeps_what_he_may_not_give(owned: Stack) -> None:
    script = (
        "m = S / 'merged'\n(m / 'new').write_text('mine')\n(m / 'new').chmod(0o4711)\n(m / 'base').chmod(0o2640)\n"
        "os.mkfifo(m / 'fifo', 0o600)\n(m / 'directory/inner').mkdir(0o700)\n"
        "print([oct((m / n).lstat().st_mode) for n in ('new', 'base', 'fifo', 'directory/inner')])\n"
        "print((m / 'new').stat().st_uid, sorted(os.listdir(m)))\n"
        "sys.exit(main(['umount', str(m)]))"
    )
    done = python(mounting(owned, ",xattr_permissions=2") + script, stack=owned)
    modes = "['0o104711', '0o102640', '0o10600', '0o40700']"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{modes}\n{NOBODY} ['base', 'directory', 'fifo', 'new', 'top']\n"
    assert os.getxattr(owned.upper / "new", CONTAINERS) == f"{NOBODY}:{NOBODY}:4711:file".encode()
    assert stat.S_ISREG((owned.upper / "fifo").lstat().st_mode)
    assert not (owned.upper / "new").stat().st_mode & 0o7000
    assert owned.logged() == ""


def test_a_users_layer_makes_no_program_roots(owned: Stack) -> None:
    """It shows as root's and set-user-id, as it was asked to; and runs as whoever runs it."""
    shutil.copy("/usr/bin/id", owned.base / "id")
    os.chown(owned.base / "id", NOBODY, NOBODY)
    (owned.base / "id").chmod(0o755)
    os.mknod(owned.base / "null", stat.S_IFREG | 0o644)
    os.chown(owned.base / "null", NOBODY, NOBODY)
    os.setxattr(owned.base, CONTAINERS, b"0:0:0755:dir")
    os.setxattr(owned.base / "id", CONTAINERS, b"0:0:4755:file")
    os.setxattr(owned.base / "null", CONTAINERS, b"0:0:0666:char-1-3")
    script = (
        "m = S / 'merged'\nprint((m / 'id').stat().st_uid, oct((m / 'id').stat().st_mode))\n"
        "print(subprocess.run([m / 'id', '-u'], capture_output=True, text=True).stdout)\n"
        "print(oct((m / 'null').stat().st_mode), (m / 'null').stat().st_rdev)\n"
        "try:\n    open(m / 'null')\nexcept OSError as exc:\n    print(exc.strerror)\n"
        "sys.exit(main(['umount', str(m)]))"
    )
    done = python(mounting(owned) + script, stack=owned)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"0 0o104755\n{NOBODY}\n\n0o20666 {os.makedev(1, 3)}\nPermission denied\n"


def test_the_same_layer_makes_nothing_roots_in_roots_mount(owned: Stack) -> None:
    os.setxattr(owned.base, CONTAINERS, b"0:0:0755:dir")
    os.setxattr(owned.base / "base", CONTAINERS, b"0:0:4755:file")
    owned.mount()
    st = (owned / "base").stat()
    assert (st.st_uid, stat.S_IMODE(st.st_mode)) == (NOBODY, stat.S_IMODE((owned.base / "base").stat().st_mode))


@pytest.mark.userns
def test_root_of_a_user_namespace_keeps_what_he_may_not_give(owned: Stack) -> None:
    script = (
        "m = S / 'merged'\n(m / 'new').write_text('mine')\n(m / 'new').chmod(0o4711)\n(m / 'top').unlink()\n"
        "os.mkfifo(m / 'fifo', 0o600)\n"
        "print([(oct(st.st_mode), st.st_uid) for st in ((m / n).lstat() for n in ('new', 'base', 'fifo'))])\n"
        "sys.exit(main(['umount', str(m)]))"
    )
    start = IN_A_USER_NAMESPACE.format(user=NOBODY) + mounting(owned, ",xattr_permissions=2")
    done = python(start + script, stack=owned)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "[('0o104711', 0), ('0o100644', 0), ('0o10600', 0)]\n"
    assert os.getxattr(owned.upper / "new", CONTAINERS) == b"0:0:4711:file"
    assert os.getxattr(owned.upper / "fifo", CONTAINERS) == b"0:0:0600:pipe"
    assert (owned.upper / "new").stat().st_uid == NOBODY
    assert owned.logged() == ""


def test_everything_is_roots_where_it_is_squashed(owned: Stack) -> None:
    script = (
        "m = S / 'merged'\nprint([(m / n).stat().st_uid for n in ('.', 'top', 'base')])\n"
        "sys.exit(main(['umount', str(m)]))"
    )
    done = python(mounting(owned, ",squash_to_root") + script, stack=owned)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "[0, 0, 0]\n")
