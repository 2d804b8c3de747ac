"""The loop of the direct engine: read a request, have it answered, write the reply.

One thread does that, and blocks in readv(2): a reader that already sleeps in the device when a
request comes costs one wake-up; one that is woken through epoll costs two more system calls, and
`trio` around it more than the request itself.

Jobs (the copy-up of a big file, an fsync) run in other threads, which are kept; not trio's, because a first job right
after the mount would wait for its import. The thread that has run one also finishes it in the union's tables
and answers the requests that waited for it: nobody has to wake the reading thread, which could not be woken in
its readv anyway. So "the union's own thread" is whoever holds `Server.lock`: the reader from one readv to the
next, a job's for its end. No job is waited for when the program ends: what it has not published is not there.

Whatever harm a request comes to, it is answered with an errno, and the loop goes on. It ends when
the mount does.
"""

import errno
import logging
import os
import struct
import threading
import time
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from queue import SimpleQueue
from typing import Final, NamedTuple

from unionfs.core.jobs import Deferred, Job
from unionfs.fuse import wire
from unionfs.fuse.follow import Follower
from unionfs.fuse.protocol import MAX_WRITE, UNANSWERED, Opcode
from unionfs.fuse.requests import Head, Requests
from unionfs.fuse.splicing import Span, Splicer

__all__ = ["Server"]

log: Final = logging.getLogger(__name__)

BUFFER_SIZE: Final = MAX_WRITE + 4096
"""Bytes of the largest request; the kernel refuses to put one into a smaller buffer."""

_TRANSIENT: Final = frozenset({errno.EINTR, errno.EAGAIN, errno.ENOENT})
"""From reading: no request after all. ENOENT: it was taken back just before we got it."""
_GONE: Final = frozenset({errno.ENODEV, errno.ECONNABORTED})
"""From reading: there is no mount any more."""
_ONE_WRITE: Final = 8192
"""Bytes up to which putting a body behind its header is cheaper than writing a vector of both."""
_BIG: Final = 128 << 10
"""Bytes of a READ that takes longer than waking another CPU for it."""
_HEADER: Final = wire.REPLY.size
_pack_reply: Final = wire.REPLY.pack
_SIGKILL: Final = 1 << 8

PATIENCE_S: Final = 10.0
POLL_S: Final = 0.005


class _Waiting(NamedTuple):
    """A request that waits for a job."""

    head: Head
    body: bytes
    answered_by_job: bool
    """True: the end of the job is the answer. False: ask again then."""


