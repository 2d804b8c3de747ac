"""Remove a tree of any depth and any content.

shutil.rmtree recurses (a tree 1,000 deep ends it) and stops at a directory that its owner may not write.
Here three descriptors are enough for any depth, no symlink is followed, and the owner's rights are taken
where they are missing, as are the flags of chattr(1) lifted that keep something there, where we may. Nobody else may
change the tree meanwhile.
"""

import errno
import os
import stat
from collections.abc import Callable

from unionfs.linux import at, fileops

__all__ = ["empty", "remove"]


def remove(dirfd: int, name: bytes) -> None:
    """Remove *name*, with everything in it if it is a directory. None the worse if it is not there."""
    try:
        _despite_flags(os.unlink, dirfd, name)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in {errno.EISDIR, errno.EPERM} or not stat.S_ISDIR(at.lstat(dirfd, name).st_mode):
            raise
        _remove_directory(dirfd, name)


def empty(dirfd: int) -> None:
    """Remove everything in the open directory *dirfd*."""
    for entry in list(at.scan(dirfd)):
        remove(dirfd, os.fsencode(entry.name))


def _remove_directory(dirfd: int, name: bytes) -> None:
    fd, trail = _open(dirfd, name), [name]
    try:
        while trail:
            inner = _unlink_files(fd)
            if inner is not None:
                trail.append(inner)
                fd = _replace(fd, _open(fd, inner))
                continue
            gone = trail.pop()
            fd = _replace(fd, at.open_directory(fd, b"..") if trail else os.dup(dirfd))
            _despite_flags(os.rmdir, fd, gone)
    finally:
        os.close(fd)


def _open(dirfd: int, name: bytes) -> int:
    if os.geteuid() != 0:
        os.chmod(name, 0o700, dir_fd=dirfd)
    return at.open_directory(dirfd, name)


def _replace(old: int, new: int) -> int:
    os.close(old)
    return new


def _unlink_files(fd: int) -> bytes | None:
    """Unlink files until a directory is met; return its name, or None when nothing is left."""
    inner = None
    for entry in at.scan(fd):
        if entry.is_dir(follow_symlinks=False):
            inner = inner or os.fsencode(entry.name)
        else:
            _despite_flags(os.unlink, fd, os.fsencode(entry.name))
    return inner


def _despite_flags(act: Callable[..., None], dirfd: int, name: bytes) -> None:
    """Do *act*, which removes *name*; once more, if it or its directory was append-only or immutable."""
    try:
        act(name, dir_fd=dirfd)
    except PermissionError as error:
        if error.errno != errno.EPERM or not [each for each in (b".", name) if _lift(dirfd, each)]:
            raise
        act(name, dir_fd=dirfd)


def _lift(dirfd: int, name: bytes) -> bool:
    """Take the flags from *name*; False if it had none, or keeps them."""
    try:
        if not at.is_protected(dirfd, name):
            return False
        fd = at.open_file(dirfd, name, os.O_RDONLY)
        try:
            fileops.set_flags(fd, fileops.get_flags(fd) & ~(fileops.FS_APPEND | fileops.FS_IMMUTABLE))
        finally:
            os.close(fd)
    except OSError:  # no file that can be opened, or not ours to lift
        return False
    return True
