"""Answering a big READ without touching the data: file to pipe to device.

The pipe takes references to the file's pages, and the device copies out of them; reading into memory
of ours and writing that copies once more, and pins each page on the way. Reading a big file cost a quarter less
CPU time in the server (128 KiB requests, file on tmpfs), and smaller reads are cheaper the plain way.

The header goes into the pipe first and names the length, so the length must be known before: it is what the
file's size leaves. If the pipe then got less, what it got is thrown away and the plain way taken.

Source: splice(2); Linux fs/fuse/dev.c, fuse_dev_splice_write().
"""

import os
from typing import Final, NamedTuple

from unionfs.fuse import wire
from unionfs.linux import fusedev

__all__ = ["SMALLEST", "Span", "Splicer"]

SMALLEST: Final = 32 << 10
"""Bytes from which three system calls are cheaper than copying."""

_PAGE: Final = 4096


class Span(NamedTuple):
    """A part of an open file, as the answer to a READ."""

    fd: int
    offset: int
    size: int


class Splicer:
    """The pipe of one serving thread; empty between two calls."""

    def __init__(self, device: int) -> None:
        self._device = device
        self._out, self._in = os.pipe()
        self._room = fusedev.widen_pipe(self._in) - _PAGE  # a page for the header

    def send(self, unique: int, span: Span) -> bool:
        """Reply to request *unique* with *span*; False, and nothing was sent, where that cannot be spliced.

        Raises:
            OSError: the device did not take the reply.
        """
        size = min(span.size, os.fstat(span.fd).st_size - span.offset)
        if not SMALLEST <= size <= self._room:
            return False
        total = os.write(self._in, wire.REPLY.pack(wire.REPLY.size + size, 0, unique)) + size
        held = wire.REPLY.size
        try:
            while held < total:
                moved = os.splice(span.fd, self._in, total - held, offset_src=span.offset + held - wire.REPLY.size)
                if not moved:
                    break
                held += moved
        except OSError:  # a file system that cannot
            pass
        if held < total:
            os.read(self._out, held)
            return False
        try:
            os.splice(self._out, self._device, total)
        except OSError:
            os.read(self._out, total)
            raise
        return True

    def close(self) -> None:
        os.close(self._out)
        os.close(self._in)
