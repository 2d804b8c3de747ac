"""Handing a mount over, and taking it over.

A successor opens nothing by its path. It gets the layers as descriptors, reads the journal, and puts back what the
kernel has numbers for: nodes that have names are looked for when they are needed; those without, and all open
files, are there at once. Then it asks the kernel to send again what was being answered, and serves.

The one request of which the journal does not say whether it was carried out is looked into before anybody may ask
anything: its names are on disk or they are not. If it made something, that is removed again, so that it can be
carried out from the beginning. If it removed or moved something, and has, then the tables say so too.

The kernel kept its caches meanwhile. What it would have been told by the server that died, and was not, can only
be about listings; so all of those are dropped.
"""

import logging
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from unionfs.core.awaited import Known
from unionfs.core.restore import FIELDS, Gone
from unionfs.fuse import settings, state
from unionfs.fuse.notes import key_of
from unionfs.fuse.noting import MAKING, ONE_NODE
from unionfs.fuse.protocol import Opcode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unionfs.core.union import Union
    from unionfs.fuse.journal import Begun, Past
    from unionfs.fuse.passthrough import Cached
    from unionfs.fuse.settings import Settings
    from unionfs.fuse.supervisor import Link

__all__ = ["control_socket", "hand_over", "layers_of", "restore", "settings_of"]

log = logging.getLogger(__name__)

_REMOVING: Final = frozenset({Opcode.UNLINK, Opcode.RMDIR})


def hand_over(link: "Link", union: "Union", device: int, keeper: int | None, what: "Settings") -> None:
    """Leave with the supervisor what does not change while the mount lives."""
    text = os.memfd_create("unionfs-settings", os.MFD_CLOEXEC)
    try:
        os.write(text, settings.encoded(what))
        kept = [(b"settings", text), (b"device", device)]
        kept += [(b"layer %d" % number, fd) for number, fd in enumerate(union.descriptors())]
        if keeper is not None:
            kept.append((b"keeper", keeper))
        link.keep(*kept)
    finally:
        os.close(text)
    directory = state.own_directory()
    if directory is not None:
        with suppress(OSError):  # then it cannot be restarted on request
            _open_door(link, control_socket(directory, link.supervisor))


def control_socket(directory: "os.PathLike[str]", supervisor: int) -> str:
    """Return where a supervisor listens."""
    return os.path.join(directory, f"{supervisor}.sock")


def _open_door(link: "Link", path: str) -> None:
    """Listen where the supervisor will be asked for a restart; only we and root may ask."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        before = os.umask(0o177)
        try:
            with suppress(FileNotFoundError):
                os.unlink(path)
            door.bind(path)
        finally:
            os.umask(before)
        door.listen()
        link.keep((b"control", door.fileno()))


def settings_of(kept: "Mapping[bytes, int]") -> "Settings":
    """Return what the first server said."""
    fd = kept[b"settings"]
    return settings.decoded(os.pread(fd, os.fstat(fd).st_size, 0))


def layers_of(kept: "Mapping[bytes, int]") -> list[int]:
    """Return the descriptors to open the union with."""
    count = sum(1 for key in kept if key.startswith(b"layer "))
    return [kept[b"layer %d" % number] for number in range(count)]


def restore(union: "Union", modes: "Cached", past: "Past", kept: "Mapping[bytes, int]") -> None:
    """Put the tables back; what cannot be is taken out of *past*."""
    restoring = union.restoring()
    listed = {parent for known in past.known.values() for parent, _ in known.names}
    restoring.await_nodes(past.known, past.next_id)
    if past.unsure is not None:
        _settle(union, past, past.unsure, kept)
    for gone in past.gone.values():
        restoring.gone(gone)
    restoring.number_handles_from(past.last_handle)
    for handle, file in list(past.files.items()):
        try:
            restoring.opened(file.opening, kept.get(key_of(handle)))
        except OSError as exc:
            log.error("open file %d of node %d is lost: %s", handle, file.opening.nodeid, exc.strerror)  # noqa: TRY400 - no bug of ours
            del past.files[handle]
        else:
            modes.restore(file.opening.nodeid, file.opening.flags, file.backing, to_root=file.to_root)
    if past.unsure is not None:
        _settle_attribute(union, past, past.unsure)
    for nodeid in listed:
        modes.drop_listing(nodeid)


def _settle(union: "Union", past: "Past", request: "Begun", kept: "Mapping[bytes, int]") -> None:
    """Find out whether *request* was carried out, and bring disk and tables together."""
    if request.opcode in ONE_NODE:  # which may be one without a name
        return
    past.unsure = None
    awaited = union.restoring().awaited
    source, target = (request.parent, request.name), (request.other, request.other_name)
    try:
        is_there = union.shows(*source)
    except OSError:  # the directory has gone as well
        return
    if request.opcode == Opcode.LINK and _is_named(union, past, request):
        past.remember(request)
        return
    if request.opcode in MAKING:
        if is_there and not awaited.has_name(*source):
            union.restoring().unmake(*source)
        return
    moved, exchanged = request.inos
    if exchanged:
        if union.restoring().number_at(*source) != exchanged:
            return
        awaited.exchange(source, target)
    elif is_there and not (moved and _has_moved(union, moved, source, target)):
        return
    else:
        lost = awaited.lose(*(source if request.opcode in _REMOVING else target))
        if request.opcode not in _REMOVING:
            awaited.rename(source, target)
        if is_there:  # what was replaced, and had no time to become a whiteout; nobody is awaited there any more
            union.discard(*source)
        if lost is not None:
            _leave_nameless(past, lost, kept)
    past.remember(request)


def _settle_attribute(union: "Union", past: "Past", request: "Begun") -> None:
    """Find out whether an attribute was made or removed; the last server had found that it could be."""
    past.unsure = None
    with suppress(OSError):
        if union.has_attribute(request.parent, request.name) is (request.opcode == Opcode.SETXATTR):
            past.remember(request)


def _is_named(union: "Union", past: "Past", request: "Begun") -> bool:
    """Find out whether a file without a name was given one; if so, it is awaited under that."""
    lost, restoring = past.gone.get(request.other), union.restoring()
    if lost is None or restoring.number_at(request.parent, request.name) != lost.ino:
        return False
    del past.gone[request.other]
    restoring.awaited.add(Known(request.other, {(request.parent, request.name): None}, lost.lookups))
    return True


def _has_moved(union: "Union", ino: int, source: tuple[int, bytes], target: tuple[int, bytes]) -> bool:
    number_at = union.restoring().number_at
    return number_at(*target) == ino and number_at(*source) != ino


def _leave_nameless(past: "Past", lost: Known, kept: "Mapping[bytes, int]") -> None:
    """Note that a node has no name any more, if it has open files; else nobody can ask for it."""
    files = [file for file in past.files.values() if file.opening.nodeid == lost.nodeid]
    descriptors = [kept[key_of(file.opening.handle)] for file in files if key_of(file.opening.handle) in kept]
    if not descriptors:
        return
    st = os.fstat(descriptors[0])
    is_upper = any(file.backing or file.opening.flags & os.O_ACCMODE for file in files)
    fields = tuple(getattr(st, name) for name in FIELDS)
    past.gone[lost.nodeid] = Gone(lost.nodeid, lost.nodeid, 0 if is_upper else 1, 0, lost.lookups, fields)
