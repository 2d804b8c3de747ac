"""Images mounted by name, read-only and with a container: as root, and as an ordinary user."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_users import AS_USER, USER, device_for_all
from tests.mounting import ROOT
from tests.oci.conftest import BASE, CHANGE
from tests.oci.making import image_of
from tests.oci.test_unpack import everything
from unionfs.linux.mount import MNT_DETACH, mounts, umount
from unionfs.oci.images import Images
from unionfs.oci.save import save

__all__ = ["device_for_all"]

pytestmark = [pytest.mark.root, pytest.mark.fuse]

COMMANDS = ("image_mount", "images", "load", "rmi", "commit", "ls", "store", "target")


class Store:
    """A store and the program, in a process of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "store"
        self.environment = {
            "UNIONFS_ROOT": str(self.root),
            "XDG_RUNTIME_DIR": str(directory),
            "PATH": os.environ["PATH"],
        }

    def run(self, *argv: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "unionfs", *map(str, argv)],
            env=self.environment, cwd=ROOT, check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def __call__(self, *argv: str | Path, status: int = 0) -> str:
        done = self.run(*argv)
        assert done.returncode == status, done.stderr
        return done.stdout if not status else done.stderr

    def unmount_all(self) -> None:
        for mount in mounts():
            if mount.mountpoint.startswith(str(self.directory)):
                umount(mount.mountpoint, MNT_DETACH)


@pytest.fixture
def unionfs(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    images = Images(store.root)
    image_of(images, [BASE, CHANGE], "app:1")
    yield store
    store.unmount_all()


def test_the_path_is_all_that_is_printed(unionfs: Store) -> None:
    place = unionfs("mount", "app:1")
    assert place == f"{unionfs.root}/mounts/{Images(unionfs.root).find('app:1').id.short}\n"
    mounted = Path(place.strip())
    assert sorted(os.listdir(mounted)) == ["bin", "etc", "lib", "usr", "var"]
    assert (mounted / "etc/passwd").read_bytes() == b"root:x:0:0\nuser:x:1:1\n"
    assert os.listdir(mounted / "var") == ["new"]
    assert os.stat(mounted / "bin/sh").st_ino == os.stat(mounted / "bin/dash").st_ino
    with pytest.raises(OSError, match="Read-only"):
        (mounted / "new").touch()
    assert unionfs("mount", "app:1") == place
    assert place.strip() in unionfs("mount")
    assert json.loads(unionfs("images", "--json"))[0]["Mounted"]
    assert "is mounted" in unionfs("rmi", "-f", "app:1", status=3)
    assert "step 1" in unionfs("which", mounted / "etc/passwd")
    unionfs("umount", mounted)
    unionfs("rmi", "app:1")


def test_a_container_keeps_what_was_changed(unionfs: Store, tmp_path: Path) -> None:
    place = tmp_path / "mnt"
    place.mkdir()
    assert unionfs("mount", "app:1", place, "--rw", "work") == f"{place}\n"
    assert stat.S_IMODE(os.stat(place).st_mode) == 0o755
    (place / "etc/new").write_text("mine")
    (place / "etc/passwd").unlink()
    (place / "bin").rename(place / "tools")
    assert "is mounted" in unionfs("mount", "app:1", "--rw=work", status=3)
    unionfs("umount", place)
    unionfs("mount", "app:1", place, "--rw", "work")
    assert sorted(os.listdir(place / "etc")) == ["new"]
    assert (place / "tools/sh").exists()
    assert "/etc/new" in unionfs("which", place / "etc/new")
    unionfs("umount", place)
    unionfs("commit", "work", "changed:1")
    assert unionfs("ls", "changed:1").split() == ["etc", "lib", "tools", "usr", "var"]
    assert unionfs("cat", "changed:1:/tools/dash") == "#!shell" * 200
    unionfs("mount", "changed:1", place)
    assert (place / "tools/sh").read_text() == "#!shell" * 200
    unionfs("umount", place)


def test_a_killed_daemon_holds_nothing_back(unionfs: Store) -> None:
    place = unionfs("mount", "app:1").strip()
    (record,) = [each for each in json.loads(unionfs("mounts", "--json")) if each["mountpoint"] == place]
    os.kill(record["pid"], signal.SIGKILL)
    umount(place, MNT_DETACH)
    for _ in range(100):
        if not json.loads(unionfs("images", "--json"))[0]["Mounted"]:
            break
    unionfs("rmi", "app:1")
    assert unionfs("check") == "the store is sound\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["mount", "nothing:1", "/"], "no image 'nothing:1'"),
        (["mount", "app:1", "a", "b"], "too many arguments"),
        (["mount", "app:1", "/nonexistent/x"], "nonexistent"),
    ],
)
def test_bad_input_is_one_line(unionfs: Store, argv: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "unionfs", *argv], env=unionfs.environment, cwd=ROOT, check=False,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def as_user(tmp_path: Path, layer: bytes, script: str) -> list[str]:
    """Load an image of one layer, app:1, as an ordinary user, and run *script* as him; return what it printed.

    H is his home, M a directory to mount on.
    """
    source = Images(tmp_path / "source")
    image = image_of(source, [layer], "app:1")
    home = tmp_path / "home"
    home.mkdir()
    with (home / "app.tar").open("wb") as file:
        save(source.blobs, [(image, image.names)], "oci-archive", file)
    (home / "mnt").mkdir()
    for path in (tmp_path, tmp_path.parent):
        path.chmod(0o755)
    for path in (home, *home.iterdir()):
        os.chown(path, USER, USER)
    imports = "".join(f"import unionfs.cli.{name}\n" for name in COMMANDS)
    imports += "import json, zlib, gzip, sqlite3, unionfs.oci.load, unionfs.oci.unpack, isal.igzip\n"
    preamble = AS_USER.format(user=USER) + (
        f"H = {str(home)!r}\nM = H + '/mnt'\n"
        "os.environ |= {'UNIONFS_ROOT': H + '/store', 'XDG_RUNTIME_DIR': H, 'UNIONFS_LOG': H + '/log'}\n"
        "assert main(['load', '-q', '-i', H + '/app.tar']) == 0\n"
    )
    command = [sys.executable, "-c", imports + preamble + script]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_an_ordinary_user_sees_what_root_would(tmp_path: Path) -> None:
    script = (
        "assert main(['mount', 'app:1', M, '--rw', 'work']) == 0\n"
        "def seen(name):\n"
        "    st = os.lstat(os.path.join(M, name))\n"
        "    return [st.st_mode, st.st_uid, st.st_gid, st.st_size, st.st_rdev, st.st_mtime_ns]\n"
        "names = ['bin', 'bin/su', 'f', 'g', 'null', 'sda', 'pipe', 'unreadable']\n"
        "told = {name: seen(name) for name in names}\n"
        "assert main(['umount', M]) == 0\n"
        "print(json.dumps(told))\n"
    )
    told = json.loads(as_user(tmp_path, everything(), script)[-1])
    time = 1700000000123456789
    assert told["bin"][:3] == [stat.S_IFDIR | 0o1777, 3, 4]
    assert told["bin/su"][:4] == [stat.S_IFREG | 0o6711, 0, 5, 1]
    assert told["f"] == told["g"] == [stat.S_IFREG | 0o604, 1000, 1001, 7, 0, time]
    assert told["null"][0:5:4] == [stat.S_IFCHR | 0o644, os.makedev(1, 3)]
    assert told["sda"][0:5:4] == [stat.S_IFBLK | 0o644, os.makedev(8, 0)]
    assert told["pipe"][0] == stat.S_IFIFO | 0o644
    assert told["unreadable"][0] == stat.S_IFREG


