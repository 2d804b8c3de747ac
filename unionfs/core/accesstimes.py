"""Which access times change when somebody reads: in the upper layer as the mount's options say, below it none.

The file systems of the layers keep the times, and the mount through which a file is reached decides when: files that
the kernel passes through never come to us, and no flag of an open is for symlinks. So the layers are reached through
mounts of our own, as the kernel's overlayfs reaches them through its own (`own_mounts`). Everything below one real
mount goes into one copy, which a mount of 100 layers pays for once.

In a copy nothing is seen of what is mounted in a layer, as under the kernel's overlayfs. So a layer may hold the
mountpoint, or another file system with the upper layer on it: the union does not come upon itself there.

Where we may not mount, all keep their mounts: there the descriptors are opened with O_NOATIME, which is for the owner
of a file, and nothing helps for symlinks.

Rejected: O_NOATIME alone, for what was just said; copies with all that is mounted below, which would hold other file
systems that nobody asked for; setting times back, which moves the time of change.

Listings of an upper directory are noted when a user asks for them (`readdir.asked_for`), never when the union looks
around.

Source: Linux fs/overlayfs/super.c, ovl_get_upper() and ovl_get_layers(); fs/inode.c, relatime_need_update().
"""

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from unionfs.core.config import AccessTimes, Config
from unionfs.linux import at, ownmount

if TYPE_CHECKING:
    from unionfs.core.files import OpenFile

__all__ = ["Noting", "has_own_mount", "is_hidden", "own_mounts"]

_ATTRIBUTES: Final = {
    AccessTimes.RELATIME: ownmount.RELATIME,
    AccessTimes.NOATIME: ownmount.NOATIME,
    AccessTimes.STRICTATIME: ownmount.STRICTATIME,
}

_DAY_NS: Final = 86_400 * 1_000_000_000
_ST_NOATIME: Final = 0x400
_ST_RELATIME: Final = 0x1000
"""Source: statvfs(3), f_flag."""


def own_mounts(config: Config, fds: Sequence[int], *, has_upper: bool) -> None:
    """Make each of *fds* the same directory in a mount of our own, where we may.

    They are the layers', top first; with *has_upper* the first and the last are the upper's and the work directory's.
    """
    if config.access_times is AccessTimes.LAYERS:
        return
    upper, lower = ([fds[0], fds[-1]], fds[1:-1]) if has_upper else ([], fds)
    wanted = _ATTRIBUTES[AccessTimes.NOATIME if config.read_only else config.access_times]
    with suppress(OSError):  # a kernel that does not number its mounts
        groups = [(each, ownmount.NOATIME | ownmount.RDONLY) for each in _by_mount(lower).items()]
        attributes = wanted | (ownmount.NODIRATIME if config.nodiratime else 0)
        groups += ((each, attributes) for each in _by_mount(upper).items())
        for (number, group), attributes in groups:
            with suppress(OSError):  # we may not mount here, or the kernel is old
                _replace(group, number, attributes)


def has_own_mount(layer: Path, fd: int) -> bool:
    """Tell whether the open *layer* is reached through a mount of our own, where nothing is seen of mounts in it."""
    try:
        return at.mount_number(fd) != _mount_of(layer)
    except OSError:  # a kernel that does not number its mounts
        return False


def is_hidden(place: Path, layer: Path, fd: int) -> bool:
    """Tell whether *place*, in *layer*, cannot be reached through *fd*, the open layer: it is on another mount."""
    return has_own_mount(layer, fd) and _mount_of(place) != _mount_of(layer)


def _mount_of(path: Path) -> int:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return at.mount_number(fd)
    finally:
        os.close(fd)


def _by_mount(fds: Sequence[int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for fd in fds:
        found.setdefault(at.mount_number(fd), []).append(fd)
    return found


def _replace(fds: Sequence[int], number: int, attributes: int) -> None:
    """Open *fds* again in one copy of their mount, *number*."""
    paths = [os.readlink(f"/proc/self/fd/{fd}") for fd in fds]
    common = os.path.commonpath(paths)
    above = os.open(common, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if at.mount_number(above) != number:
            return
        tree = ownmount.copied(above, attributes)
    finally:
        os.close(above)
    with ExitStack() as opened:
        opened.callback(os.close, tree)
        again: list[int] = []
        for path in paths:
            rest = path[len(common) :].strip("/")
            fd = at.open_below(tree, os.fsencode(rest or ".").split(b"/"))
            if fd is None:
                return
            opened.callback(os.close, fd)
            again.append(fd)
        if all(map(os.path.sameopenfile, fds, again)):  # nobody has renamed anything meanwhile
            for fd, new in zip(fds, again, strict=True):
                os.dup2(new, fd, inheritable=False)


class Noting(NamedTuple):
    """What is to be noted of those who read in the upper layer."""

    files: bool = True
    directories: bool = False
    always: bool = False
    """Each time, and not only if the file was changed since, or a day has passed."""
    elsewhere: bool = False
    """It is not what was asked for: the mount of the upper layer decides for what the kernel reads itself."""

    @classmethod
    def of(cls, config: Config, upper_fd: int) -> "Noting":
        """Return what was asked for, as far as the mount through which the upper layer is reached allows it."""
        if config.access_times is AccessTimes.LAYERS:
            return cls()
        flags = os.fstatvfs(upper_fd).f_flag
        notes = config.access_times is not AccessTimes.NOATIME and not config.read_only
        return cls(
            files=notes and not flags & _ST_NOATIME,
            directories=notes and not config.nodiratime,
            always=notes and not flags & (_ST_NOATIME | _ST_RELATIME),
            elsewhere=not notes and not flags & _ST_NOATIME,
        )

    def is_due(self, opened: "OpenFile") -> bool:
        """Tell whether a read of the real file would change its access time; pages from a cache would not."""
        if not self.files or not opened.writable_layer or opened.flags & (os.O_NOATIME | os.O_WRONLY):
            return False
        if self.always:
            return True
        st = os.fstat(opened.fd)
        return st.st_atime_ns <= max(st.st_mtime_ns, st.st_ctime_ns) or time.time_ns() - st.st_atime_ns >= _DAY_NS
