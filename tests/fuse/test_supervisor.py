"""How often a supervisor tries again; what it does with a mount is tested on mounts."""

import itertools
import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from unionfs.fuse.supervisor import Server, Supervisor, unfit


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


def test_only_the_direct_engine_can_take_over() -> None:
    assert unfit("pyfuse3") == "pyfuse3 cannot take over a mount that it did not make"
    assert unfit("auto") == unfit("direct")
