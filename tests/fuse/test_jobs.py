"""Long work beside the requests: once for all who need it, in a thread, and others go on meanwhile."""

import errno
import threading

import pytest
import trio
import trio.testing

from unionfs.core.jobs import Deferred, Job
from unionfs.fuse.jobs import Jobs


class Needing:
    """A request that needs a job before it can be answered."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        if not self.job.done:
            raise Deferred(self.job)
        return "answer"


async def test_a_request_is_asked_again_after_its_job() -> None:
    finished: list[BaseException | None] = []
    need = Needing(Job(lambda: None, finished.append))
    assert await Jobs().ask(need) == "answer"
    assert (need.asked, finished) == (2, [None])


async def test_the_work_has_a_thread_of_its_own_and_its_end_has_ours() -> None:
    threads: list[int] = []
    job = Job(lambda: threads.append(threading.get_ident()), lambda _: threads.append(threading.get_ident()))
    await Jobs().complete(job)
    assert threads[0] != threads[1] == threading.get_ident()


async def test_two_who_need_one_job_cause_one_run_and_a_third_is_served_meanwhile() -> None:
    go = threading.Event()
    runs: list[str] = []

    def work() -> None:
        go.wait()
        runs.append("run")

    jobs, job = Jobs(), Job(work)
    first, second = Needing(job), Needing(job)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(jobs.ask, first)
        nursery.start_soon(jobs.ask, second)
        await trio.testing.wait_all_tasks_blocked()
        assert await jobs.ask(lambda: "served") == "served"
        assert runs == []
        go.set()
    assert runs == ["run"]
    assert (first.asked, second.asked) == (2, 2)


async def test_an_error_of_the_work_reaches_its_finish_and_the_one_who_did_it() -> None:
    seen: list[BaseException | None] = []

    def work() -> None:
        raise OSError(errno.ENOSPC, "full")

    def finish(error: BaseException | None) -> None:
        seen.append(error)
        if error is not None:
            raise error

    with pytest.raises(OSError, match="full"):
        await Jobs().ask(Needing(Job(work, finish)))
    assert [type(error) for error in seen] == [OSError]


async def test_who_only_waited_asks_again_and_learns_from_his_own_try() -> None:
    go = threading.Event()

    def work() -> None:
        go.wait()
        raise OSError(errno.EIO, "broken")

    jobs, job = Jobs(), Job(work)
    answers: list[str] = []

    async def fail() -> None:
        with pytest.raises(OSError, match="broken"):
            await jobs.ask(Needing(job))

    async def wait() -> None:
        answers.append(await jobs.ask(Needing(job)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        go.set()
    assert answers == ["answer"]


async def test_a_job_that_was_begun_is_finished_though_we_are_cancelled() -> None:
    """Half a copy in the work directory would be left otherwise, and descriptors open."""
    go = threading.Event()
    finished: list[BaseException | None] = []

    def work() -> None:
        go.wait()

    jobs, job = Jobs(), Job(work, finished.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(jobs.complete, job)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        go.set()
    assert finished == [None]
    assert job.done


async def test_nothing_to_do_is_done_at_once() -> None:
    done = Job(lambda: None)
    done.complete()
    for job in (None, done):
        with trio.fail_after(1):
            await Jobs().complete(job)
    assert done.done
