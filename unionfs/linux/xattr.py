"""Extended attributes of an open file or of ``at.proc_path(dirfd, name)``; symlinks are not followed.

Names are ``str`` decoded as file names are (``os.fsencode`` gives the bytes back): they need not be
UTF-8. What changes attributes goes through the ``xattr`` library. What requests do all the time, to read
them and to set one by a descriptor, goes through `os`: the library asks the kernel for the size first and
builds its answer in Python, 3.6 to 4 µs against 1; it sets one in 7 µs against 2 (tmpfs, CPython 3.11).
"""

import errno
import os
from collections.abc import Callable, Iterable
from typing import Final

import xattr

from unionfs.linux import at

__all__ = [
    "ACCESS_ACL",
    "ACLS",
    "CAPABILITY",
    "DEFAULT_ACL",
    "NOT_SET",
    "copy",
    "get",
    "names",
    "remove",
    "require",
    "set",
]

NOT_SET: Final = frozenset({errno.ENODATA, errno.EOPNOTSUPP})
"""Answers, not failures: the attribute is not there, or the filesystem has none at all."""

ACCESS_ACL: Final = "system.posix_acl_access"
DEFAULT_ACL: Final = "system.posix_acl_default"
ACLS: Final = frozenset({ACCESS_ACL, DEFAULT_ACL})
CAPABILITY: Final = "security.capability"

Target = int | bytes
"""A descriptor, which may be a mere place (O_PATH), or a path whose last component is not followed."""


def names(target: Target) -> list[str]:
    """List the attributes; empty if there are none or the filesystem has none."""
    try:
        if isinstance(target, int):
            return os.listxattr(target)
        return os.listxattr(target, follow_symlinks=False)
    except OSError as exc:
        if exc.errno in NOT_SET:
            return []
        if exc.errno == errno.EBADF and isinstance(target, int):
            return os.listxattr(at.itself(target))
        raise


def get(target: Target, name: str) -> bytes | None:
    """Return one attribute, or None if it is not set or the filesystem has none."""
    try:
        return require(target, name)
    except OSError as exc:
        if exc.errno in NOT_SET:
            return None
        raise


def require(target: Target, name: str) -> bytes:
    """Return one attribute.

    Raises:
        OSError: ENODATA, it is not set; EOPNOTSUPP, the filesystem has none of this kind.
    """
    if not isinstance(target, int):
        return os.getxattr(target, name, follow_symlinks=False)
    try:
        return os.getxattr(target, name)
    except OSError as exc:
        if exc.errno != errno.EBADF:
            raise
        return os.getxattr(at.itself(target), name)


def set(target: Target, name: str, value: bytes, flags: int = 0) -> None:  # noqa: A001 - the syscall's verb
    """Set one attribute; *flags* is os.XATTR_CREATE, os.XATTR_REPLACE or 0."""
    if not isinstance(target, int):
        xattr.setxattr(target, name, value, options=flags << 1, symlink=True)
        return
    try:
        os.setxattr(target, name, value, flags)
    except OSError as exc:
        if exc.errno != errno.EBADF:  # a mere place has no attributes by its descriptor, but by its name in /proc
            raise
        xattr.setxattr(at.itself(target), name, value, options=flags << 1)


def remove(target: Target, name: str) -> None:
    """Remove one attribute.

    Raises:
        OSError: ENODATA, it is not set.
    """
    try:
        xattr.removexattr(target, name, symlink=not isinstance(target, int))
    except OSError as exc:
        if exc.errno != errno.EBADF or not isinstance(target, int):
            raise
        xattr.removexattr(at.itself(target), name)


def copy(source: Target, target: Target, wanted: Iterable[str], renamed: Callable[[str], str | None]) -> None:
    """Give *target* those of *source*'s attributes that are *wanted*, as *renamed* calls them; None leaves one out.

    Raises:
        OSError: an ACL or a ``security.*`` attribute could not be kept. Others that *target*'s
            filesystem does not know are dropped, as the kernel's overlayfs drops them.
    """
    for name in wanted:
        new_name = renamed(name)
        value = None if new_name is None else get(source, name)
        if new_name is None or value is None:
            continue
        try:
            set(target, new_name, value)
        except OSError as exc:
            if exc.errno != errno.EOPNOTSUPP or name.startswith(("security.", "system.posix_acl_")):
                raise
