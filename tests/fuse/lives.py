"""A mount without a kernel whose servers die: a request is a call, and whatever was asked can be asked again."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from unionfs.core.config import AccessTimes, Config
from unionfs.core.mountoptions import MountOptions
from unionfs.core.union import Union
from unionfs.fuse import journal, takeover, wire
from unionfs.fuse.notes import Notes
from unionfs.fuse.noting import NotingRequests
from unionfs.fuse.passthrough import Cached
from unionfs.fuse.protocol import UNIQUE_RESEND, Feature, Opcode
from unionfs.fuse.supervisor import Link

__all__ = ["ROOT", "Mount", "handle_of", "node_of"]

ROOT = 1


class Mount:
    """Servers of one mount, one after the other; also what they take for the link to their supervisor."""

    def __init__(
        self, base: Path, times: AccessTimes = AccessTimes.LAYERS, options: MountOptions | None = None
    ) -> None:
        self.lower, self.upper = base / "lower", base / "upper"
        for path in (self.lower, self.upper, base / "work"):
            path.mkdir()
        self._config = Config(
            lower=(self.lower,), upper=self.upper, work=base / "work", metacopy=True, access_times=times
        )
        self._options = options or MountOptions()
        self._before = descriptors()
        self._device = os.open("/dev/null", os.O_WRONLY)
        self._abandoned: list[tuple[Union, NotingRequests]] = []
        self.unique = 0
        """The number of the last request."""
        self.kept: dict[bytes, int] = {}

    def serve(self) -> None:
        self._begin(Union(self._config), None)

    def die(self) -> None:
        """Let the next server take over."""
        self._abandoned.append((self.union, self.requests))
        given = [os.dup(fd) for fd in self.union.descriptors()]
        self._begin(Union(self._config, given=given), journal.read(self.kept[b"journal"]))

    def _begin(self, union: Union, past: journal.Past | None) -> None:
        self.union, modes = union, Cached(union, self._device)
        self.requests = NotingRequests(union, modes, self._options, Feature.SETXATTR_EXT)
        kept = {key: os.dup(fd) for key, fd in self.kept.items() if key != b"journal"}
        if past is not None:
            takeover.restore(union, modes, past, kept)
        self.requests.note_in(Notes(union, cast("Link", self), past, kept))

    def keep(self, *kept: tuple[bytes, int]) -> None:
        for key, fd in kept:
            if key in self.kept:
                self.drop(key)
            self.kept[key] = os.dup(fd)

    def drop(self, key: bytes) -> None:
        os.close(self.kept.pop(key))

    def ask(self, opcode: Opcode, nodeid: int, body: bytes, again: int = 0) -> Any:
        """Ask something; *again* is the number of a request that is sent again."""
        if not again:
            self.unique += 2
        unique = again | UNIQUE_RESEND if again else self.unique
        head = (0, int(opcode), unique, nodeid, 0, 0, 1, 0, 0)
        return self.requests.table[int(opcode)](nodeid, memoryview(body), head)

    def twice(self, opcode: Opcode, nodeid: int, body: bytes) -> Any:
        """Ask something of a server that dies before it answers, and of the next; return what that one says."""
        self.ask(opcode, nodeid, body)
        self.die()
        return self.ask(opcode, nodeid, body, again=self.unique)

    def id(self, name: bytes, parent: int = ROOT) -> int:
        return node_of(self.ask(Opcode.LOOKUP, parent, name + b"\0"))

    def open(self, nodeid: int, flags: int = os.O_RDWR) -> int:
        return handle_of(self.ask(Opcode.OPEN, nodeid, wire.OPEN.pack(flags, 0)))

    def read(self, nodeid: int, handle: int) -> bytes:
        return bytes(self.ask(Opcode.READ, nodeid, wire.READ.pack(handle, 0, 100)))

    def close(self) -> None:
        """Close also what the dead have left open, as their end would have."""
        for union, requests in (*self._abandoned, (self.union, self.requests)):
            requests.notes.journal.close()
            with suppress(OSError):
                union.close()
        for fd in descriptors() - self._before:
            with suppress(OSError):  # it was that of the listing
                os.close(fd)


def descriptors() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd")}


def node_of(answer: bytes) -> int:
    return int(wire.OFFSET.unpack_from(answer)[0])


def handle_of(answer: bytes, at: int = 0) -> int:
    return int(wire.OPENED.unpack_from(answer, at)[0])
