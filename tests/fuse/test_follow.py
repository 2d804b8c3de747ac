"""When the serving thread follows, and when it stops; then for real, next to programs that only compute."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounting import Stack
from unionfs.fuse import follow
from unionfs.fuse.follow import Follower, cpu_of

CLIENT, OTHER = 1001, 1002
WINDOW = 32


class Machine:
    """The scheduler's side: where clients are, how long we waited, and what was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cpus = {CLIENT: 1, OTHER: 0}
        self.delay_ns = 0
        self.policy = os.SCHED_OTHER
        self.affinity = {0, 1}
        self.looks = 0
        self.others = 0
        self.reads = 0
        self.switches = 0
        self.now_ns = 0
        self.step_ns = 1_000_000
        """How long each request takes."""
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
        monkeypatch.setattr(os, "sched_setaffinity", lambda _pid, cpus: setattr(self, "affinity", set(cpus)))
        monkeypatch.setattr(os, "sched_setscheduler", self._set_policy)
        monkeypatch.setattr(follow, "cpu_of", self._cpu_of)
        monkeypatch.setattr(Follower, "_read_delay", lambda _self: self._read(self.delay_ns))
        monkeypatch.setattr(Follower, "_read_others", lambda _self: self._read(self.others))
        monkeypatch.setattr(time, "monotonic_ns", self._clock)

    def _set_policy(self, _pid: int, policy: int, _param: object) -> None:
        self.policy = policy
        self.switches += 1

    def _read(self, value: int) -> int:
        self.reads += 1
        return value

    def _clock(self) -> int:
        self.now_ns += self.step_ns
        return self.now_ns

    def _cpu_of(self, thread: int) -> int:
        self.looks += 1
        return self.cpus[thread]

    def follows(self) -> bool:
        return self.policy == os.SCHED_IDLE


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.fixture
def follower(machine: Machine) -> Iterator[Follower]:
    follower = Follower()
    yield follower
    follower.close()


def send(follower: Follower, count: int, *clients: int) -> None:
    for number in range(count):
        follower.saw(clients[number % len(clients)])


def test_it_goes_where_the_client_is_at_the_first_request(machine: Machine, follower: Follower) -> None:
    send(follower, 1, CLIENT)
    assert (machine.follows(), machine.affinity) == (True, {1})


def test_it_notices_that_the_client_moved_and_looks_ever_less_often(machine: Machine, follower: Follower) -> None:
    machine.step_ns = 1_000
    send(follower, 1000, CLIENT)
    assert machine.looks < 20
    machine.cpus[CLIENT] = 0
    send(follower, 128, CLIENT)
    assert machine.affinity == {0}


@pytest.mark.parametrize(("step_ns", "cpu"), [(1_000, 1), (400_000, 0)])
def test_it_notices_sooner_when_requests_begin_to_take_long(
    machine: Machine, follower: Follower, step_ns: int, cpu: int
) -> None:
    machine.step_ns = 1_000
    send(follower, 600, CLIENT)
    looks = machine.looks
    while machine.looks == looks:
        send(follower, 1, CLIENT)
    machine.cpus[CLIENT] = 0
    machine.step_ns = step_ns
    send(follower, 16, CLIENT)
    assert machine.affinity == {cpu}


def test_a_request_that_nobody_waits_for_counts_for_nothing(machine: Machine, follower: Follower) -> None:
    send(follower, 10 * WINDOW, CLIENT, 0)
    assert (machine.follows(), machine.affinity) == (True, {1})


def test_a_client_on_a_cpu_that_is_not_ours_is_not_followed(machine: Machine, follower: Follower) -> None:
    machine.cpus[CLIENT] = 7
    send(follower, WINDOW, CLIENT)
    assert machine.affinity == {0, 1}


def test_parallel_clients_end_it_and_a_single_one_begins_it_again(machine: Machine, follower: Follower) -> None:
    send(follower, 2 * WINDOW, CLIENT, OTHER)
    assert (machine.follows(), machine.affinity) == (False, {0, 1})
    send(follower, 2 * WINDOW, CLIENT)
    assert (machine.follows(), machine.affinity) == (True, {1})


def test_in_a_crowd_nobody_is_followed(machine: Machine, follower: Follower) -> None:
    send(follower, WINDOW, CLIENT)
    machine.others = 2
    send(follower, 2 * WINDOW, CLIENT)
    assert (machine.follows(), machine.affinity) == (False, {0, 1})
    send(follower, 10 * WINDOW, CLIENT)
    assert not machine.follows()
    machine.others = 1
    send(follower, 2 * WINDOW, CLIENT)
    assert (machine.follows(), machine.affinity) == (True, {1})


def test_a_crowd_that_comes_and_goes_is_none(machine: Machine, follower: Follower) -> None:
    for number in range(40):
        machine.others = 3 * (number % 2)
        send(follower, 8, CLIENT)
    assert machine.follows()


def test_a_crowd_that_is_away_now_and_then_is_one(machine: Machine, follower: Follower) -> None:
    for number in range(40):
        machine.others = 3 * (number % 3 > 0)
        send(follower, 8, CLIENT)
    assert not machine.follows()


def read_big(follower: Follower, count: int) -> None:
    for _ in range(count):
        send(follower, 1, CLIENT)
        follower.reads_big()


