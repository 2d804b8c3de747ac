"""The life of one mount: open the union, mount, serve, unmount, close; and what happens meanwhile.

    check the mountpoint -> open the union -> mount -> serve --> report that it answers
                                                        |
              SIGTERM, SIGINT, SIGHUP, or an umount --> unmount -> close the union -> remove the record

A signal takes the mount out of the tree at once, open files or not: who asks a daemon to end wants
it to end, and nothing is lost, because a write was in the upper layer before it was answered.
SIGUSR1 reports the counts: beside the record, where ``unionfs mounts --stats`` finds them, and in the
foreground on stderr as well.

A layer in use by a mount that is just ending is waited for: container engines unmount and mount
again within milliseconds, and the old daemon may still be on its way out.
"""

import errno
import gc
import json
import logging
import os
import resource
import signal
import stat
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from unionfs.core.accesstimes import has_own_mount
from unionfs.core.config import Config
from unionfs.core.mountoptions import MountOptions
from unionfs.errors import LayerInUse, MountError
from unionfs.fuse import state
from unionfs.fuse.engine import Engine, choose
from unionfs.linux import at, capabilities
from unionfs.linux.answers import answers
from unionfs.linux.mount import is_mountpoint, mounts, resolved

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import trio

    from unionfs.core.union import Union
    from unionfs.fuse.supervisor import Link

__all__ = ["GONE", "TABLE_SIZE", "Session", "check_mountpoint", "prepare", "serve"]

log = logging.getLogger(__name__)

PATIENCE_S: Final = 10.0
"""How long a layer that another daemon holds is waited for, while no mount of it is in the tree."""

ANSWER_S: Final = 2.0
"""How long a mount that is to be covered may take to answer."""

POLL_S: Final = 0.02

OBEYED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)

TABLE_SIZE: Final = 1 << 15
"""Descriptors that the kernel's table has room for from the start: all directories that are ever kept open at
once, and as many files. It takes 8 bytes for each."""

SPARE: Final = 32
"""Descriptors that must be left before the mount is made: starting to serve takes a dozen."""

_MOMENT_S: Final = 0.05
_MOMENTS: Final = 100

GONE: Final = frozenset({errno.ENOTCONN, errno.ECONNABORTED})
"""What a mount answers whose daemon died; the second where the engine has negotiated ABORT_ERROR."""


@final
class Session:
    """One mount that was asked for."""

    def __init__(self, config: Config, options: MountOptions, mountpoint: Path, log_file: Path | None) -> None:
        self.config = config
        self.options = options
        self.mountpoint = mountpoint
        self.log_file = log_file
        """Where the log goes; None is stderr."""

    def run(self, ready: Callable[[], None], link: "Link | None" = None) -> None:
        """Serve the mount until it ends; call *ready* once it answers requests.

        As under the kernel's overlayfs nobody gets past a quota, or at reserved blocks, because root has mounted.
        With *link* a supervisor keeps the mount.

        Raises:
            UnionFSError: it could not be mounted; nothing is left.
        """
        with capabilities.without(capabilities.SYS_RESOURCE):
            self._run(ready, link)

    def _run(self, ready: Callable[[], None], link: "Link | None") -> None:
        prepare()
        check_mountpoint(self.mountpoint)
        union = _open_union(self.config)
        try:
            engine = choose(self.options.engine)(union, self.mountpoint, self.options)
            check_outside(self.mountpoint, self.config, union.descriptors())
            _require_room()
            signal.pthread_sigmask(signal.SIG_BLOCK, OBEYED)  # they wait until trio can tell us of them
            record = self._record(engine.name)  # before the mount: who asks for its real path then waits for us
            engine.mount()
            try:
                record = record._replace(device=engine.number or "")
                if link is not None:
                    record = self._handed_over(engine, record, link)
                served = _Served(self, union, engine, record, link)
                served.start()
                served.run(ready)
            finally:
                engine.unmount()
        finally:
            union.close()

    def _record(self, engine: str) -> state.Record:
        config = self.config
        return state.Record(
            pid=os.getpid(),
            started=state.started(os.getpid()) or 0,
            mountpoint=resolved(self.mountpoint),
            device="",
            engine=engine,
            lower=[os.path.realpath(path) for path in config.lower],
            data_only=[os.path.realpath(path) for path in config.data_only],
            upper=os.path.realpath(config.upper) if config.upper else None,
            work=os.path.realpath(config.work) if config.work else None,
            read_only=config.read_only,
            log=os.fspath(self.log_file) if self.log_file else None,
        )

    def _handed_over(self, engine: Engine, record: state.Record, link: "Link") -> state.Record:
        """Have the mount kept; return the record that says so."""
        supervised = record._replace(supervisor=link.supervisor, supervisor_started=link.started)
        why_not = engine.hand_over(link, supervised)
        if why_not is None:
            return supervised
        if self.options.supervise:
            raise MountError(f"{self.mountpoint}: the mount cannot be supervised; because {why_not}")
        return record


