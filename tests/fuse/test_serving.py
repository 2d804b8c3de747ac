"""The serving loop without a kernel: a socket pair stands for /dev/fuse, and the test for the kernel.

Whatever is sent, the loop answers, and goes on.
"""

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuse.plain import PlainUnion
from unionfs.core.jobs import Job
from unionfs.core.mountoptions import MountOptions
from unionfs.fuse import wire
from unionfs.fuse.passthrough import Cached
from unionfs.fuse.protocol import UNANSWERED, Feature, Opcode
from unionfs.fuse.requests import Requests
from unionfs.fuse.serving import Server

if TYPE_CHECKING:
    from unionfs.core.union import Union
    from unionfs.fuse.follow import Follower

ROOT = 1


class Kernel:
    """The other end of the device."""

    def __init__(self, union: PlainUnion) -> None:
        self.union = union
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.settimeout(20)
        real = cast("Union", union)
        requests = Requests(real, Cached(real, theirs.fileno()), MountOptions(), Feature(0))
        self.server = Server(theirs.fileno(), requests, follow=False)
        self._theirs = theirs
        self._thread = threading.Thread(target=self.server.run)
        self._thread.start()
        self._unique = 0

    def send(self, opcode: int, nodeid: int = ROOT, body: bytes = b"", pid: int = 0) -> int:
        self._unique += 2
        size = wire.HEADER.size + len(body)
        self.ours.send(wire.HEADER.pack(size, opcode, self._unique, nodeid, 0, 0, pid, 0, 0) + body)
        return self._unique

    def receive(self) -> tuple[int, int, bytes]:
        """Return the number of the request, the errno and the body."""
        data = self.ours.recv(1 << 21)
        size, error, unique = wire.REPLY.unpack_from(data)
        assert size == len(data)
        return unique, -error, data[wire.REPLY.size :]

    def ask(self, opcode: int, nodeid: int = ROOT, body: bytes = b"") -> tuple[int, bytes]:
        unique = self.send(opcode, nodeid, body)
        answered, error, reply = self.receive()
        assert answered == unique
        return error, reply

    def close(self) -> None:
        self.ours.close()
        self._thread.join(20)
        assert not self._thread.is_alive()
        self._theirs.close()
        self.union.close()


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    (tmp_path / "file").write_bytes(b"content")
    kernel = Kernel(PlainUnion(tmp_path))
    yield kernel
    kernel.close()


def nodeid_of(reply: bytes) -> int:
    return int(wire.ENTRY.unpack_from(reply)[0])


def test_a_name_that_exists_and_one_that_does_not(kernel: Kernel) -> None:
    error, reply = kernel.ask(Opcode.LOOKUP, body=b"file\0")
    assert (error, wire.ENTRY.unpack_from(reply)[7]) == (0, len("content"))
    error, reply = kernel.ask(Opcode.LOOKUP, body=b"nothing\0")
    assert (error, nodeid_of(reply)) == (0, 0)


def test_the_follower_is_told_of_big_reads_alone(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(1000))  # a socket takes no more at once
    told: list[None] = []
    kernel.server._follower = cast("Follower", SimpleNamespace(reads_big=lambda: told.append(None)))
    nodeid = nodeid_of(kernel.ask(Opcode.LOOKUP, body=b"big\0")[1])
    handle, *_ = wire.OPENED.unpack_from(kernel.ask(Opcode.OPEN, nodeid, wire.OPEN.pack(os.O_RDONLY, 0))[1])
    for size, count in ((4096, 0), (64 << 10, 0), (128 << 10, 1), (1 << 20, 2)):
        kernel.ask(Opcode.READ, nodeid, wire.READ.pack(handle, 0, size))
        assert len(told) == count


@pytest.mark.logs("a request of 39 bytes is ignored")
def test_less_than_a_header_is_ignored(kernel: Kernel) -> None:
    kernel.ours.send(bytes(39))
    assert kernel.ask(Opcode.STATFS)[0] == 0


@pytest.mark.parametrize("opcode", [0, 7, 54, 4095, 1 << 31, Opcode.POLL, Opcode.BMAP, Opcode.FLUSH, Opcode.GETLK])
def test_what_is_not_handled_is_answered_enosys(kernel: Kernel, opcode: int) -> None:
    assert kernel.ask(opcode, body=bytes(64)) == (errno.ENOSYS, b"")


@pytest.mark.logs("malformed")
def test_a_body_that_is_too_short_is_refused(kernel: Kernel) -> None:
    assert kernel.ask(Opcode.WRITE, body=b"x") == (errno.EINVAL, b"")


