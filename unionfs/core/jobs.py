"""Long work as a value: what a request must wait for while the union goes on serving others.

The union has one thread. Work that may take long (copying the data of a big file, an fsync) is
split in two: ``run`` touches only descriptors and frozen values and may happen in any thread;
``finish`` updates the union's tables and happens on the union's own thread. Because no worker ever
sees a table, the tables need no lock.

A method that needs a big copy-up first raises `Deferred`, having changed nothing; whoever called it
runs the job and calls the method again. Two requests that need the same copy-up get the same job.
"""

from collections.abc import Callable
from typing import final

__all__ = ["Deferred", "Job"]


@final
class Job:
    """One piece of long work, run once. *finish* gets the error of *work*, or None, and may raise."""

    __slots__ = ("_finish", "_work", "done", "error")

    def __init__(self, work: Callable[[], None], finish: Callable[[BaseException | None], None] | None = None) -> None:
        self._work = work
        self._finish = finish
        self.done = False
        self.error: BaseException | None = None

    def run(self) -> None:
        """Do the blocking part; callable from any thread.

        Raises:
            OSError: the work failed. Hand it to `finish`, which must be called all the same.
        """
        self._work()

    def finish(self, error: BaseException | None = None) -> None:
        """Take the result in; only on the union's thread, once, also after a failed `run`.

        Raises:
            OSError: the work failed (*error* itself), or could not be published.
        """
        try:
            if self._finish is not None:
                self._finish(error)
            elif error is not None:
                raise error
        except BaseException as exc:
            self.error = exc
            raise
        finally:
            self.done = True

    def complete(self) -> None:
        """Run and finish here and now, for callers that may block."""
        try:
            self.run()
        except BaseException as exc:
            self.finish(exc)
            raise
        self.finish()


class Deferred(Exception):
    """Nothing was done yet: complete *job*, then call the method again."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job
