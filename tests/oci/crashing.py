"""SIGKILL at the n-th step of something; steps are what changes names, attributes, the database, or makes a file."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from unionfs.oci.database import Database
from unionfs.oci.images import Images
from unionfs.oci.verify import check

STEPS = {"os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.link", "os.symlink", "os.chmod", "os.utime"}


def run_until(step: int, work: Callable[[], object]) -> bool:
    """Run *work* in a child that dies at its step number *step*; True if it did not get so far."""
    pid = os.fork()
    if pid == 0:
        _count_down(step)
        try:
            work()
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in {0, -signal.SIGKILL}
    return status == 0


def _count_down(left: int) -> None:
    def at_step(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(lambda event, args: at_step() if event in STEPS or _makes_a_file(event, args) else None)
    original = Database.changing

    @contextmanager
    def changing(self: Database) -> Iterator[object]:
        with original(self) as connection:
            yield connection
            at_step()  # before the commit
        at_step()  # after it

    Database.changing = changing  # type: ignore[method-assign, assignment]  # the fault


def _makes_a_file(event: str, args: tuple[object, ...]) -> bool:
    """Tell whether a file is created; those of a layer (by their bare names) and locks mean nothing by being there."""
    if event != "open":
        return False
    path, _, flags = args
    return isinstance(flags, int) and bool(flags & os.O_CREAT) and str(path)[:1] == "/" and "/locks/" not in str(path)


def unsound(root: Path) -> list[str]:
    """Return what is wrong; the layout's index may be a step behind the database, until the next change."""
    return [f"{p.kind} {p.name}: {p.what}" for p in check(Images(root)) if not p.harmless and p.kind != "index"]
