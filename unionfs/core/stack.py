"""Open the layers and check that they can be stacked: what may fail, fails here with a sentence.

The upper layer and the work directory are locked as long as the union is open. A union that is just
being unmounted still holds its locks for a moment: `LayerInUse` lets the caller wait for that, who
knows whether there is still a mount of it.

Source: Linux fs/overlayfs/super.c, ovl_get_layers() and ovl_check_overlapping_layers().
"""

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from unionfs.core import accesstimes, files, find, inos, kernelmounts, ondisk, owners
from unionfs.core.config import Config, Fsync
from unionfs.core.files import FileTable
from unionfs.core.index import Index, origin_stat
from unionfs.core.layer import Descriptors, Layer, Place
from unionfs.core.lookup import Rules
from unionfs.core.nodes import Dir, NodeTable
from unionfs.core.protection import harden, soften
from unionfs.core.state import State
from unionfs.core.upper import Upper
from unionfs.errors import LayerInUse, StackError, StaleLayer
from unionfs.linux import at, fileops, flock, handles, ids, remove, xattr

__all__ = ["close_stack", "descriptors_of", "open_stack"]

log = logging.getLogger(__name__)

_MAX_DESCRIPTORS: Final = 16384
_VOLATILE: Final = (b"incompat", b"volatile")


def open_stack(config: Config, *, defer: bool, given: Sequence[int] = ()) -> State:
    """Open every layer of *config*.

    *given* are the `descriptors_of` a stack with the same configuration whose process has died. They are used
    instead, because they hold its locks, and because a path may lead somewhere else by now.

    Raises:
        StackError: a layer is missing, unreadable, in use, or lies inside another one.
    """
    with contextlib.ExitStack() as undo:
        for fd in given:
            undo.callback(_close_quietly, fd)
        fds = list(given) or _open_layers(config, undo)
        if config.work is None:
            state = _assemble(config, fds, has_upper=False)
        else:
            base_fd = fds.pop()
            work_fd = _open_staging(config, config.work, base_fd, undo)
            state = _assemble(config, fds, has_upper=True)
            _attach_upper(state, base_fd, work_fd)
        state.defer = defer
        undo.pop_all()
        return state


def descriptors_of(state: State) -> list[int]:
    """Return the descriptors by which a stack holds its layers, top first, and then its work directory."""
    return [layer.root.fd() for layer in state.layers] + ([state.upper.base_fd] if state.upper is not None else [])


def _open_layers(config: Config, undo: contextlib.ExitStack) -> list[int]:
    """Open and lock what `descriptors_of` will return."""
    lowers = [_open_layer(path, "lowerdir", undo) for path in config.lower]
    lowers += [_open_layer(path, "datadir", undo) for path in config.data_only]
    if config.upper is None or config.work is None:
        accesstimes.own_mounts(config, lowers, has_upper=False)
        return lowers
    upper_fd = _open_layer(config.upper, "upperdir", undo)
    base_fd = _open_work(config.work, config.upper, upper_fd, undo)
    fds = [upper_fd, *lowers, base_fd]
    accesstimes.own_mounts(config, fds, has_upper=True)
    opened = dict(zip(lowers, (*config.lower, *config.data_only), strict=True))
    _check_overlap(config.upper, config.work, opened)
    if not config.read_only:
        if config.index:
            _check_unchanging(opened)
        _claim(config.work, config.upper, upper_fd, base_fd)
    return fds


def _open_layer(path: Path, option: str, undo: contextlib.ExitStack) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise StackError(f"{option}: {path} does not exist; create it, or correct the path") from None
    except NotADirectoryError:
        raise StackError(f"{option}: {path} is not a directory; a layer is an unpacked directory") from None
    except PermissionError:
        raise StackError(f"{option}: {path} cannot be read; run as its owner or as root") from None
    except OSError as exc:
        raise StackError(f"{option}: {path}: {exc.strerror}") from None
    undo.callback(_close_quietly, fd)
    at.set_noticed(fd, noticed=False)
    return fd


