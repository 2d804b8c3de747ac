"""Serving from the CPU of whoever asks, below everybody else's priority.

Why. Two programs that take turns, each waiting for the other, are fastest on one CPU: no other CPU has
to be woken from its idle state, twice for each request. Left alone, the scheduler sends the server to an idle
CPU when a request wakes it, and the client to another when the reply does, and each request costs
80 to 110 us instead of 30. Both halves are needed, and either alone is useless:

* affinity to the requester's CPU, so that the request does not move us;
* the policy SCHED_IDLE, so that the reply does not move him: the scheduler counts a CPU on which only
  SCHED_IDLE runs as idle, so he stays where he was.

Busy waiting, real-time and batch policies, other nice values, io_uring and more threads were measured
as well; none came near, and some burn a CPU.

Dangers, and what is done about them:

* Starvation. SCHED_IDLE has a hundredth of the normal weight, and next to programs that compute in the same
  session (autogroup) or cgroup we would wait 50 to 200 ms for each request. The daemon has a session of its own,
  where that cannot happen; elsewhere a guard reads how long we were kept from running: soon after we began to
  follow, then every EIGHT requests, unless all of them took less time than would matter. If that was hopelessly long
  once, or too long three times running, we are an ordinary thread again, for longer each time. What we wait before a
  request that nobody waits for (a RELEASE or FORGET, queued behind a client that computes) does not count.
* A crowd. Where other programs want all CPUs anyway, whoever runs under SCHED_IDLE comes last, and nothing is gained
  by it: CPUs are not idle between two requests (measured beside a load of 9 on two CPUs: 1.4 times as long as
  without). So the guard also counts who could run; while it finds as many others as CPUs, nobody is followed.
* Reading ahead. Whoever reads a big file in order copies one part of it while we fetch the next, which takes two CPUs:
  64 MiB in 47 ms instead of 65. After FOUR big reads in a row we are an ordinary thread, as long as they go on.
* Parallel clients, which want two CPUs. Many changes of client among THIRTY_TWO requests end the following,
  few begin it again.
* No way back: only CAP_SYS_NICE or RLIMIT_NICE lead out of SCHED_IDLE, so without them it is never entered.

Source: Linux kernel/sched/fair.c, select_idle_sibling(), sched_idle_cpu(); sched(7); proc_pid_stat(5).
"""

import os
import resource
import time
from typing import Final

from unionfs.linux import ids

__all__ = ["Follower"]

_EIGHT: Final = 8
"""Requests between two looks of the guard, and between two thoughts of where the client is."""
_THIRTY_TWO: Final = 32
"""Requests over which changes of client are counted."""
_FOUR: Final = 4
"""Big reads in a row: less is a file among others."""
_PARALLEL: Final = 8
"""More changes than this: several clients work at once."""
_SINGLE: Final = 2
"""Not more than this: one works, or they take turns slowly."""
_DELAY_NS: Final = 1_000_000
"""Time runnable but not running, within EIGHT requests, that is too long: following gains about half of it."""
_HOPELESS_NS: Final = 10_000_000
"""Between two looks, once: nothing but starvation takes as long."""
_STRIKES: Final = 3
_CROWDED: Final = 4
"""So many more looks found a crowd than found none: the following ends, and begins again when that is made up for."""
_LAST_SAMPLE: Final = 128
"""Requests between two looks at where the client is, at most: twice as many each time while it stays, from EIGHT on."""
_APART_NS: Final = 320_000
"""EIGHT requests that took longer may have been sent from another CPU. An idle one pulls the client away ten to twenty
times a second; until that is seen each request wakes two CPUs, which takes as long as ten looks."""
_FIRST_REST: Final = 4
_LONGEST_REST: Final = 1024
"""Windows of THIRTY_TWO requests before following is tried again, four times as many each time: a trial next to
programs that starve us costs as much as a thousand requests."""
_PROOF: Final = 8
"""Windows of following in peace after which it was right to try: what was lost before is won back by then."""

_CAP_SYS_NICE: Final = 23
_NICE_0: Final = 20
"""RLIMIT_NICE counts downwards from nice 20."""

_NORMAL: Final = os.sched_param(0)


