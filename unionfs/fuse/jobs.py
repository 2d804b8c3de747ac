"""Long work beside the requests: one worker thread a job, and everybody who needs it waits.

The union hands out a `Job` where something may take long (core/jobs.py). Its blocking half runs in
a thread, its other half on the union's thread, which is trio's. Others are served meanwhile: two
who open one big file cause one copy-up, and both wait for it, while a third lists the directory.
"""

from collections.abc import Callable
from typing import TypeVar

import trio

from unionfs.core.jobs import Deferred, Job

__all__ = ["Jobs"]

T = TypeVar("T")


class Jobs:
    """The jobs under way in one engine."""

    def __init__(self) -> None:
        self._over: dict[Job, trio.Event] = {}

    async def ask(self, request: Callable[[], T]) -> T:
        """Return what *request* answers, after whatever long work it needs first.

        Raises:
            OSError: of the request, or of the work.
        """
        while True:
            try:
                return request()
            except Deferred as deferred:
                await self.complete(deferred.job)

    async def complete(self, job: Job | None) -> None:
        """Do *job*, or wait for whoever is at it already; None is nothing to do.

        Only the one who does it sees its error; the others ask again, and learn it from their own try.
        """
        if job is None or job.done:
            return
        if job in self._over:
            await self._over[job].wait()
            return
        over = self._over[job] = trio.Event()
        try:
            await self._run(job)
        finally:
            del self._over[job]
            over.set()

    async def _run(self, job: Job) -> None:
        """Run both halves; the second happens also when the first failed or when we are cancelled."""
        error: BaseException | None = None
        with trio.CancelScope(shield=True):
            try:
                await trio.to_thread.run_sync(job.run)
            except BaseException as exc:  # noqa: BLE001 - finish decides what it means
                error = exc
        job.finish(error)
