"""Give a lower file its own copy in the upper layer, before the first change to it.

    lower file  --staging.STEPS-->  work/#<n>  --rename-->  upper/<dir>/<name>

Until the rename nothing is visible under the union's name, and the rename is one system call. A
reader sees the lower file or the finished copy; a crash leaves at most one file in the work
directory, which the next mount empties. Parent directories are copied up first, each whole, with
the lower's owner, mode and attributes; a directory that receives a copy keeps its times.

Data that take long to copy are a `Job`: the caller is told to wait (`Deferred`) and asked again.
Whoever needs the same copy meanwhile gets the same job.

Source: Linux fs/overlayfs/copy_up.c, ovl_do_copy_up() and ovl_copy_up_workdir().
"""

import errno
import os
import stat
from collections.abc import Callable
from functools import partial
from typing import Final

from unionfs.core import inos
from unionfs.core.index import origin_mark, origin_stat
from unionfs.core.jobs import Deferred, Job
from unionfs.core.layer import Place
from unionfs.core.nodes import Dir, File
from unionfs.core.protection import harden_file
from unionfs.core.staging import Copy, fill, run
from unionfs.core.state import State
from unionfs.core.upper import Upper, despite_flags, restore_times, with_access
from unionfs.errors import RefusedMark
from unionfs.linux import at, fileops, xattr

__all__ = ["copy_up_data", "directory", "file", "link_names", "metadata", "publish", "refuse_metacopy"]

_KEPT_FLAGS: Final = fileops.FS_APPEND | fileops.FS_IMMUTABLE | fileops.FS_SYNC | fileops.FS_NOATIME
"""Source: OVL_COPY_FS_FLAGS_MASK and OVL_PROT_FS_FLAGS_MASK, fs/overlayfs/overlayfs.h."""

INLINE_BYTES: Final = 256 << 10
"""Up to here a copy is made at once; handing it to a thread would take longer than the copy."""


def directory(state: State, node: Dir) -> Place:
    """Return the place of *node* in the upper layer; it and its parents are copied up if need be."""
    if node.places[0].layer.writable:
        return node.places[0]
    upper = state.writable()
    missing = [node]
    while missing[-1].parent.upper is None:
        missing.append(missing[-1].parent)
    for each in reversed(missing):
        _directory(upper, each)
        if len(each.places) == 2 and state.on_merging is not None:
            state.on_merging(each)
    return node.places[0]


def _directory(upper: Upper, node: Dir) -> None:
    if node.is_gone:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    lower = node.places[0]
    above = node.parent.places[0]
    st = lower.exact(b".", os.fstat(lower.fd()))
    copy = Copy(st, lower.fd(), -1, 0, upper, upper.temporary())
    copy.origin = origin_mark(lower, b"")
    with upper.staged() as copy.temp:
        run(copy)
        _publish(upper, copy, above, node.name)
    place = above.child(node.name)
    place.mark_fresh()
    node.places = (place, *node.places)


def file(state: State, node: File, size: int | None = None, *, lifts_flags: bool = False) -> None:
    """Make *node* an upper file, with all its data, or with the first *size* bytes of them.

    Raises:
        Deferred: the data take long; complete the job and call again.
        OSError: the upper layer refused (ENOSPC, EDQUOT, EACCES ...); nothing was published. EPERM: the
            file is append-only or immutable, and *lifts_flags* does not say that just this is to change.
    """
    if node.has_lower_names:
        link_names(state, node)
    if node.place.layer.writable:
        harden_file(node)
        if node.data is None:
            return
    if node in state.jobs:
        raise Deferred(state.jobs[node])
    upper = state.writable()
    if node.data is not None and node.place.layer.writable:
        copy_up_data(state, node, size)
        return
    if not node.is_gone:
        directory(state, node.parent)
    copy = _prepare(upper, node, size, hard_links=state.config.index)
    if copy.data >= 0:
        copy.names = refuse_metacopy(state, copy.data, node.data[0] if node.data is not None else node.place)
    if copy.flags & (fileops.FS_APPEND | fileops.FS_IMMUTABLE) and not lifts_flags:
        copy.close()
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    _start(state, node, copy, lambda error: _finish(state, upper, node, copy, error))


def refuse_metacopy(state: State, fd: int, place: Place) -> list[str] | None:
    """Close *fd*, a file of *place*, if its data are in another layer and this union was told not to look there.

    Without this it would read as zeros; in a data-only layer a mark means nothing. Returns the names of its attributes;
    None if it may have its data elsewhere, or they are no attributes that anybody sees.

    Raises:
        RefusedMark: it has a metacopy mark.
    """
    if state.rules.metacopy or place.layer in state.rules.data_layers:
        return None
    try:
        names = xattr.names(fd)
        if place.layer.xattrs.metacopy in names:
            raise RefusedMark("a file without its data; mount with metacopy=on to see them")
    except OSError:
        os.close(fd)
        raise
    return names


