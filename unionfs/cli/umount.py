"""Unmount.

Without --lazy a mount in use is refused: files are open in it, or a process has its current
directory there. With --lazy it leaves the tree at once and ends when the last file is closed.
"""

import argparse
import errno
import os
import select
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

from unionfs.cli import mounts
from unionfs.cli.exitcodes import Exit
from unionfs.errors import MountError
from unionfs.linux import mount as kernel
from unionfs.linux.ids import CAP_SYS_ADMIN, has_capability

__all__ = ["configure", "run"]

PATIENCE_MS: Final = 10_000
"""How long we wait for the daemon to end, so that its layers are free when the command returns."""

HELPER: Final = "fusermount3"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.add_argument("-l", "--lazy", action="store_true", help="now out of the tree, over when nobody uses it")
    parser.add_argument("mountpoint", nargs="+", type=Path)


def run(args: argparse.Namespace) -> Exit:
    """Unmount each place, in the order given; the first that cannot be ends it."""
    for mountpoint in args.mountpoint:
        unmount(mountpoint, lazy=args.lazy)
    return Exit.OK


def unmount(mountpoint: Path, *, lazy: bool) -> None:
    """Unmount what is visible on *mountpoint*, and unless *lazy* wait until its daemon ended.

    Raises:
        MountError: nothing of ours is mounted there, or it is in use, or it is not ours to unmount.
    """
    found = mounts.find(mountpoint)
    if not found:
        raise MountError(f"{mountpoint}: no unionfs is mounted there; try: unionfs mounts")
    top = found[-1]
    if [mount for mount in kernel.mounts() if mount.mountpoint == top.mountpoint][-1].device != top.device:
        raise MountError(
            f"{mountpoint}: it cannot be unmounted; because another mount covers it; try: umount {mountpoint}"
        )
    owner = top.record.owner if top.record is not None else None
    daemon = _watch(owner) if owner is not None else None
    try:
        if has_capability(CAP_SYS_ADMIN):
            _by_syscall(top.mountpoint, lazy=lazy)
        else:
            _by_helper(top.mountpoint, lazy=lazy)
        if daemon is not None and not lazy:
            poller = select.poll()
            poller.register(daemon, select.POLLIN)
            poller.poll(PATIENCE_MS)
    finally:
        if daemon is not None:
            os.close(daemon)


def _watch(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the process ends."""
    with suppress(ProcessLookupError):
        return os.pidfd_open(pid)
    return None


def _by_syscall(place: str, *, lazy: bool) -> None:
    try:
        kernel.umount(place, kernel.MNT_DETACH if lazy else 0)
    except OSError as exc:
        raise _refused(place, exc.strerror or str(exc), busy=exc.errno == errno.EBUSY) from exc


def _by_helper(place: str, *, lazy: bool) -> None:
    command = [HELPER, "-u", *(["-z"] if lazy else []), "--", place]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    except FileNotFoundError as exc:
        raise MountError(
            f"{place}: it cannot be unmounted; because {HELPER} is missing; try: apt install fuse3"
        ) from exc
    if done.returncode:
        raise _refused(place, done.stderr.strip(), busy="busy" in done.stderr)


def _refused(place: str, why: str, *, busy: bool) -> MountError:
    if busy:
        return MountError(f"{place}: it cannot be unmounted; because it is in use; try: unionfs umount --lazy {place}")
    return MountError(f"{place}: it cannot be unmounted; because of {why}")