@pytest.mark.logs("bug in request GETATTR, answered EIO")
def test_a_bug_is_logged_with_its_traceback_and_answered_eio(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    assert kernel.ask(Opcode.GETATTR, 999, wire.GETATTR.pack(0, 0)) == (errno.EIO, b"")
    assert "KeyError: 999" in str(caplog.records[-1].exc_text)
    assert kernel.ask(Opcode.STATFS)[0] == 0


@pytest.mark.parametrize("opcode", [Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT, Opcode.NOTIFY_REPLY])
def test_nothing_is_written_where_no_reply_is_wanted(kernel: Kernel, opcode: int) -> None:
    kernel.send(opcode, nodeid_of(kernel.ask(Opcode.LOOKUP, body=b"file\0")[1]), struct.pack("<QQ", 0, 0))
    unique = kernel.send(Opcode.STATFS)
    assert kernel.receive()[0] == unique


class Gate:
    """A job that ends when the test says so."""

    def __init__(self, error: OSError | None = None) -> None:
        self.started, self.may_end = threading.Event(), threading.Event()
        self.error = error
        self.job = Job(self.work)

    def work(self) -> None:
        self.started.set()
        assert self.may_end.wait(20)
        if self.error:
            raise self.error


def open_for_writing(kernel: Kernel) -> int:
    node = nodeid_of(kernel.ask(Opcode.LOOKUP, body=b"file\0")[1])
    return kernel.send(Opcode.OPEN, node, wire.OPEN.pack(os.O_WRONLY, 0), pid=os.getpid())


def test_others_are_served_while_one_waits_and_two_wait_for_one_job(kernel: Kernel) -> None:
    gate = Gate()
    kernel.union.slow = [gate.job]
    waiting = {open_for_writing(kernel), open_for_writing(kernel)}
    assert gate.started.wait(20)
    assert kernel.ask(Opcode.STATFS)[0] == 0
    gate.may_end.set()
    answers = [kernel.receive() for _ in waiting]
    assert {unique for unique, _, _ in answers} == waiting
    assert [error for _, error, _ in answers] == [0, 0]


def test_a_job_that_fails_fails_those_who_wait(kernel: Kernel) -> None:
    gate = Gate(OSError(errno.ENOSPC, "full"))
    kernel.union.slow = [gate.job]
    unique = open_for_writing(kernel)
    gate.may_end.set()
    assert kernel.receive()[:2] == (unique, errno.ENOSPC)


def test_jobs_run_at_once_and_the_next_ones_in_the_threads_that_are_there(kernel: Kernel) -> None:
    before = threading.active_count()
    for jobs in (2, 2, 3):
        gates, waiting = [Gate() for _ in range(jobs)], set()
        for gate in gates:
            kernel.union.slow = [gate.job]
            waiting.add(open_for_writing(kernel))
            assert gate.started.wait(20)
        assert threading.active_count() == before + jobs
        for gate in gates:
            gate.may_end.set()
        assert {kernel.receive()[0] for _ in gates} == waiting


def test_a_job_that_ends_after_the_union_was_left_touches_it_no_more(kernel: Kernel) -> None:
    gate, finished = Gate(), threading.Event()
    gate.job = Job(gate.work, lambda _error: finished.set())
    kernel.union.slow = [gate.job]
    open_for_writing(kernel)
    assert gate.started.wait(20)
    kernel.server.stop()
    gate.may_end.set()
    assert not finished.wait(0.2)


def test_an_ordinary_signal_does_not_end_the_waiting(kernel: Kernel) -> None:
    gate = Gate()
    kernel.union.slow = [gate.job]
    unique = open_for_writing(kernel)
    kernel.send(Opcode.INTERRUPT, body=wire.INTERRUPT.pack(unique))
    assert kernel.ask(Opcode.STATFS)[0] == 0
    gate.may_end.set()
    assert kernel.receive()[:2] == (unique, 0)


def test_a_process_that_is_killed_is_let_go_while_the_job_runs_on(kernel: Kernel) -> None:
    gate = Gate()
    kernel.union.slow = [gate.job]
    node = nodeid_of(kernel.ask(Opcode.LOOKUP, body=b"file\0")[1])
    nobody = 1 << 22  # above pid_max: such a thread has gone
    unique = kernel.send(Opcode.OPEN, node, wire.OPEN.pack(os.O_WRONLY, 0), pid=nobody)
    kernel.send(Opcode.INTERRUPT, body=wire.INTERRUPT.pack(unique))
    assert kernel.receive()[:2] == (unique, errno.EINTR)
    gate.may_end.set()
    assert kernel.ask(Opcode.STATFS)[0] == 0


def test_requests_are_counted_by_kind(kernel: Kernel) -> None:
    kernel.ask(Opcode.STATFS)
    kernel.ask(Opcode.STATFS)
    assert kernel.server.statistics() == {"statfs": 2}


HARMLESS = [code for code in Opcode if code not in {Opcode.SYNCFS, Opcode.DESTROY}]


@pytest.mark.property
@pytest.mark.logs("malformed|bug in request")
def test_no_request_stops_the_loop(tmp_path: Path) -> None:
    kernel = Kernel(PlainUnion(tmp_path))

    @given(opcode=st.sampled_from(HARMLESS) | st.integers(0, (1 << 32) - 1), body=st.binary(max_size=120))
    def send(opcode: int, body: bytes) -> None:
        kernel.send(opcode, nodeid=1, body=body)
        if opcode not in UNANSWERED:
            kernel.receive()

    try:
        send()
        kernel.send(Opcode.WRITE, body=b"")
        kernel.receive()
        assert kernel.ask(Opcode.STATFS)[0] == 0
    finally:
        kernel.close()
