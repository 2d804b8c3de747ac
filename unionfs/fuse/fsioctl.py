"""chattr and lsattr: the two forms in which the kernel asks for a file's flags, and what they mean.

``FS_IOC_GETFLAGS`` speaks of a word of ``FS_*_FL`` bits, ``FS_IOC_FSGETXATTR`` of a structure whose
first word holds ``FS_XFLAG_*`` bits. Newer kernels ask for both around one chattr(1). The union
knows the first form; the second is translated here. Project ids and extent sizes are not carried.

Source: Linux include/uapi/linux/fs.h; fs/file_attr.c, fileattr_fill_flags().
"""

from struct import Struct
from typing import TYPE_CHECKING, Final

from unionfs.fuse.wire import IOCTL_DONE, Ioctl

if TYPE_CHECKING:
    from unionfs.core.union import Union

__all__ = ["CHANGING", "KNOWN", "answer", "from_xflags", "to_xflags"]

_GETFLAGS: Final = frozenset({0x80086601, 0x80046601})
"""FS_IOC_GETFLAGS and FS_IOC32_GETFLAGS; both mean a word of 32 bits, whatever the number says."""
_SETFLAGS: Final = frozenset({0x40086602, 0x40046602})
FSGETXATTR: Final = 0x801C581F
FSSETXATTR: Final = 0x401C5820

CHANGING: Final = _SETFLAGS | {FSSETXATTR}
KNOWN: Final = _GETFLAGS | CHANGING | {FSGETXATTR}
"""Every other number is answered ENOTTY; a common one is the question whether a file is a terminal."""

_WORD: Final = Struct("=I")
_FSXATTR: Final = Struct("=IIIII8x")  # xflags, extsize, nextents, projid, cowextsize

_PAIRS: Final = ((0x08, 0x20), (0x10, 0x08), (0x20, 0x10), (0x40, 0x80), (0x80, 0x40))
"""``FS_*_FL`` and the ``FS_XFLAG_*`` of the same meaning: sync, immutable, append, nodump, noatime."""
_SHARED: Final = sum(flag for flag, _ in _PAIRS)
"""What the second form can say; other bits are left as they are."""


def answer(union: "Union", nodeid: int, request: Ioctl) -> bytes:
    """Carry out a request that is in `KNOWN`.

    Raises:
        OSError: what the file system says of the flags.
    """
    if request.cmd in _GETFLAGS:
        return _done(_WORD.pack(union.getflags(nodeid)), request)
    if request.cmd == FSGETXATTR:
        return _done(_FSXATTR.pack(to_xflags(union.getflags(nodeid)), 0, 0, 0, 0), request)
    if request.cmd in _SETFLAGS:
        union.setflags(nodeid, *_WORD.unpack_from(request.data))
    else:
        kept = union.getflags(nodeid) & ~_SHARED
        union.setflags(nodeid, kept | from_xflags(_WORD.unpack_from(request.data)[0]))
    return _done(b"", request)


def _done(data: bytes, request: Ioctl) -> bytes:
    return IOCTL_DONE.pack(0, 0, 0, 0) + data.ljust(request.out_size, b"\0")[: request.out_size]


def to_xflags(flags: int) -> int:
    """Translate ``FS_*_FL`` to ``FS_XFLAG_*``.

    >>> hex(to_xflags(0x10 | 0x20))
    '0x18'
    """
    return sum(xflag for flag, xflag in _PAIRS if flags & flag)


def from_xflags(xflags: int) -> int:
    """Translate ``FS_XFLAG_*`` to ``FS_*_FL``.

    >>> hex(from_xflags(0x18))
    '0x30'
    """
    return sum(flag for flag, xflag in _PAIRS if xflags & xflag)
