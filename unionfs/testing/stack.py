"""Stacks of layers on disk, and the three ways to look at one: the kernel's, the union's, our mount's.

    stack = lay(tmp_path, [{"a": "top"}, {"b": "bottom"}])
    with kernel(stack) as theirs:
        theirs.rename("a", "c")

Each way is a context manager that yields a `Driver` and leaves neither mount nor process behind. A
mount that will not go because something still uses it is detached first and complained of then.
"""

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

from unionfs.core.config import Config, RedirectDir, Xino
from unionfs.core.union import Union
from unionfs.linux import mount
from unionfs.testing import disk
from unionfs.testing.driver import Driver
from unionfs.testing.inprocess import InProcess
from unionfs.testing.literal import Dir, Tree
from unionfs.testing.mounted import Mounted

__all__ = ["Backend", "Features", "Stack", "bare", "in_process", "kernel", "lay", "remembering", "unmount"]

PATIENCE_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """The optional features of a union, by the kernel's names."""

    redirect_dir: RedirectDir = RedirectDir.ON
    index: bool = False
    metacopy: bool = False
    xino: bool = False
    userxattr: bool = False

    def __str__(self) -> str:
        parts = [
            f"redirect_dir={self.redirect_dir.value}" if not self.userxattr else "userxattr",
            f"index={'on' if self.index else 'off'}",
            f"metacopy={'on' if self.metacopy else 'off'}",
            f"xino={'on' if self.xino else 'off'}",
        ]
        return ",".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Where the layers lie. *upper* None makes a read-only union."""

    lower: tuple[Path, ...]
    """Top first."""
    upper: Path | None
    work: Path | None
    mountpoint: Path
    features: Features = Features()
    data_only: tuple[Path, ...] = ()

    def config(self) -> Config:
        """Say it in the union's words."""
        return Config(
            lower=self.lower,
            data_only=self.data_only,
            upper=self.upper,
            work=self.work,
            redirect_dir=RedirectDir.AUTO if self.features.userxattr else self.features.redirect_dir,
            index=self.features.index,
            metacopy=self.features.metacopy,
            xino=Xino.ON if self.features.xino else Xino.OFF,
            userxattr=self.features.userxattr,
        )

    def options(self) -> str:
        """Say it in mount options, which our mount form and the kernel read alike."""
        lower = ":".join(map(_escaped, self.lower)) + "".join(f"::{_escaped(path)}" for path in self.data_only)
        writable = f",upperdir={_escaped(self.upper)},workdir={_escaped(self.work)}" if self.upper and self.work else ""
        return f"lowerdir={lower}{writable},{self.features}"

    def with_features(self, features: Features) -> "Stack":
        """Return the same layers, looked at with other features."""
        return replace(self, features=features)


Backend: TypeAlias = Callable[[Stack], AbstractContextManager[Driver]]


def _escaped(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def lay(
    base: Path,
    lower: Sequence[Tree | Dir],
    *,
    upper: Tree | Dir | None = None,
    features: Features | None = None,
    read_only: bool = False,
    data_only: Sequence[Tree] = (),
) -> Stack:
    """Write the layers, top first, below *base*, and return the stack."""
    data = tuple(disk.write(tree, base / f"d{number}") for number, tree in enumerate(data_only))
    layers = tuple(disk.write(tree, base / f"l{number}") for number, tree in enumerate(lower))
    mountpoint = base / "mnt"
    mountpoint.mkdir()
    top = work = None
    if not read_only:
        top, work = disk.write({} if upper is None else upper, base / "upper"), disk.write({}, base / "work")
    features = features or Features()
    return Stack(lower=layers, upper=top, work=work, mountpoint=mountpoint, features=features, data_only=data)


@contextmanager
def kernel(stack: Stack) -> Iterator[Driver]:
    """Mount with the kernel's overlayfs. Needs root."""
    _mount_overlay(stack)
    driver = Mounted(stack.mountpoint)
    try:
        yield driver
    finally:
        driver.close_all()
        unmount(stack.mountpoint)


def _mount_overlay(stack: Stack) -> None:
    """Mount; the layers may be in use for a moment longer.

    Who began a mount namespace of his own while they were mounted before, whoever that is, has a copy of that mount.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return mount.mount("overlay", str(stack.mountpoint), "overlay", 0, stack.options())
        except OSError as exc:
            if exc.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def unmount(mountpoint: Path) -> None:
    """Unmount; what is still in use is detached, and an error all the same."""
    try:
        mount.umount(str(mountpoint))
    except OSError:
        mount.umount(str(mountpoint), mount.MNT_DETACH)
        raise


@contextmanager
def in_process(stack: Stack, *, remember: bool = False) -> Iterator[Driver]:
    """Open a `core.Union` here, with a kernel above it that forgets every inode at once."""
    union = Union(stack.config())
    driver = InProcess(union, remember=remember)
    try:
        yield driver
    finally:
        try:
            driver.close_all()
        finally:
            union.close()


def remembering(stack: Stack) -> AbstractContextManager[Driver]:
    """Open a `core.Union` here, with a kernel above it that never asks for a name twice."""
    return in_process(stack, remember=True)


@contextmanager
def bare(stack: Stack) -> Iterator[Driver]:
    """Look at the upper layer's directory itself: what an operation does on no union at all."""
    driver = Mounted(stack.upper or stack.lower[0])
    try:
        yield driver
    finally:
        driver.close_all()
