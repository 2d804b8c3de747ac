"""Getting a /dev/fuse descriptor that is a mount, and ending that mount.

Two ways lead to it. Who may call mount(2) (root, also root of a user namespace) opens the device and
mounts it. Everybody else asks fusermount3 (``fusermount.py``). With *auto_unmount* both take the second way,
because fusermount3 then stays, waits for the other end of the socket to close, and unmounts.

Source: Linux Documentation/filesystems/fuse/fuse.rst.
"""

import errno
import os
import select
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from unionfs.errors import MountError
from unionfs.linux import fusedev, ids
from unionfs.linux import mount as kernel

if TYPE_CHECKING:
    import socket

    from unionfs.core.mountoptions import MountOptions

__all__ = ["Device"]

DEVICE: Final = "/dev/fuse"

READ_AHEAD_KB: Final = 512
"""How far the kernel reads ahead: it begins at 128, and a request costs a fifth of what it takes to copy as much."""


class Device:
    """One mount and its descriptor. Close it after `unmount`; closing alone leaves a dead mount behind."""

    def __init__(
        self, fd: int, mountpoint: Path, *, privileged: bool, keeper: "socket.socket | None", number: str | None = None
    ) -> None:
        """*number* is the mount's st_dev where that is known already: another mount may cover it by now."""
        self.fd = fd
        self._mountpoint = mountpoint
        """Absolute, without symlinks: nobody answers a question about it before the mount is served."""
        self.privileged = privileged
        self._keeper = _above(fd, keeper) if keeper is not None else None
        """Our end of the socket on which fusermount3 waits; None without auto_unmount."""
        shown = self._topmost() if number is None else None
        self.number = shown.device if shown is not None else number
        """The mount's st_dev; None if the helper mounted where we cannot see it."""

    @classmethod
    def mount(cls, mountpoint: Path, options: "MountOptions") -> "Device":
        """Make the mount. The kernel sends INIT next, and holds every other request until it is answered.

        Raises:
            MountError: it cannot be made; says why, and what to do.
        """
        mountpoint = Path(os.path.realpath(mountpoint))  # as it will stand in the list of mounts
        privileged = ids.has_capability(ids.CAP_SYS_ADMIN)
        if privileged and not options.auto_unmount:
            return cls(_mount_directly(mountpoint, options), mountpoint, privileged=True, keeper=None)
        from unionfs.fuse import fusermount  # as below: where we mount ourselves it is not needed

        fd, keeper = fusermount.mount(mountpoint, options, privileged=privileged)
        if not options.auto_unmount:
            keeper.close()
        return cls(fd, mountpoint, privileged=privileged, keeper=keeper if options.auto_unmount else None)

    def read_further_ahead(self) -> None:
        """Have the kernel send fewer and bigger READs for what is read in order, where we may say so."""
        with suppress(OSError):  # not root, or no sysfs here
            Path(f"/sys/class/bdi/{self.number}/read_ahead_kb").write_text(f"{READ_AHEAD_KB}\n", encoding="utf-8")

    def unmount(self) -> None:
        """Take the mount out of the tree; if files are open, they are cut off.

        Nothing happens if somebody else was faster. What is mounted there now may already be the next
        union: container engines mount again while the daemon of the last one is still on its way out.

        Raises:
            OSError: it is not ours to unmount.
        """
        if not self._is_in_the_tree():
            return
        if not self.privileged:
            from unionfs.fuse import fusermount

            fusermount.unmount(self._mountpoint)
            return
        target = os.fspath(self._mountpoint)
        try:
            kernel.umount(target)
        except OSError as exc:
            if exc.errno != errno.EBUSY:
                raise
            kernel.umount(target, kernel.MNT_FORCE | kernel.MNT_DETACH)

    def _topmost(self) -> kernel.Mount | None:
        """Return what is visible on the mountpoint."""
        found = [mount for mount in kernel.mounts() if mount.mountpoint == str(self._mountpoint)]
        return found[-1] if found else None

    def _is_in_the_tree(self) -> bool:
        """Return whether our mount, and no other, is what is visible on the mountpoint."""
        poller = select.poll()
        poller.register(self.fd, 0)
        if any(events & select.POLLERR for _, events in poller.poll(0)):  # the kernel has ended the connection
            return False
        shown = self._topmost()
        return shown is not None and shown.device == self.number

    @property
    def keeper(self) -> int | None:
        """The descriptor that must stay open as long as the mount."""
        return self._keeper.fileno() if self._keeper is not None else None

    def close(self) -> None:
        os.close(self.fd)
        if self._keeper is not None:
            self._keeper.close()


def _above(device: int, keeper: "socket.socket") -> "socket.socket":
    """Return *keeper* under a number above *device*.

    Who is killed closes by number, and when the socket is closed fusermount3 opens the mountpoint, once: unless that is
    ENOTCONN, because the device was closed before, it leaves the mount there (seen of fuse3 3.14).
    """
    number = fusedev.copied_above(keeper.fileno(), device)
    keeper.close()
    return type(keeper)(fileno=number)


def _mount_directly(mountpoint: Path, options: "MountOptions") -> int:
    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as exc:
        raise MountError(f"{DEVICE} cannot be opened: {exc.strerror}; try: modprobe fuse") from exc
    try:
        root = stat.S_IFMT(os.stat(mountpoint).st_mode)
        data = f"fd={fd},rootmode={root:o},user_id={os.getuid()},group_id={os.getgid()},default_permissions"
        if options.allows_other(privileged=True):
            data += ",allow_other"
        flags = kernel.flag_bits(options.flags_for(privileged=True))
        kernel.mount(options.fsname, os.fspath(mountpoint), f"fuse.{options.subtype}", flags, data)
    except OSError as exc:
        os.close(fd)
        lacks = exc.errno == errno.EPERM and not ids.is_initial_user_namespace()
        cure = "; a user namespace needs a mount namespace of its own; try: unshare -Urm" if lacks else ""
        raise MountError(f"{mountpoint} cannot be mounted: {exc.strerror}{cure}") from exc
    return fd
