"""How long is waited, and what may go out in the clear: pure rules, in no time."""

from datetime import UTC, datetime

import httpx
import pytest
import trio
from trio.testing import MockClock

from unionfs.errors import RegistryError
from unionfs.oci.registry import failures
from unionfs.oci.registry.auth import plain_is_allowed
from unionfs.oci.registry.failures import NotNow, Patience, one_error, printable, retry_after
from unionfs.oci.registry.mirrors import Endpoint, Scheme

NOON = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)

HEADERS = [
    (None, None),
    ("", None),
    ("0", 0.0),
    ("120", 120.0),
    (" 7 ", 7.0),
    ("-5", None),
    ("1.5", None),
    ("soon", None),
    ("Tue, 24 Nov 2026 12:00:30 GMT", 30.0),
    ("Tue, 24 Nov 2026 11:00:00 GMT", 0.0),
    ("Tue, 24 Nov 2026 12:00:30 -0000", 30.0),
]


@pytest.mark.parametrize(("header", "seconds"), HEADERS)
def test_retry_after_is_read_in_both_forms(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, NOON) == seconds


def ignore(_text: str) -> None:
    return


async def fail(patience: Patience, times: int, progress: int = 0) -> list[float]:
    """Fail so often, and return how long each wait was; waits that were had before the end are lost."""
    waits = []
    for _ in range(times):
        before = trio.current_time()
        await patience.after(NotNow("later"), progress=progress)
        waits.append(trio.current_time() - before)
    return waits


async def test_waits_double_and_end(autojump_clock: MockClock) -> None:
    assert autojump_clock.autojump_threshold == 0
    patience = Patience(ignore)
    waits = await fail(patience, failures.ATTEMPTS - 1)
    with pytest.raises(NotNow, match="later"):
        await fail(patience, 1)
    for number, wait in enumerate(waits):
        assert 0.75 <= wait / (failures.FIRST_DELAY * 2**number) <= 1.25


async def test_progress_starts_the_count_again(autojump_clock: MockClock) -> None:
    assert autojump_clock.autojump_threshold == 0
    patience = Patience(ignore)
    await fail(patience, 3 * failures.ATTEMPTS, failures.PROGRESS)
    with pytest.raises(NotNow):
        await fail(patience, failures.ATTEMPTS, failures.PROGRESS - 1)


async def test_a_host_that_says_when_is_obeyed_up_to_a_limit(autojump_clock: MockClock) -> None:
    assert autojump_clock.autojump_threshold == 0
    patience, before = Patience(ignore), trio.current_time()
    await patience.after(NotNow("busy", 45.0))
    assert trio.current_time() - before == pytest.approx(45)
    with pytest.raises(NotNow):
        await patience.after(NotNow("busy", failures.MAX_WAIT + 1))
    assert trio.current_time() - before == pytest.approx(45)


async def test_with_another_host_to_ask_patience_is_short(autojump_clock: MockClock) -> None:
    assert autojump_clock.autojump_threshold == 0
    with pytest.raises(NotNow):
        await Patience(ignore, one_of_many=True).after(NotNow("nobody there", connected=False))
    with pytest.raises(NotNow):
        await Patience(ignore, one_of_many=True).after(NotNow("busy", failures.MAX_WAIT_OF_MANY + 1))
    patience = Patience(ignore, one_of_many=True)
    await patience.after(NotNow("once"))
    with pytest.raises(NotNow):
        await patience.after(NotNow("twice"))


REGISTRY, LOCAL = "registry.example:5000", "127.0.0.1:5000"

PLAIN = [
    # endpoint, its scheme, URL, allowed
    (REGISTRY, Scheme.HTTP, "http://registry.example:5000/v2/", True),
    (REGISTRY, Scheme.HTTP, "http://registry.example:5001/token", True),
    (REGISTRY, Scheme.HTTP, "http://elsewhere.example/", False),
    (REGISTRY, Scheme.HTTP, "http://127.0.0.1/", False),
    (REGISTRY, Scheme.HTTPS, "http://registry.example:5000/v2/", False),
    (REGISTRY, Scheme.HTTPS, "http://localhost:5000/v2/", False),
    (LOCAL, Scheme.PROBE, "http://127.0.0.1:5000/v2/", True),
    (LOCAL, Scheme.PROBE, "http://localhost:9000/blob", True),
    (LOCAL, Scheme.PROBE, "http://registry.example/", False),
]


@pytest.mark.parametrize(("host", "scheme", "url", "allowed"), PLAIN)
def test_plain_http_goes_where_the_configuration_says_so(host: str, scheme: Scheme, url: str, allowed: object) -> None:
    assert plain_is_allowed(httpx.URL(url), Endpoint(host=host, scheme=scheme)) is allowed


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("a\nb\tc", "a b c"),
        ("\x1b[31mred\x07", "?[31mred?"),
        ("x" * 300, "x" * 200 + "…"),
        ("", ""),
    ],
)
def test_what_a_host_says_is_fit_for_a_terminal(said: str, shown: str) -> None:
    assert printable(said) == shown


def test_of_a_group_the_first_error_is_raised() -> None:
    nested = ExceptionGroup("outer", [ExceptionGroup("inner", [RegistryError("this one")]), ValueError("other")])
    with pytest.raises(RegistryError, match="this one"), one_error():
        raise nested
