"""The engine that speaks the kernel's FUSE protocol itself, with `struct` and `os` on /dev/fuse.

trio, in the main thread, owns the life cycle: signals, cancellation, and whatever else its caller
does there. The serving loop (``serving.py``) has a thread of its own; this module makes the mount,
agrees with the kernel on what both can do, and starts and ends the loop. The loop needs no trio: it
answers while trio is still being imported, which takes longer than all the rest of a mount. But what it takes to
serve is imported before there is a mount: it may cover the place that this program is read from.
"""

import errno
import logging
import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from unionfs.errors import MountError
from unionfs.fuse import frozen, journal, listing, takeover, wire
from unionfs.fuse.device import Device
from unionfs.fuse.notes import Notes
from unionfs.fuse.noting import NotingRequests
from unionfs.fuse.passthrough import Cached, Passthrough
from unionfs.fuse.protocol import MAJOR, OLDEST_MINOR, Feature, Negotiated, Notify, Opcode, negotiate
from unionfs.fuse.requests import Answer, Handler, Head, Requests
from unionfs.fuse.serving import Server
from unionfs.fuse.settings import Settings
from unionfs.linux import ids

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unionfs.core.mountoptions import MountOptions
    from unionfs.core.union import Union
    from unionfs.fuse.journal import Past
    from unionfs.fuse.state import Record
    from unionfs.fuse.supervisor import Link

__all__ = ["DirectEngine"]

log: Final = logging.getLogger(__name__)

OLDEST_LINUX: Final = (5, 4)
"""The first with FUSE 7.31."""

WANTED: Final = (
    Feature.ASYNC_READ
    | Feature.ATOMIC_O_TRUNC  # saves the SETATTR of each truncating open
    | Feature.BIG_WRITES
    | Feature.DONT_MASK  # the union applies the umask, unless a default ACL takes its place
    | Feature.HAS_IOCTL_DIR
    | Feature.DO_READDIRPLUS  # READDIRPLUS_AUTO would end it for who lists first and stats later
    | Feature.ASYNC_DIO
    | Feature.PARALLEL_DIROPS
    | Feature.POSIX_ACL
    | Feature.ABORT_ERROR
    | Feature.MAX_PAGES
    | Feature.CACHE_SYMLINKS  # a symlink's target never changes
    | Feature.HANDLE_KILLPRIV_V2  # saves a GETXATTR of security.capability for each write
    | Feature.SETXATTR_EXT
    | Feature.INIT_EXT
    | Feature.DIRECT_IO_ALLOW_MMAP
    | Feature.HAS_RESEND
)
"""What is asked of every kernel."""

_FIRST_SIZE: Final = 8192
"""Bytes of the smallest buffer that the kernel accepts before it knows of MAX_WRITE: FUSE_MIN_READ_BUFFER."""


