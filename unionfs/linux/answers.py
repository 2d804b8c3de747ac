"""Ask mounts whether their daemons answer, and wait no longer than one is willing to.

A request to a FUSE mount whose daemon has stopped waits for ever; one that the daemon has already taken cannot
even be killed. So each mount is asked by a process of its own, which is left behind when it does not return:
it holds nothing of ours, and ends with the mount.
"""

import errno
import os
import select
import signal
import time
from collections.abc import Iterable
from typing import Final

__all__ = ["answers"]

_MOST_DESCRIPTORS: Final = 1 << 20


def answers(places: Iterable[str], patience_s: float) -> dict[str, int | None]:
    """Return for each place what statvfs(2) there said: 0, an errno, or None where nothing came in time."""
    asking = {os.pidfd_open(pid): (place, pid) for place in set(places) for pid in (_ask(place),)}
    found: dict[str, int | None] = {place: None for place, _ in asking.values()}
    poller = select.poll()
    for fd in asking:
        poller.register(fd, select.POLLIN)
    deadline = time.monotonic() + patience_s
    left = set(asking)
    while left and (ready := poller.poll(max(0, deadline - time.monotonic()) * 1000)):
        for fd, _ in ready:
            place, pid = asking[fd]
            _, status = os.waitpid(pid, 0)
            found[place] = os.waitstatus_to_exitcode(status)
            poller.unregister(fd)
            left.discard(fd)
    for fd, (_, pid) in asking.items():
        if fd in left:
            os.kill(pid, signal.SIGKILL)  # it dies at once, unless the daemon holds its request
            os.waitpid(pid, os.WNOHANG)
        os.close(fd)
    return found


def _ask(place: str) -> int:
    """Return the pid of a process whose exit status will be the answer."""
    pid = os.fork()
    if pid:
        return pid
    code = errno.EIO
    try:
        os.closerange(0, _MOST_DESCRIPTORS)  # who reads our output waits for its end
        os.statvfs(place)  # the daemon is asked, where a stat may be answered from the kernel's cache
        code = 0
    except OSError as exc:
        code = exc.errno or errno.EIO
    finally:
        os._exit(code)
