r"""The process that keeps a mount when the one that serves it dies, and lets another one take over.

    command --fork--> supervisor --fork--> server      at the mount; then the command ends
                          |   \--exec ---> successor   when the server was killed, or for `unionfs restart`

The supervisor serves nothing and knows nothing of unions. It keeps descriptors, each under a key: the device,
which holds the mount and the requests that wait in it; the layers with their locks; the journal, which says
what the numbers mean that the kernel has; open files that have no name any more. The server sends them over a socket
(`Link`), where they are safe from the moment at which they were sent. It forks before anything is imported that
a mount needs, so that it stays small, and sleeps until the socket ends or a signal comes.

* The server ends by itself: its mount is gone, and the supervisor ends with the same status.
* It is killed: a fresh interpreter is started, with the code that is on disk now. It gets every descriptor,
  takes the mount over (``successor.py``), and says so.
* A restart is asked for, over a socket beside the mount's record: the successor is started first. Only when it is
  fit does the server get the word to stop between two requests, and the same happens as if it had been killed. A
  successor that does not even start leaves the old one where it is.
* Servers die again and again (FUTILE): there is no point in going on. The supervisor ends, and with it the last
  descriptor of the device, so that whoever waits for the mount gets an error, as he does where nobody supervises.

Signals that are for the server are passed on: who started it may know only the supervisor.
"""

import contextlib
import gc
import json
import logging
import os
import re
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Final, NoReturn, final

from unionfs.fuse import state

__all__ = ["GO", "KEEP", "READY", "STOPPED", "Link", "Splitter", "receive", "unfit"]

log = logging.getLogger(__name__)

STOPPED: Final = 75
"""The exit status of a server that stopped so that another one can take over."""

OLDEST_LINUX: Final = (6, 9)
"""The first with FUSE_NOTIFY_RESEND."""

FUTILE: Final = 5
"""How many servers in a row may die by themselves, or hang, before they have served for a moment."""

KILLED: Final = 25
"""The same of those that were killed, for lack of memory it may be."""

MOMENT_S: Final = 1.0
PATIENCE_S: Final = 20.0
"""How long a successor may take to start, and a server to stop."""

KEEP, DROP, SERVING, READY, GO, STOP = b"K", b"D", b"S", b"R", b"G", b"T"

PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_CODE: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); from unionfs.fuse.successor import main; main(int(sys.argv[2]))"
)

_MOST: Final = 200
"""Descriptors in one message; the kernel's limit is 253."""
_LONGEST: Final = 1 << 16

_PASSED_ON: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


def unfit(engine: str) -> str | None:
    """Return why no mount by *engine* can be supervised here; None where it can be tried."""
    if engine == "pyfuse3":
        return "pyfuse3 cannot take over a mount that it did not make"
    release = tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])
    return None if release >= OLDEST_LINUX else "Linux 6.9 or newer is needed, which sends requests again"


@final
class Link:
    """The end of the socket that the server has; also how the supervisor hands everything to the next one."""

    def __init__(self, end: socket.socket, supervisor: int) -> None:
        self.socket = end
        self.supervisor = supervisor
        """Its process id."""
        self.started = state.started(supervisor) or 0
        self.is_lost = False
        """True once nobody is at the other end: the mount goes on, and dies with its server."""

    def keep(self, *kept: tuple[bytes, int]) -> None:
        """Have descriptors kept under keys; one that a key had before is let go."""
        for start in range(0, len(kept), _MOST):
            part = kept[start : start + _MOST]
            self.say(KEEP + b"\0".join(key for key, _ in part), [fd for _, fd in part])

    def drop(self, key: bytes) -> None:
        self.say(DROP + key)

    def serving(self) -> None:
        """Tell that the mount is served from now on."""
        self.say(SERVING)

    def say(self, message: bytes, fds: list[int] | None = None) -> None:
        if self.is_lost:
            return
        try:
            socket.send_fds(self.socket, [message], fds or [])
        except OSError:
            self.is_lost = True


def receive(end: socket.socket) -> tuple[bytes, list[int]]:
    """Return the next message and its descriptors; an empty one where nobody is at the other end."""
    try:
        message, fds, _, _ = socket.recv_fds(end, _LONGEST, _MOST)
    except OSError:
        return b"", []
    return message, fds