def _start(state: State, node: File, copy: Copy, finish: Callable[[BaseException | None], None]) -> None:
    """Do the copy now, or hand it out as a job if it would keep others waiting."""
    if state.defer and (copy.size > INLINE_BYTES or (copy.upper.syncs and copy.data >= 0)):
        state.jobs[node] = job = Job(lambda: run(copy), finish)
        raise Deferred(job)
    try:
        run(copy)
    except BaseException as exc:
        finish(exc)
        raise
    finish(None)


def _prepare(upper: Upper, node: File, size: int | None, *, hard_links: bool) -> Copy:
    st = node.place.lstat(node.real) if node.final is None else node.final
    wanted = st.st_size if size is None else min(size, st.st_size)
    if node.final is not None:
        return _prepare_nameless(upper, node, wanted)
    source = node.place.target(node.real)
    copy = Copy(node.place.exact(node.real, st), source, -1, 0, upper, upper.temporary())
    if st.st_nlink == 1 or hard_links:
        copy.origin = origin_mark(node.place, node.real)
    if stat.S_ISREG(st.st_mode):
        try:
            _open_source(copy, node, wanted)
        except BaseException:
            copy.close()
            raise
    elif stat.S_ISLNK(st.st_mode):
        copy.link = os.readlink(node.real, dir_fd=node.place.fd())
    return copy


def _open_source(copy: Copy, node: File, wanted: int) -> None:
    """Open what the copy is read from, where there is something to read."""
    data_place, data_name = node.data or (node.place, node.real)
    copy.data = _open_data(data_place, data_name, wanted)
    if copy.data < 0:
        return
    copy.size = wanted
    copy.flags = _flags(copy.data)
    # a worker may not use the place's descriptor, which may be closed and its number given away
    copy.source = copy.data if node.data is None else at.open_file(node.place.fd(), node.real, os.O_RDONLY)


def _open_data(place: Place, name: bytes, wanted: int) -> int:
    """Return a descriptor for reading; -1 if we may not read, but nothing is wanted anyway."""
    try:
        return at.open_unnoticed(place.fd(), name)
    except PermissionError:
        if wanted:
            raise
        return -1


def _flags(fd: int) -> int:
    """Return the file flags that a copy keeps; 0 where the filesystem has none."""
    try:
        return fileops.get_flags(fd) & _KEPT_FLAGS
    except OSError as exc:
        if exc.errno not in {errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL}:
            raise
        return 0


def _prepare_nameless(upper: Upper, node: File, wanted: int) -> Copy:
    """A file without a name can only be reached through one of its open files."""
    if not node.opens:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    data, owners = os.dup(node.opens[0].fd), node.place.layer.owners
    st = os.fstat(data) if owners is None else owners.shown(os.fstat(data), data, is_exact=True)
    return Copy(st, data, data, wanted, upper, upper.temporary())


def _finish(state: State, upper: Upper, node: File, copy: Copy, error: BaseException | None) -> None:
    """Publish a finished copy, on the union's thread; the node may have moved or gone meanwhile."""
    state.jobs.pop(node, None)
    try:
        if error is not None:
            raise error
        if node.is_gone:
            _swap(state, node, lambda flags: at.open_file(upper.work_fd, copy.temp, flags))
            upper.discard(copy.temp)
            node.place, node.real, node.data = upper.layer.root, b"", None  # only its open files lead to it
            if state.on_nameless_copy is not None:
                state.on_nameless_copy(node)
        else:
            publish(state, upper, copy, node)
            node.data = None
            _swap(state, node, lambda flags: at.open_file(node.place.fd(), node.real, flags))
            try:
                if node.has_lower_names:
                    link_names(state, node)
            finally:
                if copy.flags:  # last: no file that is append-only or immutable gets another name
                    fileops.set_flags(copy.target_fd, copy.flags)
    except BaseException:
        upper.discard(copy.temp)
        raise
    finally:
        copy.close()
    state.counters.copy_ups += 1
    state.counters.copied_bytes += copy.copied


def publish(state: State, upper: Upper, copy: Copy, node: File) -> None:
    """Give a finished copy of *node* its name; one that has more names in its layer goes by the index."""
    above = directory(state, node.parent)
    if copy.origin is not None:
        upper.set_impure(above)
    index = upper.index
    if index is not None and copy.st.st_nlink > 1 and copy.origin:
        entry = copy.origin.hex().encode()
        index.publish(node, (upper.work_fd, copy.temp), entry, copy.st.st_nlink)
        node.has_lower_names = True
        return
    _publish(upper, copy, above, node.name)
    node.place, node.real = above, node.name
    if copy.origin is None and copy.st.st_nlink > 1:  # a file of its own now: its old number is the others'
        node.ino = inos.number(above.layer.fsid, above.lstat(node.name).st_ino)
        if state.on_renumbering is not None:
            state.on_renumbering(node)


