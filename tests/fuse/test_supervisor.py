"""How often a supervisor tries again, and what it does at each step; what comes of it is tested on mounts."""

import contextlib
import itertools
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from tests.mounting import eventually
from unionfs.fuse.journal import Journal
from unionfs.fuse.supervisor import DROP, KEEP, READY, SERVING, STOP, STOPPED, Server, Supervisor, receive, unfit


@pytest.fixture
def server() -> Iterator[Server]:
    """Return one that has just begun to serve."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        server = Server(os.getpid(), ours)
        server.since = time.monotonic()
        yield server


def tries(supervisor: Supervisor, server: Server, status: int) -> int:
    """Return after how many such deaths it gives up."""
    return next(count for count in itertools.count(1) if not supervisor._is_worth_it(server, status))


@pytest.mark.logs("servers die again and again")
def test_one_that_had_to_be_killed_counts_like_one_that_died_by_itself(server: Server) -> None:
    server.is_late = True
    assert tries(Supervisor(server), server, -signal.SIGKILL) == 5


@pytest.mark.logs("servers die again and again")
@pytest.mark.parametrize(
    ("serves", "status", "expected"),
    [
        (True, 1, 5),
        (True, -signal.SIGSEGV, 5),
        (True, -signal.SIGKILL, 25),
        (False, -signal.SIGKILL, 25),
        (False, 1, 5),
    ],
)
def test_deaths_within_a_moment_are_counted(server: Server, serves: bool, status: int, expected: int) -> None:
    if not serves:
        server.since = None
    assert tries(Supervisor(server), server, status) == expected


@pytest.mark.logs("servers die again and again")
def test_one_that_served_for_a_while_begins_the_count_anew(server: Server) -> None:
    supervisor = Supervisor(server)
    old = Server(server.pid, server.link.socket)
    old.since = time.monotonic() - 2
    for _ in range(4):
        assert supervisor._is_worth_it(server, 1)
    assert supervisor._is_worth_it(old, -signal.SIGSEGV)
    assert tries(supervisor, server, 1) == 5


# one step of the loop


class Process:
    """A process that serves nothing, and the socket that it would have."""

    def __init__(self) -> None:
        ours, self.socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
        self.server = Server(self.pid, ours)

    def say(self, supervisor: Supervisor, message: bytes, *fds: int) -> int | None:
        socket.send_fds(self.socket, [message], fds)
        return supervisor._attend(self.server.link.socket.fileno())

    def has_ended_by(self) -> int | None:
        """Return the signal, once it has ended."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return -os.waitstatus_to_exitcode(status) if pid else None

    def end(self) -> None:
        self.socket.close()
        self.server.link.socket.close()
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


@pytest.fixture
def process() -> Iterator[Callable[[], Process]]:
    """Make processes that are gone afterwards."""
    made: list[Process] = []

    def start() -> Process:
        made.append(Process())
        return made[-1]

    yield start
    for each in made:
        each.end()


def test_a_signal_waits_until_the_successor_serves(process: Callable[[], Process]) -> None:
    new = process()
    supervisor = Supervisor(new.server)
    supervisor._restarts = 1
    supervisor._pass_on(signal.SIGTERM, None)
    time.sleep(0.05)
    assert new.has_ended_by() is None
    new.say(supervisor, SERVING)
    eventually(lambda: new.has_ended_by() == signal.SIGTERM)


def test_who_is_late_is_killed_and_nobody_else(process: Callable[[], Process]) -> None:
    late, other = process(), process()
    supervisor = Supervisor(late.server)
    supervisor._next = other.server
    late.server.stop_by, other.server.stop_by = time.monotonic() - 1, time.monotonic() + 60
    assert supervisor._wait() == []  # at once
    supervisor._hurry()
    eventually(lambda: late.has_ended_by() == signal.SIGKILL)
    assert (late.server.is_late, other.has_ended_by()) == (True, None)


def test_a_successor_that_is_ready_has_time_and_the_server_has_little(process: Callable[[], Process]) -> None:
    old, new = process(), process()
    supervisor = Supervisor(old.server)
    supervisor._next, new.server.stop_by = new.server, time.monotonic() + 1
    new.say(supervisor, READY)
    limit, limit_of_new = (each.server.stop_by for each in (old, new))
    assert limit is not None
    assert limit_of_new is None
    assert (new.server.is_ready, receive(old.socket)[0]) == (True, STOP)
    new.say(supervisor, READY)
    assert old.server.stop_by == limit


@pytest.mark.logs("in another form")
def test_a_successor_that_reads_other_notes_does_not_take_over(process: Callable[[], Process]) -> None:
    old, new = process(), process()
    supervisor = Supervisor(old.server)
    journal = Journal()
    old.say(supervisor, KEEP + b"journal", journal.fd)
    supervisor._next = new.server
    new.say(supervisor, READY + b"12345678")
    eventually(lambda: new.has_ended_by() == signal.SIGKILL)
    assert (new.server.is_ready, old.has_ended_by()) == (False, None)
    journal.close()
    supervisor._next = None
    supervisor._give_up("the test is over")


def test_what_is_kept_is_let_go_when_it_is_replaced_dropped_or_given_up(process: Callable[[], Process]) -> None:
    server, new = process(), process()
    supervisor = Supervisor(server.server)
    null = os.open("/dev/null", os.O_RDONLY)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        server.say(supervisor, KEEP + b"a\0b", null, null)
    assert len(os.listdir("/proc/self/fd")) == before + 2
    server.say(supervisor, DROP + b"a")
    assert len(os.listdir("/proc/self/fd")) == before + 1
    supervisor._next = new.server
    supervisor._give_up("the test is over")
    assert len(os.listdir("/proc/self/fd")) == before - 1  # nor is there a successor any more
    os.close(null)


def test_a_server_that_has_stopped_as_the_mount_ended_has_done_well() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server = Server(os.posix_spawn("/bin/sh", ["sh", "-c", f"exit {STOPPED}"], {}), ours)
    theirs.close()
    assert Supervisor(server)._attend(ours.fileno()) == 0


def test_only_the_direct_engine_can_take_over() -> None:
    assert unfit("pyfuse3") == "pyfuse3 cannot take over a mount that it did not make"
    assert unfit("auto") == unfit("direct")