class DirectEngine:
    """One mount, served by the direct engine."""

    name = "direct"

    def __init__(self, union: "Union", mountpoint: Path, options: "MountOptions") -> None:
        self._union = union
        self._mountpoint = mountpoint
        self._options = options
        if union.config.read_only:  # also where nobody said ro: see frozen.py
            flags = (*(word for word in options.flags if word != "rw"), "ro")
            self._options = options._replace(flags=tuple(dict.fromkeys(flags)))
        self._device: Device | None = None
        self._features = Feature(0)
        """What was agreed with the kernel."""
        self._link: Link | None = None
        """Where a supervisor is that keeps the mount."""
        self._past: Past | None = None
        self._kept: Mapping[bytes, int] = {}
        """What the last server knew and left, if there was one."""
        self._server: Server | None = None
        self._over = threading.Event()
        """Set when the loop has ended."""
        self._error: BaseException | None = None
        """What it ended with."""

    @staticmethod
    def unfit() -> str | None:
        """Return why this engine cannot run here, or None if it can."""
        release = tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])
        return None if release >= OLDEST_LINUX else f"Linux {OLDEST_LINUX[0]}.{OLDEST_LINUX[1]} or newer is needed"

    def mount(self) -> None:
        """Make the mount and come to terms with the kernel; requests wait until `serve`.

        Raises:
            MountError: why not, and what to do.
        """
        self._device = Device.mount(self._mountpoint, self._options)
        try:
            agreed = shake_hands(self._device.fd, self._wanted())
        except BaseException:
            self.unmount()
            raise
        self._device.read_further_ahead()
        self._features = agreed.features

    def hand_over(self, link: "Link", record: "Record") -> str | None:
        if self._device is None or Feature.HAS_RESEND not in self._features:
            return "the kernel does not send requests again (Linux 6.9 does)"
        what = Settings(
            config=self._union.config,
            options=self._options,
            record=record,
            features=int(self._features),
            divisor=listing.DIVISOR.value,
            privileged=self._device.privileged,
        )
        takeover.hand_over(link, self._union, self._device.fd, self._device.keeper, what)
        self._link = link
        return None

    def take_over(self, device: Device, features: int, link: "Link", kept: "Mapping[bytes, int]") -> None:
        """Be the next server of a mount instead of making one; *kept* is what the supervisor had.

        Raises:
            ValueError: the last one's notes cannot be read.
        """
        self._device, self._features, self._link = device, Feature(features), link
        self._past = journal.read(kept[b"journal"])
        self._kept = kept

    def _wanted(self) -> Feature:
        if self._union.config.read_only:
            return WANTED & ~Feature.ATOMIC_O_TRUNC | frozen.NEEDED
        noting = self._union.noting
        wanted = WANTED & ~Feature.CACHE_SYMLINKS if noting.always else WANTED
        if "sync" in self._options.flags or noting.elsewhere:  # the kernel would neither sync nor keep from noting
            return wanted
        if ids.has_capability(ids.CAP_SYS_ADMIN) and ids.is_initial_user_namespace():
            return wanted | Feature.PASSTHROUGH
        return wanted

    def _handlers(self, device: int) -> Requests:
        features, link, options = self._features, self._link, self._options
        if Feature.PASSTHROUGH in features:
            modes: Cached = Passthrough(self._union, device)
        else:
            modes = Cached(self._union, device)
        if frozen.NEEDED in features:
            kind: type[Requests] = frozen.FrozenRequests
        else:
            kind = Requests if link is None else NotingRequests
        requests = kind(self._union, modes, options, features)
        if self._past is not None:
            takeover.restore(self._union, modes, self._past, self._kept)
        if link is not None:
            requests.note_in(Notes(self._union, link, self._past, self._kept))
        return requests

    def start(self) -> bool:
        """Begin to answer requests, in a thread of its own."""
        if self._device is None:
            raise RuntimeError("start before mount")
        requests = self._handlers(self._device.fd)
        if self._options.debug:
            requests.table = traced(requests.table)
        self._server = Server(self._device.fd, requests, follow=self._options.follow)
        if self._past is not None:
            os.write(self._device.fd, wire.notification(Notify.RESEND, b""))
        threading.Thread(target=self._run, name="unionfs direct", daemon=True).start()
        return True

    def _run(self) -> None:
        try:
            if self._server is not None:
                self._server.run()
        except BaseException as exc:  # noqa: BLE001 - raised again where somebody waits for us
            self._error = exc
        finally:
            self._over.set()

    async def serve(self) -> None:
        """Let the loop run until there is no mount any more; cancelled, unmount."""
        import trio

        if self._server is None:
            raise RuntimeError("serve before mount")
        try:
            await trio.to_thread.run_sync(self._over.wait, abandon_on_cancel=True)
        finally:
            self.unmount()
            self._server.stop()
        if self._error is not None:
            raise self._error

    def unmount(self) -> None:
        """Take the mount out of the tree if it is still there, which ends `serve`."""
        device, self._device = self._device, None
        if device is None:
            return
        try:
            device.unmount()
        except OSError as exc:
            if exc.errno not in {errno.EINVAL, errno.ENOENT}:  # somebody else was faster
                log.warning("%s cannot be unmounted: %s", self._mountpoint, exc.strerror)
        device.close()

    @property
    def number(self) -> str | None:
        return self._device.number if self._device is not None else None

    def finish(self) -> None:
        if self._server is not None:
            self._server.finish()

    def statistics(self) -> dict[str, int]:
        """Return how many requests of each kind came."""
        return self._server.statistics() if self._server is not None else {}


def traced(table: dict[int, Handler]) -> dict[int, Handler]:
    """Return handlers that say what they are asked, before they do it."""

    def trace(opcode: int, handler: Handler) -> Handler:
        def say_and_do(nodeid: int, body: memoryview, head: Head) -> Answer:
            log.debug("%s of node %d for process %d", Opcode(opcode).name.lower(), nodeid, head[6])
            return handler(nodeid, body, head)

        return say_and_do

    return {opcode: trace(opcode, handler) for opcode, handler in table.items()}


def shake_hands(device: int, wanted: Feature) -> Negotiated:
    """Read the INIT request, which comes first, and answer it.

    Raises:
        MountError: the kernel is too old.
    """
    buffer = bytearray(_FIRST_SIZE)
    while True:
        size = os.readv(device, [buffer])
        head: Head = wire.HEADER.unpack_from(buffer)
        unique = head[2]
        if head[1] != Opcode.INIT:
            os.write(device, wire.failure(unique, errno.EIO))
            continue
        offer = wire.init(memoryview(buffer)[wire.HEADER.size : size])
        if offer.major > MAJOR:  # it will ask again, with ours
            os.write(device, wire.reply(unique, wire.MAJOR_ONLY.pack(MAJOR, 0)))
            continue
        if (offer.major, offer.minor) < (MAJOR, OLDEST_MINOR):
            os.write(device, wire.failure(unique, errno.EPROTO))
            raise MountError(
                f"the kernel speaks FUSE {offer.major}.{offer.minor}; because {MAJOR}.{OLDEST_MINOR} (Linux 5.4) "
                "is needed; try: --engine pyfuse3"
            )
        agreed = negotiate(offer.minor, offer.flags, offer.max_readahead, wanted)
        os.write(device, wire.reply(unique, wire.inited(agreed, stack_depth=1)))
        return agreed