class Follower:
    """The scheduling of one serving thread. All but `leave` is called by that thread."""

    def __init__(self) -> None:
        self._all = os.sched_getaffinity(0)
        self._delay_fd = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        self._delay_ns = self._read_delay()
        self._read_at_ns = self._counted_at_ns = 0
        """When we last read how long we waited, and counted who could run. What happened since took no longer."""
        self._load_fd = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
        self._crowd = 0
        self._following = False
        self._cpu = -1
        self._requester = 0
        self._requests = 0
        self._sample_at = self._sample_anyway_at = 0
        self._sampled_at_ns = 0
        self._interval = _EIGHT
        self._big_reads = 0
        """In a row, up to the last one, which was the request `_read_big_at`."""
        self._read_big_at = 0
        self._changes = 0
        self._window_ends = _THIRTY_TWO
        self._look_at = 0
        self._until_look = 1
        self._strikes = 0
        self._rest = 0
        """Windows left before following is tried again."""
        self._next_rest = _FIRST_REST
        self._proof = 0
        """Windows left until the trial is one that did well."""
        self._start()

    @staticmethod
    def is_possible() -> bool:
        """Tell whether there is something to choose, and a way back."""
        if len(os.sched_getaffinity(0)) < 2:
            return False
        privileged = ids.has_capability(_CAP_SYS_NICE) and ids.is_initial_user_namespace()
        return privileged or resource.getrlimit(resource.RLIMIT_NICE)[0] >= _NICE_0

    def saw(self, thread: int) -> None:
        """Note a request of *thread*, and go where it is; 0 is a request that nobody waits for."""
        if not thread:
            if self._following and self._is_time_to_read(time.monotonic_ns()):
                self._delay_ns = self._read_delay()
            return
        self._requests += 1
        if thread != self._requester:
            self._requester = thread
            self._changes += 1
            self._interval = _EIGHT
            self._sample_at = self._sample_anyway_at = 0
        if self._following and self._requests >= self._sample_at:
            self._sample()
        if self._requests >= self._look_at:
            self._review()

    def reads_big(self) -> None:
        """Note that the request seen last is for so much data that copying them is what takes time."""
        in_a_row = self._requests <= self._read_big_at + 1
        self._read_big_at = self._requests
        self._big_reads = self._big_reads + 1 if in_a_row else 1
        if self._big_reads >= _FOUR and self._following:
            self._stop()

    def leave(self) -> None:
        """Make the calling thread, started by the serving one, an ordinary one."""
        os.sched_setscheduler(0, os.SCHED_OTHER, _NORMAL)
        os.sched_setaffinity(0, self._all)

    def _sample(self) -> None:
        """Go where the client is: asked every EIGHT requests, looked for if they took long or it is some time ago."""
        now_ns = time.monotonic_ns()
        took_long = now_ns - self._sampled_at_ns > _APART_NS
        self._sampled_at_ns = now_ns
        self._sample_at = self._requests + _EIGHT
        if not took_long and self._requests < self._sample_anyway_at:
            return
        self._sample_anyway_at = self._requests + self._interval
        self._interval = min(self._interval * 2, _LAST_SAMPLE)
        cpu = cpu_of(self._requester)
        if cpu != self._cpu and cpu in self._all:
            self._cpu = cpu
            os.sched_setaffinity(0, {cpu})

    def _review(self) -> None:
        """Look whether following does harm; at the end of a window also whether it would do good."""
        self._look_at = self._requests + self._until_look
        self._until_look = min(self._until_look * 2, _EIGHT)
        now_ns = time.monotonic_ns()
        if now_ns - self._counted_at_ns >= _DELAY_NS:
            self._counted_at_ns = now_ns
            self._count_others()
        if self._following and self._is_time_to_read(now_ns):
            self._guard()
        if self._requests < self._window_ends:
            return
        self._window_ends = self._requests + _THIRTY_TWO
        changes, self._changes = self._changes, 0
        if self._following:
            self._proof -= 1
            if not self._proof:
                self._next_rest = _FIRST_REST
            if changes > _PARALLEL:
                self._stop()
        elif self._rest:
            self._rest -= 1
        elif changes <= _SINGLE and not self._crowd and self._requests > self._read_big_at + _FOUR:
            self._start()

    def _is_time_to_read(self, now_ns: int) -> bool:
        """Tell whether we may have waited for too long; reading it is as much as a tenth of a small request."""
        if now_ns - self._read_at_ns < _DELAY_NS:
            return False
        self._read_at_ns = now_ns
        return True

    def _count_others(self) -> None:
        if self._read_others() < len(self._all):
            self._crowd -= self._crowd > 0
        elif self._crowd < _CROWDED:
            self._crowd += 1
            if self._crowd == _CROWDED and self._following:
                self._stop()

    def _guard(self) -> None:
        before, self._delay_ns = self._delay_ns, self._read_delay()
        delay = self._delay_ns - before
        self._strikes = self._strikes + 1 if delay > _DELAY_NS else 0
        if self._strikes >= _STRIKES or delay > _HOPELESS_NS:
            self._stop()
            self._rest = self._next_rest
            self._next_rest = min(self._next_rest * 4, _LONGEST_REST)

    def _start(self) -> None:
        self._following = True
        self._strikes = 0
        self._proof = _PROOF
        self._until_look = 1
        self._look_at = self._requests + 1
        self._delay_ns = self._read_delay()
        self._sample_at = self._sample_anyway_at = 0
        os.sched_setscheduler(0, os.SCHED_IDLE, _NORMAL)

    def _stop(self) -> None:
        self._following = False
        self._cpu = -1
        self.leave()

    def _read_delay(self) -> int:
        """Return the nanoseconds for which this thread was ever kept waiting for a CPU."""
        return int(os.pread(self._delay_fd, 64, 0).split()[1])

    def _read_others(self) -> int:
        """Return how many threads of the machine could run now, but for this one. Costs 2 us."""
        return int(os.pread(self._load_fd, 64, 0).split()[3].partition(b"/")[0]) - 1

    def close(self) -> None:
        os.close(self._delay_fd)
        os.close(self._load_fd)


def cpu_of(thread: int) -> int:
    """Return the CPU that *thread* ran on last, or -1 if it is gone. Costs 6 to 12 us."""
    try:
        fd = os.open(b"/proc/%d/stat" % thread, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        fields = os.read(fd, 1024).rpartition(b")")[2].split()  # the name in parentheses may hold anything
    except OSError:
        return -1
    finally:
        os.close(fd)
    return int(fields[36])