def prepare() -> None:
    """Make this process fit to serve."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until there is something to count
    os.umask(0)  # modes come from whoever asks
    _make_room_for_files()


def serve(session: Session, engine: Engine, union: "Union", record: state.Record, link: "Link") -> None:
    """Go on with a mount that was taken over, until it ends; what fails before it is served leaves it there."""
    signal.pthread_sigmask(signal.SIG_BLOCK, OBEYED)
    served = _Served(session, union, engine, record, link)
    served.start()
    try:
        served.run(None)
    finally:
        engine.unmount()
        union.close()


class _Served:
    """A mount from the moment at which it is made: the engine, the signals and the record beside it."""

    def __init__(
        self, session: Session, union: "Union", engine: Engine, record: state.Record, link: "Link | None"
    ) -> None:
        self._session = session
        self._union = union
        self._engine = engine
        self._record = record
        self._link = link
        self._records = state.own_directory()
        self._started = False
        """True if the engine answers already, without trio."""

    def start(self) -> None:
        self._started = self._engine.start()
        gc.freeze()  # what start-up made will stay: the collector need not look at it again
        gc.enable()

    def run(self, ready: Callable[[], None] | None) -> None:
        """Serve until the mount ends; *ready* is who waits for one that is new."""
        announce = partial(self._announce, ready) if ready is not None else self._remember
        try:
            if self._started:
                announce()
                self._let_work()

            import trio

            trio.run(self._main, None if self._started else announce)
        except ExceptionGroup as group:
            raise _first(group) from group
        finally:
            self._forget()

    def _let_work(self) -> None:
        """Wait until nobody asks anything, or a signal is there, but not for long.

        Importing trio holds the interpreter for 70 ms, for which those would wait who walk the tree as soon as it is
        mounted (measured: 140 ms instead of 100 for 2,880 files) or copy up a big file (150 instead of 105 for 256 MB).
        """
        asked = -1
        for _ in range(_MOMENTS):
            time.sleep(_MOMENT_S)
            before, asked = asked, sum(self._engine.statistics().values())
            is_idle = asked == before and not self._union.stats()["copying_up"]
            if is_idle or signal.sigpending() & set(OBEYED):
                return

    async def _main(self, announce: Callable[[], None] | None) -> None:
        import trio

        with trio.open_signal_receiver(*OBEYED) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, OBEYED)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._obey, signals, nursery.cancel_scope)
                if announce is not None:
                    nursery.start_soon(partial(trio.to_thread.run_sync, announce, abandon_on_cancel=True))
                if self._link is not None:
                    nursery.start_soon(self._listen, self._link)
                await self._engine.serve()
                nursery.cancel_scope.cancel()

    async def _obey(self, signals: "AsyncIterator[int]", everything: "trio.CancelScope") -> None:
        import trio

        async for number in signals:
            if number != signal.SIGUSR1:
                await trio.to_thread.run_sync(self._engine.unmount)
                everything.cancel()
                return
            self._report_counts()

    async def _listen(self, link: "Link") -> None:
        """Make room for another process when the supervisor says so."""
        import trio

        from unionfs.fuse.supervisor import STOPPED, receive

        while True:
            await trio.lowlevel.wait_readable(link.socket)
            message, _ = receive(link.socket)
            if not message:
                log.warning("the supervisor has died; if this daemon dies too, the mount is lost")
                self._record = self._record._replace(supervisor=None)
                self._remember()
                return
            await trio.to_thread.run_sync(self._engine.finish)
            os._exit(STOPPED)  # leaving everything as it is: it goes on elsewhere

    def _announce(self, ready: Callable[[], None]) -> None:
        """Say that the mount is ready, once it has answered a request; not in the thread that answers."""
        try:
            found = os.stat(self._session.mountpoint)
        except OSError as exc:
            raise MountError(
                f"{self._session.mountpoint}: the mount does not answer; because of {exc.strerror}"
            ) from exc
        self._record = self._record._replace(device=f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}")
        self._remember()
        ready()

    def _remember(self) -> None:
        if self._records is not None:
            with suppress(OSError):  # a full /run is no reason to have no mount
                self._record.write(self._records)
        if self._link is not None:
            self._link.serving()

    def _report_counts(self) -> None:
        counts = {"union": self._union.stats(), "requests": self._engine.statistics()}
        line = json.dumps(counts)
        if self._session.log_file is None:
            print(line, file=sys.stderr, flush=True)  # noqa: T201 - what SIGUSR1 is for
        if self._records is not None:
            with suppress(OSError):
                state.replace(state.statistics_file(self._records, os.getpid()), line)
        else:
            log.info("counts: %s", line)

    def _forget(self) -> None:
        if self._records is not None:
            state.remove(self._records, os.getpid(), self._record.supervisor)


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """Return the first plain exception of a group of groups."""
    exc = group.exceptions[0]
    return _first(exc) if isinstance(exc, ExceptionGroup) else exc


def _make_room_for_files() -> None:
    """Every open file of a user is one of ours, and directories are kept open as well."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    at.make_room(min(hard, TABLE_SIZE))


