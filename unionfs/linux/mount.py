r"""mount(2), umount2(2) and the list of mounts: one function a call, no policy.

The list comes from ``/proc/self/mountinfo``, where the kernel writes space, tab, newline and
backslash as ``\ooo``. Fields are kept as str with surrogates for bytes that are not UTF-8, as
paths are everywhere above this floor. Source: proc_pid_mountinfo(5), Linux include/uapi/linux/mount.h.
"""

import ctypes
import os
import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

__all__ = [
    "MNT_DETACH",
    "MNT_FORCE",
    "MS_REMOUNT",
    "Mount",
    "flag_bits",
    "is_mountpoint",
    "mount",
    "mounts",
    "parse_mountinfo",
    "plain",
    "resolved",
    "umount",
]

MS_REMOUNT: Final = 0x20
MNT_FORCE: Final = 1
"""umount2: end the requests that wait for a FUSE daemon, whether or not the mount can go."""
MNT_DETACH: Final = 2
"""umount2: take the mount out of the tree now, end it when the last open file is closed."""

_SETS: Final = {
    "ro": 0x1,
    "nosuid": 0x2,
    "nodev": 0x4,
    "noexec": 0x8,
    "sync": 0x10,
    "dirsync": 0x80,
    "nosymfollow": 0x100,
    "noatime": 0x400,
    "nodiratime": 0x800,
    "relatime": 0x200000,
    "strictatime": 0x1000000,
}


class Mount(NamedTuple):
    """One line of mountinfo."""

    id: int
    parent: int
    device: str
    """``MAJOR:MINOR`` of st_dev."""
    root: str
    """The directory of its file system that is mounted; ``/`` except for bind mounts."""
    mountpoint: str
    options: str
    """Of this mount, separated by commas."""
    type: str
    source: str
    super_options: str
    """Of the file system, separated by commas."""


def mount(source: str, target: str, fstype: str, flags: int, data: str) -> None:
    """Call mount(2); an empty argument is passed as a null pointer."""
    _call("mount", target, _bytes(source), _bytes(target), _bytes(fstype), ctypes.c_ulong(flags), _bytes(data))


def umount(target: str, flags: int = 0) -> None:
    """Call umount2(2). Without MNT_DETACH it raises EBUSY while files are open."""
    _call("umount2", target, _bytes(target), flags)


def flag_bits(words: Iterable[str]) -> int:
    """Return the MS_* bits of words as mount(8) has them; a word that only undoes one has none.

    >>> flag_bits(["ro", "nosuid", "exec"])
    3
    """
    bits = 0
    for word in words:
        bits |= _SETS.get(word, 0)
    return bits


def mounts(path: str = "/proc/self/mountinfo") -> list[Mount]:
    """Return the mounts of this mount namespace, in the order in which they were made."""
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        return list(parse_mountinfo(file))


def is_mountpoint(place: "os.PathLike[str]") -> bool:
    """Tell whether something is mounted on *place*, without asking what is mounted: its daemon may not answer."""
    real = resolved(place)
    return any(mount.mountpoint == real for mount in mounts())


def resolved(place: "os.PathLike[str]") -> str:
    """Return the real path of *place*; what is mounted right there is not asked, for its daemon may not answer."""
    above, name = os.path.split(os.path.join(os.getcwd(), place).rstrip("/"))
    if name not in {"", ".", ".."}:
        real = os.path.join(os.path.realpath(above), name)
        if any(mount.mountpoint == real for mount in mounts()):
            return real
    return os.path.realpath(place)


def parse_mountinfo(lines: Iterable[str]) -> Iterator[Mount]:
    r"""Yield a Mount for each line.

    >>> line = r"36 35 0:98 / /mnt\040x rw,noatime shared:1 master:2 - fuse.unionfs a\054b rw,user_id=0" + "\n"
    >>> found, = parse_mountinfo([line])
    >>> found.mountpoint, found.source, found.type, found.device
    ('/mnt x', 'a,b', 'fuse.unionfs', '0:98')
    """
    for line in lines:
        left, _, right = line.rstrip("\n").partition(" - ")
        number, parent, device, root, mountpoint, options, *_ = left.split(" ")
        fstype, source, super_options = right.split(" ", 2)
        yield Mount(
            int(number),
            int(parent),
            device,
            plain(root),
            plain(mountpoint),
            options,
            fstype,
            plain(source),
            super_options,
        )


def plain(text: str) -> str:
    r"""Return *text* without the octal escapes of the kernel.

    >>> plain(r"a\040b")
    'a b'
    """
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text) if "\\" in text else text


def _bytes(text: str) -> bytes | None:
    return os.fsencode(text) or None


def _call(name: str, path: str, *args: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