def _close_quietly(fd: int) -> None:
    with contextlib.suppress(OSError):
        os.close(fd)


def _open_work(path: Path, upper: Path, upper_fd: int, undo: contextlib.ExitStack) -> int:
    base = _open_layer(path, "workdir", undo)
    if os.fstat(base).st_dev != os.fstat(upper_fd).st_dev:
        raise StackError(
            f"workdir: {path} is on another filesystem than upperdir {upper}; "
            "copies are renamed from one to the other, so create it beside the upper"
        )
    with contextlib.suppress(OSError):  # a kernel that does not number its mounts
        if at.mount_number(base) != at.mount_number(upper_fd):
            raise StackError(
                f"workdir: {path} is reached through another mount than upperdir {upper}; "
                "nothing can be renamed from one to the other; try: two directories below one mountpoint"
            )
    return base


def _claim(work: Path, upper: Path, upper_fd: int, base_fd: int) -> None:
    """Lock the upper layer and the work directory, if they are fit to be written."""
    _check_writable(upper, upper_fd)
    _lock(upper_fd, upper, "upperdir")
    _lock(base_fd, work, "workdir")
    for option, directory in (("upperdir", upper), ("workdir", work)):
        _check_kernel(directory, option)
    _check_volatile(base_fd, work, upper)


