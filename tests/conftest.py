"""What every test gets without asking for it.

* A marker of `tests.abilities` (root, fuse, overlayfs, userns, xattrs, debian) skips the test, with the reason, on a
  machine that cannot do it. Where the environment says CI=true no test may be skipped: there a skip is a failure.
* A record logged at WARNING or above fails the test, unless ``@pytest.mark.logs("pattern")`` expects it; and a
  pattern that nothing matched fails it too.
* A test that waits for a FUSE daemon which does not answer is let go of after its time (`tests.watchdog`).
* At the end of the run nothing may be left: no mount, no process, no temporary file (`tests.leaks`).
"""

import logging
import os
import re
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.abilities import ABILITIES, lacking
from tests.leaks import Run
from tests.watchdog import Watchdog

IN_CI = os.environ.get("CI") == "true"

RUN = pytest.StashKey[Run]()
LEAKS = pytest.StashKey[list[str]]()
WATCHDOG = pytest.StashKey[Watchdog]()

# No deadline and no complaint about slow data: how fast this machine is now is no property of the code. In CI the
# examples are the same each time; it is `make fuzz` that looks for new ones.
settings.register_profile(
    "default", deadline=None, max_examples=50, derandomize=IN_CI, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("long", settings.get_profile("default"), max_examples=1000, derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.stash[RUN] = Run()
    if config.option.basetemp is None:
        config.option.basetemp = config.stash[RUN].directory / "pytest"
    limit = config.getoption("timeout")
    if limit != 0:
        seconds = float(limit if limit is not None else config.getini("timeout"))
        config.stash[WATCHDOG] = Watchdog(config.stash[RUN].directory, seconds)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if WATCHDOG in item.config.stash:
        item.config.stash[WATCHDOG].see()
    for marker in ABILITIES:
        if item.get_closest_marker(marker) and (reason := lacking(marker)):
            pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not hasattr(report, "wasxfail"):
        never_skip_in_ci(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    never_skip_in_ci(report)
    return report


def never_skip_in_ci(report: pytest.TestReport | pytest.CollectReport) -> None:
    if IN_CI and report.skipped:
        where, line, reason = report.longrepr if isinstance(report.longrepr, tuple) else ("", 0, report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{where}:{line}: CI must run every test, this one was skipped. {reason}"


@pytest.fixture(autouse=True)
def umask_of_its_own() -> Generator[None]:
    """Put the umask back, which a union in this process takes from whoever makes a file in it."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture(autouse=True)
def expected_logs(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Generator[None]:
    """Fail the test for a WARNING or worse that it did not announce, or that it announced and did not get."""
    yield
    expected = [re.compile(pattern) for mark in request.node.iter_markers("logs") for pattern in mark.args]
    records = [*caplog.get_records("setup"), *caplog.get_records("call")]
    lines = [f"{r.levelname} {r.name}: {r.getMessage()}" for r in records if r.levelno >= logging.WARNING]
    unexpected = [line for line in lines if not any(pattern.search(line) for pattern in expected)]
    missing = [pattern.pattern for pattern in expected if not any(pattern.search(line) for line in lines)]
    assert not unexpected, "logged unexpectedly"
    assert not missing, "expected in the log and not there"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if WATCHDOG in session.config.stash:
        session.config.stash[WATCHDOG].close()
    leaks = session.config.stash[LEAKS] = session.config.stash[RUN].leaks()
    if leaks and exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    session.config.stash[RUN].close(keep=session.exitstatus == pytest.ExitCode.TESTS_FAILED)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if leaks := config.stash.get(LEAKS, []):
        terminalreporter.section("the tests left something behind", red=True, bold=True)
        for leak in leaks:
            terminalreporter.write_line(leak)
    if config.stash[RUN].directory.exists():
        terminalreporter.write_line(f"Files of this run are kept in {config.stash[RUN].directory}")


@pytest.fixture
def project() -> Path:
    """Return the checkout: where pyproject.toml is."""
    return Path(__file__).parents[1]
