"""What a host's failure means: an answer, or worth asking again, and after how long.

    Refused     the host answered, and the answer is no: asking again changes nothing
    NotNow      no answer, half an answer, or "later": 408, 429, 5xx, a broken connection

`Patience` is the one place that waits. It doubles its delay from 0.5 s with jitter, so that many
clients of a host that comes back do not return in step; it obeys Retry-After, but not beyond
MAX_WAIT, because a user would rather have the message than a silent hour. Where another host may
be asked instead, it is short: nobody waits for an unreachable mirror.
"""

import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar

import trio

from unionfs.errors import RegistryError

__all__ = ["PROGRESS", "NotNow", "Patience", "Refused", "is_transient", "one_error", "printable", "retry_after"]

ATTEMPTS: Final = 5
"""Tries of one request; a blob that made progress in between starts counting again."""

ATTEMPTS_OF_MANY: Final = 2
"""Tries where there is another host to ask; one, if the first found nobody there."""

FIRST_DELAY: Final = 0.5
MAX_WAIT: Final = 60.0
MAX_WAIT_OF_MANY: Final = 5.0
"""Seconds."""

PROGRESS: Final = 64 << 10
"""Bytes that must have arrived for a broken transfer to count as one that works, slowly."""

_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


T = TypeVar("T")


class Refused(RegistryError):
    """A definite answer that is not the one hoped for."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status, or 0 where the answer was not a status."""


class NotNow(RegistryError):
    """A failure that may pass."""

    def __init__(self, message: str, wait: float | None = None, *, connected: bool = True) -> None:
        super().__init__(message)
        self.wait = wait
        """Seconds the host asked to be left alone for, if it did."""
        self.connected = connected
        """False if there was nobody to talk to."""


def is_transient(status: int) -> bool:
    """True if the same request may get another answer later."""
    return status in _TRANSIENT


def retry_after(header: str | None, now: datetime | None = None) -> float | None:
    """The seconds a ``Retry-After`` header asks for; None if it is absent or unreadable.

    >>> retry_after("120")
    120.0
    """
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        until = parsedate_to_datetime(header)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - (now or datetime.now(UTC))).total_seconds())


def printable(text: str, limit: int = 200) -> str:
    """What a host says, fit for a terminal: no control characters, no flood."""
    text = " ".join(text.split())
    clean = "".join(char if char.isprintable() else "?" for char in text)
    return clean if len(clean) <= limit else f"{clean[:limit]}…"


class Patience:
    """How often one transfer has failed in a row, and the wait before its next try."""

    def __init__(self, note: Callable[[str], None], *, one_of_many: bool = False) -> None:
        self._note = note
        self._one_of_many = one_of_many
        self._attempts, self._longest = (ATTEMPTS_OF_MANY, MAX_WAIT_OF_MANY) if one_of_many else (ATTEMPTS, MAX_WAIT)
        self._failed = 0

    async def after(self, failure: NotNow, *, progress: int = 0) -> None:
        """Wait before trying again, after *progress* bytes; raise *failure* when that is enough."""
        self._failed = 1 if progress >= PROGRESS else self._failed + 1
        delay = FIRST_DELAY * 2 ** (self._failed - 1) * random.uniform(0.75, 1.25)  # noqa: S311  jitter
        if failure.wait is not None:
            delay = max(delay, failure.wait)
        nobody = self._one_of_many and not failure.connected
        if nobody or self._failed >= self._attempts or delay > self._longest:
            raise failure
        self._note(f"{failure}; trying again in {delay:.1f} s")
        await trio.sleep(delay)

    async def through(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Call *operation* until it does not raise `NotNow`, or patience is at its end."""
        while True:
            try:
                return await operation()
            except NotNow as failure:
                await self.after(failure)


@contextmanager
def one_error() -> Iterator[None]:
    """Raise the first error of parallel transfers in place of the group: the others it cancelled."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
