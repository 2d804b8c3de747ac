"""Doing without a capability for a while: what root may and an ordinary user may not, a mount must not do for him.

Source: capget(2), capabilities(7); Linux include/uapi/linux/capability.h.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["FSETID", "SYS_RESOURCE", "without"]

FSETID: Final = 4
"""To keep the set-user-id bit of a file that is written to."""

SYS_RESOURCE: Final = 24
"""To go beyond a disk quota, and to use the blocks that a filesystem reserves."""

_VERSION_3: Final = 0x20080522

_libc: Final = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable"))


class _Capabilities:
    """The capability sets of the calling thread, kept in the buffers that the system calls use."""

    def __init__(self) -> None:
        self._header = _Header(_VERSION_3, 0)
        self._sets = (_Sets * 2)()
        self._call("capget")

    def effective(self, bits: int) -> None:
        """Make the low word of the effective set *bits*."""
        self._sets[0].effective = bits
        self._call("capset")

    @property
    def low(self) -> int:
        return int(self._sets[0].effective)

    def _call(self, name: str) -> None:
        if getattr(_libc, name)(ctypes.byref(self._header), self._sets):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))


@contextmanager
def without(capability: int) -> Iterator[None]:
    """The calling thread, and those that it starts, without *capability* (one below 32) for the length of the block.

    A file lent to the kernel within is written to as if by somebody without it.
    """
    mine = _Capabilities()
    before = mine.low
    mine.effective(before & ~(1 << capability))
    try:
        yield
    finally:
        mine.effective(before)
