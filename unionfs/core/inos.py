"""Inode numbers that users see: stable, and unique although layers lie on several filesystems.

A file shows the number it has on its own filesystem, with the number of that filesystem in the top
eight bits; filesystem 0 is the top layer's, so where all layers share one, numbers are the real ones.
A copied-up file keeps the number of the lower file it came from, because its origin is written down.

``xino=off`` and ``auto`` are accepted and give the same numbers as ``on``. Under the kernel's ``off`` files of
several filesystems show their real numbers, each with a st_dev of its own; a FUSE mount has one st_dev
for all, and two files with both in common are hard links of each other to tar, rsync and cp.

Source: Linux Documentation/filesystems/overlayfs.rst, "Inode properties" (xino).
"""

from typing import Final

__all__ = ["FSID_BITS", "MAX_FILESYSTEMS", "number"]

FSID_BITS: Final = 8
MAX_FILESYSTEMS: Final = 1 << FSID_BITS
_SHIFT: Final = 64 - FSID_BITS
_LOW: Final = (1 << _SHIFT) - 1


def number(fsid: int, real: int) -> int:
    """Return the number shown for inode *real* of filesystem *fsid*.

    A real number that needs the top bits itself (no Linux disk filesystem gives one) is folded into
    the lower ones: still stable, and unique but for an accident.

    >>> number(0, 12), hex(number(2, 12))
    (12, '0x20000000000000c')
    """
    if real > _LOW:
        real = (real ^ (real >> _SHIFT)) & _LOW
    return (fsid << _SHIFT) | real
