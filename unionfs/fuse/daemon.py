"""Going into the background, and telling the one who waits how it went.

The command forks at once. The child, leader of a session of its own, does all the work and reports
through a pipe; the parent waits for that report and becomes the exit status. So the command returns
only when the mount answers, and whoever called it sees the error on the stderr he gave us.

Container engines call us with pipes and wait for their end of file. So once it has reported, the
daemon lets go of everything it inherited: 0, 1 and 2 become /dev/null, what else was open is closed,
and the current directory is left. Not before, for a layer may be named relative to it, or as
``/proc/self/fd/N``.

The report is one message: a status byte, then text for stderr. End of file without one means that
the child died.
"""

import contextlib
import logging
import os
import signal
from collections.abc import Callable
from typing import Final, NoReturn

from unionfs.errors import MountError

__all__ = ["Describe", "Work", "daemonize"]

log = logging.getLogger(__name__)

_READY: Final = b"\0"
_INTERRUPT: Final = (signal.SIGINT,)

Work = Callable[[Callable[[], None]], None]
"""What the daemon does; it calls its argument once it is ready, and goes on."""

Describe = Callable[[Exception], tuple[int, str]]
"""Turns an error into an exit status (1 to 255) and the text that explains it."""


def daemonize(work: Work, describe: Describe, split: Callable[[], None] | None = None) -> tuple[int, str]:
    """Run *work* in a process of its own until it is ready or fails; return the status and what to print.

    *split* is called there first; it may return in a child of that process only, which ends with the same status.

    An interrupt while we wait ends it.

    Raises:
        MountError: it died without a word.
    """
    reading, writing = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPT)  # until we are ready to end the child because of it
    pid = os.fork()
    if pid == 0:
        _become_daemon(work, describe, writing, split)
    os.close(writing)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPT)
        message = _read_message(reading)
    except KeyboardInterrupt:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(reading)
    if message == _READY:
        return 0, ""
    _, ended = os.waitpid(pid, 0)
    if message:
        return message[0], message[1:].decode("utf-8", "surrogateescape")
    raise MountError(f"the daemon died before the mount was ready; because of {_cause(ended)}")


def _become_daemon(work: Work, describe: Describe, report: int, split: Callable[[], None] | None) -> NoReturn:
    """Never return into the parent's code, whatever happens."""
    status = 1
    try:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPT)
        inherited = [fd for fd in _open_descriptors() if fd != report]
        if split is not None:
            split()
        status = _report(work, describe, report, inherited)
    finally:
        os._exit(status)


def _report(work: Work, describe: Describe, report: int, inherited: list[int]) -> int:
    reported = False

    def ready() -> None:
        nonlocal reported
        reported = True
        _write_all(report, _READY)
        _let_go([report, *inherited])

    try:
        work(ready)
    except Exception as exc:
        if reported:
            log.exception("the daemon ends because of an error")
        else:
            status, text = describe(exc)
            _write_all(report, bytes([status]) + text.encode("utf-8", "surrogateescape"))
        return 1
    return 0


def _write_all(fd: int, data: bytes) -> None:
    """Write to the pipe; whoever waited may be gone, and then nobody needs to know."""
    with contextlib.suppress(BrokenPipeError):
        while data:
            data = data[os.write(fd, data) :]


def _read_message(fd: int) -> bytes:
    """Read the report; after a ready one, the daemon's copies of the pipe need not be closed yet."""
    message = b""
    while message != _READY and (part := os.read(fd, 65536)):
        message += part
    return message


def _cause(ended: int) -> str:
    code = os.waitstatus_to_exitcode(ended)
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def _open_descriptors() -> list[int]:
    """Return what is open above stderr; asked right after the fork, all of it was inherited."""
    listed = [int(name) for name in os.listdir("/proc/self/fd")]
    return [fd for fd in listed if fd > 2 and _is_open(fd)]  # the listing itself was one of them


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _let_go(inherited: list[int]) -> None:
    for fd in inherited:
        with contextlib.suppress(OSError):
            os.close(fd)
    os.chdir("/")
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)
