"""The program that a supervisor starts to take a mount over: a fresh interpreter, with the code that is on disk.

It loads everything first and says so, and touches nothing before it gets the word. From then on it is the server of
the mount like the first one. If it fails before it serves, it ends and leaves the mount as it is: another one may
be luckier.
"""

import logging
import os
import socket
import sys
from pathlib import Path

from unionfs.core.union import Union
from unionfs.fuse import journal, listing, logfile, state, takeover
from unionfs.fuse.device import Device
from unionfs.fuse.direct import DirectEngine
from unionfs.fuse.session import Session, prepare, serve
from unionfs.fuse.supervisor import GO, KEEP, READY, Link, receive
from unionfs.linux import capabilities

__all__ = ["main"]

log = logging.getLogger(__name__)


def main(fd: int) -> None:
    """Take over what the supervisor at the other end of the socket *fd* keeps; returns when the mount is gone."""
    link = Link(socket.socket(fileno=fd), os.getppid())
    link.socket.set_inheritable(False)
    link.say(READY + journal.FORM)
    kept: dict[bytes, int] = {}
    while (message := receive(link.socket))[0][:1] == KEEP:
        kept.update(zip(message[0][1:].split(b"\0"), message[1], strict=True))
    if message[0][:1] != GO:
        sys.exit(1)
    with capabilities.without(capabilities.SYS_RESOURCE):  # as in `Session.run`
        _take_over(link, kept, restarts=int(message[0][1:]))


def _take_over(link: Link, kept: dict[bytes, int], *, restarts: int) -> None:
    settings = takeover.settings_of(kept)
    log_file = Path(settings.record.log) if settings.record.log else None
    logfile.start_logging(log_file, debug=settings.options.debug)
    record = settings.record._replace(
        pid=os.getpid(),
        started=state.started(os.getpid()) or 0,
        supervisor=link.supervisor,
        restarts=restarts,
    )
    session = Session(
        config=settings.config, options=settings.options, mountpoint=Path(record.mountpoint), log_file=log_file
    )
    prepare()
    listing.DIVISOR.value = settings.divisor
    union = Union(settings.config, defer=True, given=takeover.layers_of(kept))
    engine = DirectEngine(union, session.mountpoint, settings.options)
    keeper = socket.socket(fileno=kept[b"keeper"]) if b"keeper" in kept else None
    device = Device(
        kept[b"device"], session.mountpoint, privileged=settings.privileged, keeper=keeper, number=record.device
    )
    engine.take_over(device, settings.features, link, kept)
    os.close(kept[b"settings"])
    log.info("process %d serves %s now", os.getpid(), record.mountpoint)
    serve(session, engine, union, record, link)