def link_names(state: State, node: File) -> None:
    """Give an indexed file that is about to change all of its names that were seen in the upper layer too.

    The index alone would do for this union, but the upper layer may become somebody's lower one, without it.
    """
    index = state.writable().index
    is_indexed = index is not None and node.indexed_links is not None
    origin = origin_stat(state, bytes.fromhex(node.real.decode())) if is_indexed else None
    lower_links = origin[1].st_nlink if origin is not None else None
    for parent, name in tuple(node.links or ((node.parent, node.name),)):
        above = directory(state, parent)
        if index is not None and above.find(name) is None:
            before = os.fstat(above.fd())
            if not above.impure:
                state.writable().set_impure(above)
            index.record(node, lower_links)
            link = partial(index.link_up, node, above, name)
            despite_flags(above.fd(), partial(with_access, link, (above.fd(), b"")))
            try:
                index.record(node)
            except OSError:
                os.unlink(name, dir_fd=above.fd())
                raise
            restore_times(above.fd(), before)
    node.has_lower_names = False


def _publish(upper: Upper, copy: Copy, above: Place, name: bytes) -> None:
    """Give the finished copy its name. The directory's times are as before: nothing has changed in it."""
    before = os.fstat(above.fd())
    above.will_hold(name)
    move = partial(at.rename, upper.work_fd, copy.temp, above.fd(), name)
    despite_flags(above.fd(), partial(with_access, move, (above.fd(), b""), (upper.work_fd, copy.temp)))
    if upper.syncs_directories:
        os.fsync(above.fd())
    restore_times(above.fd(), before)


def _swap(state: State, node: File, reopen: Callable[[int], int]) -> None:
    """Let everybody who has the lower file open read the upper one from now on."""
    if not node.opens:
        return
    if state.on_copy_up is not None:
        state.on_copy_up(node)
    for opened in node.opens:
        if not opened.writable_layer:
            opened.replace(reopen(opened.real_flags))
            opened.writable_layer = True


def copy_up_data(state: State, node: File, size: int | None = None) -> None:
    """Give an upper file whose attributes alone were copied up its data (the first *size* bytes) as well.

    They are written into the file itself, whose hard links stay what they are. Until the mark is
    taken away, and that is the last step, readers look for the data below.
    """
    upper = state.writable()
    if node.data is None:
        return
    place, name = node.data
    st = node.place.lstat(node.real)
    wanted = st.st_size if size is None else min(size, st.st_size)
    copy = Copy(st, node.place.target(node.real), -1, wanted, upper, b"")
    try:
        copy.data = at.open_unnoticed(place.fd(), name)
        copy.target_fd = at.open_file(node.place.fd(), node.real, os.O_RDWR)
    except BaseException:
        copy.close()
        raise
    job = Job(lambda: fill(copy), lambda error: _filled(state, node, copy, error))
    if state.defer and wanted > INLINE_BYTES:
        state.jobs[node] = job
        raise Deferred(job)
    job.complete()


def _filled(state: State, node: File, copy: Copy, error: BaseException | None) -> None:
    state.jobs.pop(node, None)
    try:
        if error is not None:
            raise error
        marks = copy.upper.layer.xattrs
        has_redirect = marks.redirect in xattr.names(copy.target_fd)
        xattr.remove(copy.target_fd, marks.metacopy)
        if has_redirect:
            xattr.remove(copy.target_fd, marks.redirect)
        node.data = None
        _swap(state, node, lambda flags: at.open_file(node.place.fd(), node.real, flags))
    finally:
        copy.close()
    state.counters.copied_bytes += copy.copied


def metadata(state: State, node: File) -> None:
    """Make *node* an upper file as far as its attributes go; data stay below if the union may do that."""
    if node.has_lower_names:
        link_names(state, node)
    if node.place.layer.writable:
        harden_file(node)
        return
    if not state.config.metacopy or node.final is not None:
        file(state, node)
        return
    st = node.place.lstat(node.real)
    shown = node.place.exact(node.real, st)
    if not stat.S_ISREG(shown.st_mode) or not st.st_size:  # a regular file may show as a device
        file(state, node)
        return
    if node in state.jobs:
        raise Deferred(state.jobs[node])
    upper = state.writable()
    copy = Copy(shown, node.place.target(node.real), -1, 0, upper, upper.temporary())
    copy.metadata_only = True
    if st.st_nlink == 1 or state.config.index:
        copy.origin = origin_mark(node.place, node.real)
    data = node.data or (node.place, node.real)
    with upper.staged() as copy.temp:
        try:
            run(copy)
        finally:
            copy.close()
        publish(state, upper, copy, node)
    node.data = data
    state.counters.copy_ups += 1
    if node.has_lower_names:
        link_names(state, node)