def test_an_ordinary_user_is_shown_capabilities(tmp_path: Path) -> None:
    script = (
        "assert main(['mount', 'app:1', M]) == 0\n"
        "told = os.getxattr(M + '/bin/ping', 'security.capability').hex()\n"
        "listed = os.listxattr(M + '/bin/ping')\n"
        "assert main(['umount', M]) == 0\n"
        "print(json.dumps([told, listed]))\n"
    )
    told, listed = json.loads(as_user(tmp_path, everything(), script)[-1])
    assert bytes.fromhex(told) == b"\1\0\0\2\0\4" + bytes(14)
    assert "security.capability" in listed


def test_an_ordinary_user_takes_roots_place(tmp_path: Path) -> None:
    script = (
        "def owners():\n"
        "    return [(os.stat(M + n).st_uid, os.stat(M + n).st_gid) for n in ('/etc', '/etc/hosts', '/new')]\n"
        "assert main(['mount', 'app:1', M, '--rw', 'work']) == 0\n"
        "try:\n    open(M + '/new', 'w')\nexcept PermissionError:\n    print('refused')\n"
        "assert main(['umount', M]) == 0\n"
        "assert main(['mount', 'app:1', M, '--rw', 'work', '--as-root']) == 0\n"
        "with open(M + '/new', 'w') as file:\n    file.write('mine')\n"
        "with open(M + '/etc/hosts', 'a') as file:\n    file.write('more')\n"
        "print(owners())\n"
        "assert main(['umount', M]) == 0\n"
        "assert main(['mount', 'app:1', M, '--rw', 'work']) == 0\n"
        "print(owners())\n"
        "assert main(['umount', M]) == 0\n"
        "assert main(['commit', 'work', 'changed:1']) == 0\n"
        "assert main(['ls', '-l', 'changed:1:/new']) == 0\n"
    )
    told = as_user(tmp_path, BASE, script)
    assert "refused" in told
    assert [line for line in told if line.startswith("[(")] == [str([(USER, USER)] * 3), str([(0, 0)] * 3)]
    assert told[-1].split()[:3] == ["-rw-r--r--", "0", "0"]


def test_a_container_is_mounted_again_while_its_daemon_is_on_its_way_out(unionfs: Store, tmp_path: Path) -> None:
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    for number in range(3):
        unionfs("mount", "app:1", mountpoint, "--rw", "work")
        (mountpoint / "new").write_text(str(number))
        subprocess.run(["umount", mountpoint], check=True, timeout=30)  # which waits for nobody
    unionfs("mount", "app:1", mountpoint, "--rw", "work")
    assert (mountpoint / "new").read_text() == "2"
    unionfs("umount", mountpoint)