class Server:
    """Serves the mount behind *device* until it ends."""

    def __init__(self, device: int, requests: Requests, *, follow: bool) -> None:
        self.lock = threading.Lock()
        """Held by whoever touches the union."""
        self._device = device
        self._requests = requests
        self._table = requests.table
        self._splicer = Splicer(device)
        self._follow = follow
        self._follower: Follower | None = None
        self._buffer = mmap(-1, BUFFER_SIZE, MAP_PRIVATE | MAP_ANONYMOUS)  # memory where it is written, not all of it
        self._counts: dict[int, int] = dict.fromkeys(map(int, Opcode), 0)
        self._waiting: dict[Job, list[_Waiting]] = {}
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        """Those that no thread runs yet."""
        self._idle = 0
        """Threads that wait for one. Under `lock`, as everything here."""
        self._stopped = False

    def statistics(self) -> dict[str, int]:
        """Return how many requests of each kind came."""
        return {Opcode(code).name.lower(): count for code, count in self._counts.items() if count}

    def stop(self) -> None:
        """Touch the union no more; returns when no thread does."""
        with self.lock:
            self._stopped = True

    def finish(self) -> None:
        """Stop between two requests, when no job is under way, or at the latest after PATIENCE_S; and stay so.

        The lock is never given back. A request that was read and not answered is left to whoever serves next.
        """
        deadline = time.monotonic() + PATIENCE_S
        while True:
            self.lock.acquire()
            if not self._waiting or time.monotonic() > deadline:
                return
            self.lock.release()
            time.sleep(POLL_S)

    def run(self) -> None:
        """Serve until the mount is gone. Blocks; for one thread of its own."""
        buffer, counts, lock, readv = self._buffer, self._counts, self.lock, os.readv
        view, vector, unpack, start = memoryview(buffer), [buffer], wire.HEADER.unpack_from, wire.HEADER.size
        if self._follow and Follower.is_possible():
            self._follower = Follower()
        saw = self._follower.saw if self._follower is not None else _ignore
        while True:
            try:
                size = readv(self._device, vector)
            except OSError as exc:
                if exc.errno in _TRANSIENT:
                    continue
                if exc.errno in _GONE:
                    return
                raise
            if size < start:
                if not size:  # the other end is closed, which the device itself never says
                    return
                log.error("a request of %d bytes is ignored", size)
                continue
            head: Head = unpack(buffer)
            saw(head[6])
            with lock:
                if self._stopped:
                    return
                if head[1] in counts:
                    counts[head[1]] += 1
                self._serve_one(head, view[start:size])

    def _serve_one(self, head: Head, body: memoryview) -> None:
        """Carry one request out and reply, whatever it is."""
        try:
            handler = self._table.get(head[1])
            if handler is None:
                self._unhandled(head, body)
                return
            answer = handler(head[3], body, head)
            if isinstance(answer, bytes):  # nearly always
                self._reply(head[2], answer)
            elif isinstance(answer, int):
                self._fail(head, answer)
            elif isinstance(answer, Span):
                self._splice(head, answer)
            elif isinstance(answer, Job):
                self._wait(answer, _Waiting(head, b"", answered_by_job=True))
            elif answer is not None:
                self._reply(head[2], answer)
        except Deferred as deferred:
            self._wait(deferred.job, _Waiting(head, bytes(body), answered_by_job=False))
        except OSError as exc:
            self._fail(head, exc.errno or errno.EIO)
        except (struct.error, wire.Malformed):
            log.warning("a malformed request is refused: %s", head)
            self._fail(head, errno.EINVAL)
        except Exception:
            log.exception("bug in request %s, answered EIO", _name(head[1]))
            self._fail(head, errno.EIO)

    def _unhandled(self, head: Head, body: memoryview) -> None:
        if head[1] == Opcode.INTERRUPT:
            self._interrupt(*wire.INTERRUPT.unpack_from(body))
        else:
            self._fail(head, errno.ENOSYS)

    # Replies.

    def _reply(self, unique: int, body: bytes | memoryview) -> None:
        size = len(body)
        header = _pack_reply(_HEADER + size, 0, unique)
        try:
            if size <= _ONE_WRITE:
                os.write(self._device, header + body)
            else:
                os.writev(self._device, (header, body))
        except OSError as exc:
            self._lost(exc)

    def _splice(self, head: Head, span: Span) -> None:
        if self._follower is not None and span.size >= _BIG:
            self._follower.reads_big()
        try:
            spliced = self._splicer.send(head[2], span)
        except OSError as exc:
            self._lost(exc)
        else:
            if not spliced:
                self._reply(head[2], self._requests.data(*span))

    def _fail(self, head: Head, error: int) -> None:
        if head[1] in UNANSWERED:
            return
        try:
            os.write(self._device, wire.failure(head[2], error))
        except OSError as exc:
            self._lost(exc)

    def _lost(self, why: OSError) -> None:
        """Note that a reply was not taken: either nobody waits for it any more (ENOENT), or it is our bug."""
        if why.errno != errno.ENOENT and why.errno not in _GONE:
            log.error("a reply is lost: %s", why)

    # Jobs.

    def _wait(self, job: Job, request: _Waiting) -> None:
        """Let *request* wait for *job*, which is started for the first one."""
        waiting = self._waiting.get(job)
        if waiting is not None:
            waiting.append(request)
            return
        self._waiting[job] = [request]
        self._jobs.put(job)
        if self._idle:
            self._idle -= 1
        else:
            threading.Thread(target=self._work, name="unionfs job", daemon=True).start()

    def _work(self) -> None:
        """Run jobs, one after the other, in a thread of their own."""
        if self._follower is not None:
            self._follower.leave()  # it was started on the reader's CPU, with its priority
        while True:
            job, error = self._jobs.get(), None
            try:
                job.run()
            except BaseException as exc:  # noqa: BLE001 - for `Job.finish`, whatever it is
                error = exc
            self._finish(job, error)

    def _finish(self, job: Job, error: BaseException | None) -> None:
        """Finish *job* and answer those who waited; on the thread that ran it."""
        with self.lock:
            self._idle += 1
            if self._stopped:
                return
            waiting = self._waiting.pop(job)
            failed = 0
            try:
                job.finish(error)
            except OSError as exc:
                failed = exc.errno or errno.EIO
            except Exception:
                log.exception("bug in a job, answered EIO")
                failed = errno.EIO
            for request in waiting:
                if failed:
                    self._fail(request.head, failed)
                elif request.answered_by_job:
                    self._reply(request.head[2], b"")
                else:
                    self._serve_one(request.head, memoryview(request.body))

    def _interrupt(self, unique: int) -> None:
        """Let a request go that waits for a job, if whoever sent it is being killed.

        Local file systems do not let an ordinary signal interrupt an open or a write, and programs
        rely on that, so any other signal is ignored. The job goes on: others may wait for it.
        """
        for waiting in self._waiting.values():
            for request in waiting:
                if request.head[2] == unique and _is_dying(request.head[6]):
                    waiting.remove(request)
                    self._fail(request.head, errno.EINTR)
                    return


def _ignore(_requester: int) -> None:
    """See a request and stay where we are."""


def _name(opcode: int) -> str:
    return Opcode(opcode).name  # what is not an Opcode has no handler to have a bug


def _is_dying(thread: int) -> bool:
    """Tell whether SIGKILL is pending for *thread*."""
    try:
        with open(f"/proc/{thread}/status", encoding="utf-8", errors="replace") as file:
            lines = dict(line.split(":\t", 1) for line in file if ":\t" in line)
    except OSError:
        return True  # it is gone already, or in a namespace where we cannot see it
    return any(int(lines[key], 16) & _SIGKILL for key in ("SigPnd", "ShdPnd"))