class Splitter:
    """Becomes two processes: the supervisor, and the one that goes on and is supervised."""

    def __init__(self, on_start: Callable[[], None] | None) -> None:
        """*on_start* is called in the supervisor, once it has let go of what it was started with.

        With None it keeps all of that, and is in the foreground.
        """
        self._on_start = on_start
        self.link: Link | None = None
        """How the supervised process reaches the other one."""

    def __call__(self) -> None:
        """Split. Returns in the supervised process only."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        supervisor = os.getpid()
        gc.freeze()  # so that looking for garbage does not make the two differ
        pid = os.fork()
        if pid:
            theirs.close()
            self._supervise(pid, ours)
        ours.close()
        os.setsid()
        self.link = Link(theirs, supervisor)

    def _supervise(self, pid: int, ours: socket.socket) -> NoReturn:
        status = 1
        try:
            gc.disable()
            if self._on_start is not None:
                let_go(ours.fileno())
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            if self._on_start is not None:
                self._on_start()
            status = Supervisor(Server(pid, ours)).run()
        except BaseException:
            log.exception("the supervisor ends because of an error")
        finally:
            if status < 0:  # as the server did
                signal.signal(-status, signal.SIG_DFL)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [-status])
                os.kill(os.getpid(), -status)
            os._exit(status if status >= 0 else 1)


def let_go(*kept: int) -> None:
    """Close what was inherited but for *kept*, and leave the current directory: whoever called may wait for that."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(name))
    os.chdir("/")
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


@final
class Server:
    """One process that serves, or is about to."""

    def __init__(self, pid: int, end: socket.socket) -> None:
        self.pid = pid
        self.link = Link(end, os.getpid())
        self.is_ready = False
        """It could take over."""
        self.since: float | None = None
        """When it began to serve; None if it does not yet."""
        self.stop_by: float | None = None
        """When it must have done what it was told, or be killed."""
        self.is_late = False
        """It was killed for that."""

    def reap(self) -> int:
        """Wait for its end, and return the exit status, or the number of the signal negated."""
        self.link.socket.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