def _require_room() -> None:
    """Refuse to mount when hardly any file can be opened any more: what fails afterwards leaves a mount behind.

    Raises:
        MountError: the limit is too low, for so many layers perhaps.
    """
    with ExitStack() as opened:
        try:
            for _ in range(SPARE):
                opened.callback(os.close, os.open("/", os.O_PATH | os.O_CLOEXEC))
        except OSError as exc:
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            raise MountError(
                f"{limit} open files are too few for this mount; because each file that is opened there is one; "
                "try: ulimit -n 4096"
            ) from exc


def check_mountpoint(mountpoint: Path) -> None:
    """Refuse a place that cannot be mounted on.

    Raises:
        MountError: why not, and what to do.
    """
    if is_mountpoint(mountpoint) and answers([str(mountpoint)], ANSWER_S)[str(mountpoint)] is None:
        raise MountError(
            f"{mountpoint}: a mount whose daemon does not answer is there; try: unionfs umount --lazy {mountpoint}"
        )
    try:
        found = mountpoint.stat()
        os.statvfs(mountpoint)  # a daemon that died is noticed only by a request the kernel must pass on
    except FileNotFoundError as exc:
        raise MountError(f"{mountpoint}: there is no such directory to mount on; try: mkdir {mountpoint}") from exc
    except OSError as exc:
        if exc.errno not in GONE:
            raise MountError(f"{mountpoint}: it cannot be mounted on; because of {exc.strerror}") from exc
        raise MountError(
            f"{mountpoint}: a mount whose daemon died is still there; try: unionfs umount {mountpoint}"
        ) from exc
    if not stat.S_ISDIR(found.st_mode):
        raise MountError(f"{mountpoint}: it cannot be mounted on; because it is not a directory")


def check_outside(mountpoint: Path, config: Config, opened: Sequence[int]) -> None:
    """Refuse a place where the union would walk into itself; *opened* are its `Union.descriptors`.

    It may be a layer, which was opened before and so is reached below the mount, or lie in one that is reached
    through a mount of our own, as with the kernel's overlayfs.

    Raises:
        MountError: the place lies in a layer that we reach as everybody does.
    """
    place = resolved(mountpoint)
    layers = (config.upper, *config.lower, *config.data_only, config.work)
    for layer, fd in zip([layer for layer in layers if layer is not None], opened, strict=True):
        if place.startswith(os.path.realpath(layer).rstrip("/") + "/") and not has_own_mount(layer, fd):
            raise MountError(
                f"{mountpoint}: it cannot be mounted on; because it is inside the layer {layer}, and the union would "
                "contain itself; try: a directory outside of all layers"
            )


def _open_union(config: Config) -> "Union":
    from unionfs.core.union import Union

    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return Union(config, defer=True)
        except LayerInUse:
            if _is_mounted(config) or time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)


def _is_mounted(config: Config) -> bool:
    """Return whether a union that writes to one of these layers is in the tree of its daemon, and so will stay."""
    layers = {os.path.realpath(layer) for layer in (config.upper, *config.lower, *config.data_only) if layer}
    writers = [record for _, record in state.read_all() if not record.read_only]
    return any(record.upper in layers and _is_in_its_tree(record) for record in writers)


def _is_in_its_tree(record: state.Record) -> bool:
    """Return whether a mount is in the tree of its daemon; a device number alone may be another's by now."""
    shown = (record.device, record.mountpoint)
    with suppress(OSError):
        return any((mount.device, mount.mountpoint) == shown for mount in mounts(f"/proc/{record.pid}/mountinfo"))
    return False