def _own_directory(base: int, name: bytes) -> int:
    """Return a descriptor of *name* in the work directory, made if it is missing."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=base)
    return at.open_directory(base, name)


def _open_staging(config: Config, path: Path, base: int, undo: contextlib.ExitStack) -> int:
    """Return a descriptor of ``work`` in the work directory, emptied."""
    try:
        work = _own_directory(base, b"work")
    except OSError as exc:
        raise StackError(f"workdir: {path} cannot be written: {exc.strerror}") from None
    undo.callback(_close_quietly, work)
    if not config.read_only:
        _clean_work(work, path)
    return work


def _check_writable(upper: Path, upper_fd: int) -> None:
    if os.fstatvfs(upper_fd).f_flag & os.ST_RDONLY:
        raise StackError(f"upperdir: {upper} is on a read-only filesystem; leave it out, or mount with ro")
    if not os.access(b".", os.W_OK | os.X_OK, dir_fd=upper_fd) and not at.is_protected(upper_fd, b""):  # chattr +i
        raise StackError(f"upperdir: {upper} cannot be written; run as its owner or as root")


def _lock(fd: int, path: Path, option: str) -> None:
    if not flock.lock_descriptor(fd):
        raise LayerInUse(
            f"{option}: {path} is in use by another union; try: unmount that one, or use another directory"
        )


def _check_unchanging(lowers: Mapping[int, Path]) -> None:
    """Refuse lower layers that somebody writes to: an index knows their files by handles, and new ones get old numbers.

    Source: Linux fs/overlayfs/super.c, ovl_report_in_use(), which warns where there is no index, and goes on.
    """
    claims = kernelmounts.claims_by_identity()
    for fd, path in lowers.items():
        if not flock.is_free(fd):
            raise LayerInUse(
                f"lowerdir: {path} is the upper layer of another union; try: unmount that one, or index=off"
            )
        st = os.fstat(fd)
        claim = claims.get((st.st_dev, st.st_ino))
        if claim is not None:
            raise StackError(
                f"lowerdir: {path} is the {claim.option} of the kernel's overlay mount on {claim.mountpoint}; "
                f"try: umount {claim.mountpoint}, or index=off"
            )


def _check_kernel(path: Path, option: str) -> None:
    claim = kernelmounts.find_claim(path)
    if claim is not None:
        raise StackError(
            f"{option}: {path} is in use by the kernel's overlay mount on {claim.mountpoint} "
            f"({claim.option}={claim.path}); try: umount {claim.mountpoint}, or use another directory"
        )


def _check_volatile(base: int, work: Path, upper: Path) -> None:
    if at.exists(base, b"work/" + b"/".join(_VOLATILE)):
        raise StackError(
            f"workdir: {work} was mounted volatile and not unmounted cleanly, so upperdir {upper} "
            "may be damaged; discard both, or remove work/incompat/volatile in it to use them all the same"
        )


def _clean_work(work: int, path: Path) -> None:
    """Empty the work directory: what is in it was never published. New objects must not inherit an ACL there."""
    try:
        remove.empty(work)
    except OSError as exc:
        raise StackError(
            f"workdir: {path}/work cannot be emptied: {exc.strerror}; try: another directory, or remove it"
        ) from None
    with contextlib.suppress(OSError):
        xattr.remove(work, xattr.DEFAULT_ACL)


def _check_overlap(upper: Path, work: Path, lowers: Mapping[int, Path]) -> None:
    """Refuse directories inside each other, where a change in one would appear in another."""
    upper, work = upper.resolve(), work.resolve()
    if upper == work or upper in work.parents or work in upper.parents:
        raise StackError(f"workdir: {work} and upperdir {upper} lie inside each other; separate them")
    for fd, path in lowers.items():
        lower = path.resolve()
        for option, other in (("upperdir", upper), ("workdir", work)):
            is_seen = lower in other.parents and not accesstimes.is_hidden(other, path, fd)
            if lower == other or other in lower.parents or is_seen:
                raise StackError(f"{option}: {other} and lower layer {path} lie inside each other; separate them")


def _assemble(config: Config, fds: list[int], *, has_upper: bool) -> State:
    marks = _marks(config)
    cache = Descriptors(min(_MAX_DESCRIPTORS, at.descriptor_limit() // 2))
    devices: dict[int, int] = {}
    layers: list[Layer] = []
    overrides = [owners.find_override(fd, config, is_trusting=not _is_privileged()) for fd in fds]
    if any(overrides) or config.xattr_permissions:
        marks = ondisk.XattrSet(marks.prefix, keeps_owners=True, keeps_security=config.xattr_permissions == 2)
    paths = [*([config.upper] if config.upper else []), *config.lower, *config.data_only]
    for index, (fd, path) in enumerate(zip(fds, paths, strict=True)):
        fsid = devices.setdefault(os.fstat(fd).st_dev, len(devices))
        layer = Layer(index, path, fsid % inos.MAX_FILESYSTEMS, marks, writable=has_upper and index == 0)
        layer.owners = owners.of_layer(config, overrides[index], writable=layer.writable)
        layer.static_nlink = config.static_nlink
        layer.uuid = handles.filesystem_uuid(fd)
        layer.root = Place.at_root(layer, fd, cache)
        layers.append(layer)
    named = tuple(layers[: len(layers) - len(config.data_only)])
    rules = Rules(
        layers=named,
        data_layers=tuple(layers[len(named) :]),
        follow_redirects=config.redirect_dir.follows,
        metacopy=config.metacopy,
    )
    for layer in named:
        layer.root.read_marks()
    root = Dir(None, b"", 0, tuple(layer.root for layer in named))
    root.ino = find.directory_number(list(root.places), os.fstat(root.places[0].fd()))
    return State(
        config=config,
        rules=rules,
        descriptors=cache,
        nodes=NodeTable(root, cache),
        files=FileTable(),
        noting=accesstimes.Noting.of(config, fds[0]),
    )


def _marks(config: Config) -> ondisk.XattrSet:
    """Choose the flavour of marks: ``user.`` where asked for, or where ``trusted.`` is not ours to use."""
    return ondisk.TRUSTED if _is_privileged() and not config.userxattr else ondisk.USER


def _is_privileged() -> bool:
    return ids.has_capability(ids.CAP_SYS_ADMIN) and ids.is_initial_user_namespace()


def _attach_upper(state: State, base_fd: int, work_fd: int) -> None:
    config = state.config
    upper = Upper(state.layers[0], work_fd, syncs=config.fsync is not Fsync.VOLATILE and _is_on_disk(work_fd))
    if config.volatile and not config.read_only:
        incompat, volatile = _VOLATILE
        os.mkdir(incompat, 0o700, dir_fd=work_fd)
        os.mkdir(incompat + b"/" + volatile, 0o700, dir_fd=work_fd)
    upper.syncs_directories = config.fsync is Fsync.STRICT
    if config.index:
        upper.index = _open_index(state, base_fd)
    upper.base_fd = base_fd
    if upper.layer.root.protected and not config.read_only:
        with contextlib.suppress(OSError):
            harden(upper.layer.root, b"")
    if upper.layer.owners is not None and not config.read_only:
        _mark_owners(upper.layer, upper.layer.owners)
    state.upper = upper


def _mark_owners(layer: Layer, kept: owners.Owners) -> None:
    try:
        kept.mark_root(layer.root.fd())
    except OSError as exc:
        raise StackError(
            f"upperdir: {layer.path} takes no {kept.override}: {exc.strerror}; "
            "try: xattr_permissions=2 (1 is for root), or a filesystem with extended attributes"
        ) from None


def _open_index(state: State, base_fd: int) -> Index:
    """Open ``workdir/index`` and check that it belongs to these layers."""
    upper = state.layers[0]
    try:
        fd = _own_directory(base_fd, b"index")
    except OSError as exc:
        raise StackError(f"workdir: {state.config.work}/index cannot be used: {exc.strerror}") from None
    index = Index(upper, Place.at_root(upper, fd, state.descriptors))
    try:
        index.verify(upper.root, state.layers[1].root)
    except StackError:
        os.close(index.place.fd())
        raise
    except StaleLayer as exc:
        os.close(index.place.fd())
        raise StackError(f"upperdir: {upper.path}: {exc.strerror}") from None
    index.clean(lambda origin: _links(state, origin))
    return index


def _links(state: State, origin: bytes) -> int:
    found = origin_stat(state, origin)
    return found[1].st_nlink if found else 0


_MEMORY_FILESYSTEMS: Final = frozenset({"tmpfs", "ramfs"})


def _is_on_disk(fd: int) -> bool:
    """Tell whether an fsync there does anything: not on a filesystem that lives in memory."""
    return _filesystem_type(fd) not in _MEMORY_FILESYSTEMS


def _filesystem_type(fd: int) -> str:
    """Return the type of the filesystem of *fd*, as /proc/self/mountinfo calls it; empty if it has none there."""
    device = os.fstat(fd).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.split()
            if fields[2] == wanted:
                return fields[fields.index("-") + 1]
    return ""


def close_stack(state: State) -> None:
    """Close everything; the upper layer may be mounted again afterwards. Leaves the work directory empty."""
    for nodeid in list(state.files.kept):
        files.let_go(state, nodeid)
    for opened in list(state.files.files.values()):
        opened.close()
    state.files.files.clear()
    if state.upper is not None:
        if not state.config.read_only:
            soften(state.upper.layer)
            if not state.config.volatile or _is_written(state.upper):
                with contextlib.suppress(OSError):  # container engines remove the marker while we are still at this
                    remove.empty(state.upper.work_fd)
        if state.upper.index is not None:
            os.close(state.upper.index.place.fd())
        state.upper.restore_umask()
        os.close(state.upper.work_fd)
        os.close(state.upper.base_fd)  # and with it goes the lock
    for place in list(state.descriptors.opened):
        place.close()
    for layer in state.layers:
        os.close(layer.root.fd())


def _is_written(upper: Upper) -> bool:
    """Write everything through, after which a volatile upper is as good as any other; tell whether that worked."""
    try:
        fileops.syncfs(upper.work_fd)
    except OSError as exc:
        log.warning("%s was not written back: %s; it is not mounted again", upper.layer.path, exc.strerror)
        return False
    return True
