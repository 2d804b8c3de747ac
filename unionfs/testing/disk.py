"""Write a literal tree into a real directory, and get a directory to write it in."""

import errno
import os
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from unionfs.linux import mount
from unionfs.testing.literal import Attrs, Dir, File, HardLink, Special, Symlink, Tree, TreeNode

__all__ = ["DISKS", "in_memory", "on_disk", "write"]

DISKS: Final = {"ext4": (("mkfs.ext4", "-qF", "-b", "4096"), 64), "xfs": (("mkfs.xfs", "-qf"), 300)}
"""What makes a file system in a file, and how many megabytes it must have.

Left to itself, mkfs.ext4 gives a small one blocks of 1 KiB, and there ext4 loses data, with no union above it: what is
written to a mapping in the page where the file ended, after an O_DIRECT write has made it longer (Linux 6.18).
"""

PATIENCE_S: Final = 5.0
POLL_S: Final = 0.02


@contextmanager
def in_memory(size: str = "50%") -> Iterator[Path]:
    """Make an empty tmpfs, gone with all it holds when the block ends. Needs root.

    It is quick, it has extended attributes of every kind, ACLs and file handles, and an unmount above it
    waits for no disk. *size* as mount(8) takes it.
    """
    with tempfile.TemporaryDirectory(prefix="memory-") as name:
        mount.mount("tmpfs", name, "tmpfs", 0, f"mode=755,size={size}")
        try:
            yield Path(name)
        finally:
            _unmount(name)


@contextmanager
def on_disk(kind: str = "ext4") -> Iterator[Path]:
    """Make an empty ext4 or xfs in a file, gone with all it holds when the block ends. Needs root and loop devices."""
    make, megabytes = DISKS[kind]
    with tempfile.TemporaryDirectory(prefix=f"{kind}-") as name:
        image, top = Path(name, "image"), Path(name, "mnt")
        top.mkdir()
        with image.open("wb") as file:
            file.truncate(megabytes << 20)
        subprocess.run([*make, image], check=True)
        subprocess.run(["mount", "-o", "loop", image, top], check=True)
        try:
            yield top
        finally:
            _unmount(str(top))


def _unmount(top: str) -> None:
    """Wait for whoever has files open there, as a daemon that was killed has until it is gone.

    Raises:
        OSError: EBUSY, it took too long; out of the tree it is all the same.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            mount.umount(top)
        except OSError as exc:
            if exc.errno != errno.EBUSY or time.monotonic() > deadline:
                mount.umount(top, mount.MNT_DETACH)
                raise
            time.sleep(POLL_S)
        else:
            return


def write(tree: Tree | Dir, root: Path) -> Path:
    """Make *root* and fill it; return it. An existing directory is filled as it is.

    Directories get their mode and times after their entries: making an entry would move the times,
    and a read-only directory takes none from an ordinary user.
    """
    top = tree if isinstance(tree, Dir) else Dir(tree)
    root.mkdir(parents=True, exist_ok=True)
    late: list[tuple[Path, HardLink]] = []
    with _umask(0):
        _fill(top, root, late)
        for path, link in late:
            with _times_kept(path.parent):
                os.link(root / link.to, path, follow_symlinks=False)
    return root


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    old = os.umask(mask)
    try:
        yield
    finally:
        os.umask(old)


@contextmanager
def _times_kept(directory: Path) -> Iterator[None]:
    before = directory.stat()
    yield
    os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))


def _fill(directory: Dir, path: Path, late: list[tuple[Path, HardLink]]) -> None:
    for name, node in directory.entries.items():
        _make(node, path / name, late)
    _dress(directory, path, 0o755)


def _make(node: TreeNode, path: Path, late: list[tuple[Path, HardLink]]) -> None:
    match node:
        case HardLink():
            late.append((path, node))
        case Dir():
            path.mkdir()
            _fill(node, path, late)
        case Symlink():
            path.symlink_to(node.target)
            _dress(node, path, None)
        case Special():
            os.mknod(path, node.kind | 0o600, node.rdev)
            _dress(node, path, 0o644)
        case File():
            _write_data(node, path)
            _dress(node, path, 0o644)
        case str() | bytes():
            _make(File(node.encode() if isinstance(node, str) else node), path, late)
        case _:
            _make(Dir(node), path, late)


def _write_data(node: File, path: Path) -> None:
    with path.open("xb") as file:
        file.write(node.data)
        for offset, data in node.holes.items():
            file.seek(offset)
            file.write(data)
        if node.size is not None:
            file.truncate(node.size)


def _dress(node: Attrs, path: Path, default_mode: int | None) -> None:
    """Owner first (it clears set-id bits and capabilities), times last."""
    os.chown(path, node.uid, node.gid, follow_symlinks=False)
    mode = node.mode if node.mode is not None else default_mode
    if mode is not None and not stat.S_ISLNK(path.lstat().st_mode):
        path.chmod(mode)
    for name, value in node.xattrs.items():
        os.setxattr(path, name, value, follow_symlinks=False)
    os.utime(path, ns=(node.mtime_ns, node.mtime_ns), follow_symlinks=False)
