"""A system out of the distribution's own files, from one store to another: over a registry and its mirror.

imported ─> changed in a container ─> committed ─> pushed ─> mirrored ─> pulled ─> mounted ─> compared
"""

import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounting import ROOT
from tests.registry.servers import registry
from unionfs.linux.mount import MNT_DETACH, mounts, umount

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.debian]

PACKAGES = ("base-files", "bash", "coreutils", "libc6", "libtinfo6", "passwd", "util-linux")


class Machine:
    """One user with a store of its own."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self._environment = {**os.environ, "UNIONFS_ROOT": str(directory / "store"), "XDG_RUNTIME_DIR": str(directory)}

    def configure(self, toml: str) -> None:
        path = self.directory / "registries.toml"
        path.write_text(toml, encoding="utf-8")
        self._environment["UNIONFS_REGISTRIES"] = str(path)

    def unionfs(self, *arguments: str | Path) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "unionfs", *map(str, arguments)],
            env=self._environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def leave(self) -> None:
        for mount in mounts():
            if mount.mountpoint.startswith(f"{self.directory}/"):
                umount(mount.mountpoint, MNT_DETACH)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    both = Machine(tmp_path / "here"), Machine(tmp_path / "there")
    yield both
    for machine in both:
        machine.leave()


def root_archive(target: Path) -> Path:
    """Pack what the packages installed on this machine; set-id programs, links and all."""
    listed = subprocess.run(["dpkg", "-L", *PACKAGES], capture_output=True, text=True, check=False).stdout
    paths = {line for line in listed.splitlines() if line.startswith("/") and os.path.lexists(line)}
    names = target.with_suffix(".names")
    names.write_text("".join(f".{path}\n" for path in sorted(paths | {"/"}) if path != "/."), encoding="utf-8")
    command = ["tar", "-C", "/", "--no-recursion", "--format=pax", "-cf", str(target), "-T", str(names)]
    subprocess.run(command, check=True, capture_output=True)
    return target


def described(root: Path) -> dict[str, tuple[object, ...]]:
    """Return all that can be seen of each file below *root*."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, directories, files in os.walk(root):
        for name in [*directories, *files]:
            path = os.path.join(directory, name)
            st = os.lstat(path)
            content: object = None
            if stat.S_ISREG(st.st_mode):
                content = (st.st_size, st.st_nlink, hashlib.sha256(Path(path).read_bytes()).hexdigest())
            elif stat.S_ISLNK(st.st_mode):
                content = os.readlink(path)
            xattrs = {
                key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
            }
            found[os.path.relpath(path, root)] = (st.st_mode, st.st_uid, st.st_gid, st.st_mtime_ns, content, xattrs)
    return found


def change(root: Path) -> None:
    """Do to a system what an image's second layer does."""
    for name in ("usr/share/base-files", "usr/bin/b2sum"):
        subprocess.run(["rm", "-r", root / name], check=True)
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/motd").write_bytes(b"changed\n")
    (root / "usr/bin/env").chmod(0o700)
    os.chown(root / "usr/bin/id", 1, 2)
    os.setxattr(root / "usr/bin/tty", "user.note", b"kept")
    os.link(root / "usr/bin/cat", root / "usr/bin/copy")
    (root / "new").mkdir()
    os.symlink("../etc/motd", root / "new/link")


def test_a_system_arrives_as_it_was_sent(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    here, there = machines
    here.unionfs("import", root_archive(tmp_path / "root.tar"), "system/base")
    place = Path(here.unionfs("mount", "system/base", "--rw", "work"))
    change(place)
    sent = described(place)
    here.unionfs("umount", place)
    here.unionfs("commit", "work", "system/app")
    with (
        registry(tmp_path / "origin") as origin,
        registry(tmp_path / "mirror", proxy={"remoteurl": f"http://{origin}"}) as mirror,
    ):
        name = f"{origin}/system/app:v1"
        here.unionfs("push", "system/app", name)
        there.configure(f'[[registry."{origin}".mirror]]\nurl = "http://{mirror}"\nfallback = false\n')
        there.unionfs("pull", name)
    received = described(Path(there.unionfs("mount", name)))
    assert len(sent) > 300
    assert received == sent
    assert any(mode & stat.S_ISUID for mode, *_ in received.values() if isinstance(mode, int))
    assert there.unionfs("cat", f"{name}:/etc/motd") == "changed"