def test_who_reads_a_big_file_is_left_his_cpu_until_he_has_done(machine: Machine, follower: Follower) -> None:
    send(follower, 1, CLIENT)
    read_big(follower, 3)
    assert machine.follows()
    read_big(follower, 1)
    switches = machine.switches
    for _ in range(4 * WINDOW):
        assert (machine.follows(), machine.affinity) == (False, {0, 1})
        read_big(follower, 1)
    assert machine.switches == switches
    send(follower, 2 * WINDOW, CLIENT)
    assert (machine.follows(), machine.affinity) == (True, {1})


def test_big_files_among_small_ones_are_no_reason_to_leave(machine: Machine, follower: Follower) -> None:
    for _ in range(2 * WINDOW):
        read_big(follower, 3)
        send(follower, 2, CLIENT)
        assert machine.follows()


LONG_NS, HOPELESS_NS = 2_000_000, 50_000_000


def wait_for_the_cpu(machine: Machine, follower: Follower, looks: int, delay_ns: int) -> None:
    for _ in range(looks):
        machine.delay_ns += delay_ns
        send(follower, 8, CLIENT)


@pytest.mark.parametrize("others", [(), (0,)])
def test_requests_that_took_no_time_are_no_reason_to_look(
    machine: Machine, follower: Follower, others: tuple[int, ...]
) -> None:
    send(follower, WINDOW, CLIENT, *others)
    before, machine.step_ns = machine.reads, 10_000
    send(follower, 8 * WINDOW, CLIENT, *others)
    assert machine.reads - before < 10
    wait_for_the_cpu(machine, follower, 1, HOPELESS_NS)
    assert machine.follows()  # as far as anybody has looked
    machine.step_ns = 1_000_000
    wait_for_the_cpu(machine, follower, 1, HOPELESS_NS)
    assert not machine.follows()


def test_one_long_wait_is_nothing_and_three_in_a_row_are_enough(machine: Machine, follower: Follower) -> None:
    send(follower, WINDOW, CLIENT)
    wait_for_the_cpu(machine, follower, 2, LONG_NS)
    send(follower, 8, CLIENT)
    wait_for_the_cpu(machine, follower, 2, LONG_NS)
    assert machine.follows()
    wait_for_the_cpu(machine, follower, 1, LONG_NS)
    assert (machine.follows(), machine.affinity) == (False, {0, 1})


def test_a_hopeless_wait_ends_it_at_once(machine: Machine, follower: Follower) -> None:
    machine.delay_ns += HOPELESS_NS
    send(follower, 2, CLIENT)
    assert (machine.follows(), machine.affinity) == (False, {0, 1})


def test_a_wait_before_what_nobody_waits_for_is_none(machine: Machine, follower: Follower) -> None:
    for _ in range(WINDOW):
        machine.delay_ns += HOPELESS_NS
        send(follower, 2, 0, CLIENT)
    assert machine.follows()


def test_it_rests_longer_each_time(machine: Machine, follower: Follower) -> None:
    rests = []
    for _ in range(6):
        wait_for_the_cpu(machine, follower, 1, HOPELESS_NS)
        assert not machine.follows()
        rest = 0
        while not machine.follows():
            send(follower, WINDOW, CLIENT)
            rest += 1
        rests.append(rest)
    assert rests[-1] > 8 * rests[0]
    assert abs(rests[-1] - rests[-2]) <= 1  # no longer than this


def test_a_trial_that_did_well_forgets_those_before(machine: Machine, follower: Follower) -> None:
    rests = []
    for peace in (0, 0, 10 * WINDOW):
        wait_for_the_cpu(machine, follower, 1, HOPELESS_NS)
        rest = 0
        while not machine.follows():
            send(follower, WINDOW, CLIENT)
            rest += 1
        rests.append(rest)
        send(follower, peace, CLIENT)
    wait_for_the_cpu(machine, follower, 1, HOPELESS_NS)
    assert not machine.follows()
    send(follower, (rests[0] + 1) * WINDOW, CLIENT)
    assert machine.follows()
    assert rests[2] > 8 * rests[0]


def test_the_cpu_of_a_thread() -> None:
    assert cpu_of(threading.get_native_id()) in range(os.cpu_count() or 1)
    assert cpu_of(1 << 22) == -1


FILES = 2000
STATS = """
import os, sys, time
names = [os.path.join(sys.argv[1], str(number)) for number in range(int(sys.argv[2]))]
start = time.perf_counter()
for name in names:
    os.lstat(name)
print(time.perf_counter() - start)
"""


def stat_all(stack: Stack, *, follow: bool) -> float:
    """Look FILES names up next to two hogs a CPU, all in one session with the daemon; return how long it took."""
    words = ["mount", "-f", *stack.arguments, *([] if follow else ["-o", "follow=off"]), stack.merged]
    daemon = subprocess.Popen(stack.command(*words), stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        deadline = time.monotonic() + 60
        while not (stack / "directory" / "0").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        done = subprocess.run(
            [sys.executable, "-c", STATS, stack / "directory", str(FILES)], check=True, capture_output=True, text=True
        )
        return float(done.stdout)
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
        daemon.terminate()
        daemon.wait(20)


@pytest.mark.fuse
@pytest.mark.root
@pytest.mark.slow
def test_hogs_in_the_same_session_do_not_starve_the_mount(tmp_path: Path) -> None:
    """Without the guard each request waits 50 to 200 ms, hundreds of times what it takes without following."""
    stack = Stack(tmp_path, engine="direct")
    for number in range(FILES):
        (stack.base / "directory" / str(number)).touch()
    without = stat_all(stack, follow=False)
    following = stat_all(stack, follow=True)
    assert following < 60 * without