@final
class Supervisor:
    """The supervisor's loop."""

    def __init__(self, server: Server) -> None:
        self._server: Server | None = server
        self._next: Server | None = None
        """A successor that was started and has not taken over."""
        self._kept: dict[bytes, int] = {}
        self._asking: list[socket.socket] = []
        """Who asked for a restart and waits to hear of it."""
        self._worn = 0.0
        """How much of the patience with servers that die is used up; all of it is 1."""
        self._restarts = 0
        self._signals: list[int] = []
        """Those that came while there was no server."""

    def run(self) -> int:
        """Supervise until the mount is gone; return the status to end with."""
        for number in _PASSED_ON:
            signal.signal(number, self._pass_on)
        while True:
            for fd in self._wait():
                ended = self._attend(fd)
                if ended is not None:
                    return ended
            self._hurry()

    def _pass_on(self, number: int, _frame: object) -> None:
        if self._server is not None and (self._server.since is not None or not self._restarts):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._server.pid, number)
        else:
            self._signals.append(number)

    def _wait(self) -> list[int]:
        poller = select.poll()
        servers = [each for each in (self._server, self._next) if each is not None]
        for each in servers:
            poller.register(each.link.socket, select.POLLIN)
        if b"control" in self._kept:
            poller.register(self._kept[b"control"], select.POLLIN)
        limits = [each.stop_by for each in servers if each.stop_by is not None]
        timeout = max(0.0, min(limits) - time.monotonic()) * 1000 if limits else None
        return [fd for fd, _ in poller.poll(timeout)]

    def _hurry(self) -> None:
        """Kill who does not do in time what he was told; his end comes over the socket."""
        for each in (self._server, self._next):
            if each is not None and each.stop_by is not None and time.monotonic() > each.stop_by:
                each.stop_by, each.is_late = None, True
                each.kill()

    def _attend(self, fd: int) -> int | None:
        """Handle what came over *fd*; return the status to end with, if it is time to."""
        if self._server is not None and fd == self._server.link.socket.fileno():
            return self._hear_server(self._server)
        if self._next is not None and fd == self._next.link.socket.fileno():
            return self._hear_next(self._next)
        if fd == self._kept.get(b"control"):
            self._answer_door()
        return None

    def _hear_server(self, server: Server) -> int | None:
        message, fds = receive(server.link.socket)
        if not message:
            return self._ended(server)
        kind, rest = message[:1], message[1:]
        if kind == KEEP:
            for key, fd in zip(rest.split(b"\0"), fds, strict=True):
                self._drop(key)
                self._kept[key] = fd
        elif kind == DROP:
            self._drop(rest)
        elif kind == SERVING:
            server.since = time.monotonic()
            self._tell_asking({"pid": server.pid, "restarts": self._restarts})
            for number in self._signals:
                os.kill(server.pid, number)
            self._signals.clear()
        return None

    def _drop(self, key: bytes) -> None:
        fd = self._kept.pop(key, None)
        if fd is not None:
            os.close(fd)

    def _ended(self, server: Server) -> int | None:
        """Decide what the end of the server means."""
        status = server.reap()
        self._server = None
        is_new = server.since is None and not self._restarts  # whoever waits for the mount is told why not
        is_over = is_new or b"device" not in self._kept or self._is_disconnected()
        if is_over or (status >= 0 and status != STOPPED and server.since is not None):
            self._give_up("the mount has ended")
            return status if status != STOPPED else 0
        if status != STOPPED:
            log.error("the server %d has died (%s); another one takes over", server.pid, status)
            if not self._is_worth_it(server, status):
                return 1
        if self._next is None:
            return self._start()
        if self._next.is_ready:
            self._let_go_on(self._next)
        return None

    def _is_worth_it(self, server: Server, status: int) -> bool:
        """Tell whether to try once more after a server that died with *status*."""
        if server.since is not None and time.monotonic() - server.since > MOMENT_S:
            self._worn = 0.0
            return True
        is_killed = status == -signal.SIGKILL and not server.is_late
        self._worn += 1 / (KILLED if is_killed else FUTILE)
        if self._worn < 1 - 1e-9:
            return True
        log.critical("servers die again and again, so the mount is given up; unmount it")
        self._give_up("its servers die again and again")
        return False

    def _is_disconnected(self) -> bool:
        """Return whether the kernel has ended the mount."""
        poller = select.poll()
        poller.register(self._kept[b"device"], 0)
        return any(events & select.POLLERR for _, events in poller.poll(0))

    def _give_up(self, why: str) -> None:
        """Let everything go."""
        self._tell_asking({"error": why})
        for key in list(self._kept):
            self._drop(key)
        if self._next is not None:
            self._next.kill()
            self._next.reap()

    def _start(self) -> int | None:
        """Start a successor, with the code that is on disk now; return the status to end with if that is impossible."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        os.set_inheritable(theirs.fileno(), True)
        command = [sys.executable, "-c", _CODE, PACKAGE, str(theirs.fileno())]
        try:
            pid = os.posix_spawn(sys.executable, command, os.environ, setsid=True)
        except OSError as exc:
            ours.close()
            return self._cannot_start(f"{sys.executable} cannot be started: {exc.strerror}")
        finally:
            theirs.close()
        self._next = Server(pid, ours)
        self._next.stop_by = time.monotonic() + PATIENCE_S
        return None

    def _cannot_start(self, why: str) -> int | None:
        log.error("%s", why)
        if self._server is not None:
            self._tell_asking({"error": f"{why}; the old server goes on"})
            return None
        self._give_up(why)
        return 1

    def _hear_next(self, successor: Server) -> int | None:
        message, _ = receive(successor.link.socket)
        if not message:
            return self._next_died(successor)
        successor.stop_by = None
        if message != READY + (self._form() or message[1:]):
            successor.kill()
            log.error("the new version keeps its notes in another form; unmount, and mount again, to use it")
            return None
        successor.is_ready = True
        if self._server is None:
            self._let_go_on(successor)
        elif self._server.stop_by is None:
            self._server.link.say(STOP)
            self._server.stop_by = time.monotonic() + PATIENCE_S
        return None

    def _form(self) -> bytes | None:
        """Return the version of the journal that is kept."""
        fd = self._kept.get(b"journal")
        return os.pread(fd, 8, 8) if fd is not None else None

    def _next_died(self, successor: Server) -> int | None:
        status = successor.reap()
        self._next = None
        if self._server is not None:
            return self._cannot_start(f"the new server does not start (status {status}, see the log)")
        log.error("a successor has died before it could take over (%s)", status)
        return self._start() if self._is_worth_it(successor, status) else 1

    def _let_go_on(self, successor: Server) -> None:
        """Hand everything to *successor*, which is ready: it is the server now."""
        self._server, self._next = successor, None
        self._restarts += 1
        successor.link.keep(*self._kept.items())
        successor.link.say(GO + b"%d" % self._restarts)

    def _answer_door(self) -> None:
        """Take a request for a restart. The socket's mode decides who may ask."""
        with socket.socket(fileno=os.dup(self._kept[b"control"])) as door:
            asking, _ = door.accept()
        self._asking.append(asking)
        if self._next is None:
            self._start()

    def _tell_asking(self, answer: dict[str, object]) -> None:
        for each in self._asking:
            with contextlib.suppress(OSError):
                each.sendall(json.dumps(answer).encode())
            each.close()
        self._asking.clear()
