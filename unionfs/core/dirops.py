"""Names: making and removing them. Rename has a room of its own.

A new object is made right in its upper directory, where the filesystem itself applies the default
ACL, the umask and the set-group-id rule; it is then given to the caller. Where a whiteout holds the
name, the object is made in the work directory and takes the whiteout's place in one rename, so that
a crash never shows the deleted lower file again; a directory is opaque before it gets there.

Something removed leaves a whiteout only if a lower layer would show it otherwise.

Source: Linux fs/overlayfs/dir.c.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from typing import Final, NamedTuple, NoReturn

from unionfs.core import acl, attrs, copyup, find, inos, ondisk, readdir, redirects
from unionfs.core.files import OpenFile
from unionfs.core.find import Entry
from unionfs.core.layer import Place
from unionfs.core.lookup import is_shown
from unionfs.core.nodes import Dir, File, Node
from unionfs.core.protection import harden_file
from unionfs.core.request import Caller
from unionfs.core.state import State
from unionfs.core.upper import Upper
from unionfs.linux import at, xattr
from unionfs.names import Handle

__all__ = ["create", "link", "make", "rmdir", "symlink", "tmpfile", "unlink"]

NAME_MAX: Final = 255


class New(NamedTuple):
    """A new object as it was asked for."""

    mode: int
    """With type bits, before the umask."""
    caller: Caller
    rdev: int = 0


Maker = Callable[[int, bytes, int], None]
"""Makes the object, given a directory's descriptor, a name and permission bits."""


def _fail(code: int) -> NoReturn:
    raise OSError(code, os.strerror(code))


def check_name(name: bytes) -> None:
    """Refuse names that no layer can hold.

    Raises:
        OSError: ENAMETOOLONG; EINVAL for a name that image tools read as a whiteout.
    """
    if len(name) > NAME_MAX:
        _fail(errno.ENAMETOOLONG)
    if name.startswith(ondisk.WHITEOUT_PREFIX):
        _fail(errno.EINVAL)


def _new_place(state: State, parent: Dir, name: bytes) -> tuple[Upper, Place, bool]:
    """Return where *name* is to be made, and whether a whiteout holds the name there.

    Raises:
        FileExistsError: the union already shows the name.
    """
    upper = state.writable()
    _require_free(state, parent, name)
    place = copyup.directory(state, parent)
    over_whiteout = place.find(name) is not None
    place.will_hold(name)
    return upper, place, over_whiteout


def _require_free(state: State, parent: Dir, name: bytes) -> None:
    check_name(name)
    if parent.is_gone:
        _fail(errno.ENOENT)
    if find.is_visible(state, parent, name):
        _fail(errno.EEXIST)


def make(state: State, parent: Dir, name: bytes, mode: int, rdev: int, caller: Caller) -> Entry:
    """Make a directory, a device, a fifo, a socket or an empty file, as the type bits of *mode* say."""
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFCHR and rdev == ondisk.WHITEOUT_RDEV:
        _fail(errno.EPERM)  # it would be a whiteout

    owners = state.writable().layer.owners

    def maker(dirfd: int, at_name: bytes, bits: int) -> None:
        if kind == stat.S_IFDIR:
            os.mkdir(at_name, bits, dir_fd=dirfd)
        elif owners is not None:
            owners.make_node(dirfd, at_name, kind | bits, rdev)
        else:
            os.mknod(at_name, kind | bits, rdev, dir_fd=dirfd)

    return _make(state, parent, name, New(mode, caller, rdev), maker)


def symlink(state: State, parent: Dir, name: bytes, target: bytes, caller: Caller) -> Entry:
    def maker(dirfd: int, at_name: bytes, _bits: int) -> None:
        os.symlink(target, at_name, dir_fd=dirfd)

    return _make(state, parent, name, New(stat.S_IFLNK | 0o777, caller), maker)


def _make(state: State, parent: Dir, name: bytes, new: New, maker: Maker) -> Entry:
    mode = new.mode
    upper, place, over_whiteout = _new_place(state, parent, name)
    if over_whiteout:
        with upper.staged() as temp:
            maker(upper.work_fd, temp, 0o600 if not stat.S_ISDIR(mode) else 0o700)
            _dress(upper, place, temp, new)
            _over_whiteout(upper, temp, place, name, stat.S_ISDIR(mode))
    else:
        upper.use_umask(new.caller.umask)
        maker(place.fd(), name, stat.S_IMODE(mode))
        try:
            _own(upper, place, name, new)
        except BaseException:
            upper.remove_directory(place, name) if stat.S_ISDIR(mode) else os.unlink(name, dir_fd=place.fd())
            raise
    return find.adopt(state, parent, name, place)


def _over_whiteout(upper: Upper, temp: bytes, place: Place, name: bytes, is_dir: bool) -> None:
    """Put the staged object where a whiteout is."""
    if is_dir:
        xattr.set(at.proc_path(upper.work_fd, temp), upper.layer.xattrs.opaque, ondisk.OPAQUE)
        at.rename(upper.work_fd, temp, place.fd(), name, at.RENAME_EXCHANGE)
        upper.discard(temp)
    else:
        at.rename(upper.work_fd, temp, place.fd(), name)


def _own(upper: Upper, place: Place, name: bytes, new: New) -> None:
    """Give an object, made in its directory by the daemon, to the caller."""
    mode, caller, _ = new
    if upper.layer.owners is not None:
        upper.layer.owners.settle(place.target(name), _looks(place, new))
        return
    if caller.uid == upper.uid and caller.gid == upper.gid:
        return
    dirfd = place.fd()
    inherits_group = stat.S_ISGID & os.fstat(place.fd()).st_mode
    group = -1 if inherits_group else caller.gid
    os.chown(name, caller.uid, group, dir_fd=dirfd, follow_symlinks=False)
    if mode & (stat.S_ISUID | stat.S_ISGID) and not stat.S_ISDIR(mode):  # chown has cleared them
        made = stat.S_IMODE(at.lstat(dirfd, name).st_mode)
        os.chmod(name, made | (mode & (stat.S_ISUID | stat.S_ISGID)), dir_fd=dirfd)


def _looks(place: Place, new: New) -> os.stat_result:
    """Return what a new object in *place* is to show, where that is not left to the filesystem."""
    above, owners = os.fstat(place.fd()), place.layer.owners
    if owners is not None:
        above = owners.shown(above, place.fd())
    mode, caller, rdev = new
    inherits_group = above.st_mode & stat.S_ISGID
    if not stat.S_ISLNK(mode):
        mode &= ~caller.umask
    if inherits_group and stat.S_ISDIR(mode):
        mode |= stat.S_ISGID
    gid = above.st_gid if inherits_group else caller.gid
    return attrs.replaced(above, st_mode=mode, st_uid=caller.uid, st_gid=gid, st_rdev=rdev)


def _dress(upper: Upper, place: Place, temp: bytes, new: New) -> None:
    """Give a staged object the owner, mode and ACL it would have had, had it been made in *place*."""
    mode, caller, _ = new
    if upper.layer.owners is not None:
        upper.layer.owners.settle(at.proc_path(upper.work_fd, temp), _looks(place, new))
        return
    dirfd, above = upper.work_fd, os.fstat(place.fd())
    inherits_group = bool(above.st_mode & stat.S_ISGID)
    gid = above.st_gid if inherits_group else caller.gid
    os.chown(temp, caller.uid, gid, dir_fd=dirfd, follow_symlinks=False)
    if stat.S_ISLNK(mode):
        return
    bits = stat.S_IMODE(mode)
    target = at.proc_path(dirfd, temp)
    default = xattr.get(place.fd(), xattr.DEFAULT_ACL)
    if default is None:
        bits &= ~caller.umask
    else:
        access, bits = acl.inherit(default, bits)
        if access is not None:
            xattr.set(target, xattr.ACCESS_ACL, access)
        if stat.S_ISDIR(mode):
            xattr.set(target, xattr.DEFAULT_ACL, default)
    if inherits_group and stat.S_ISDIR(mode):
        bits |= stat.S_ISGID
    os.chmod(temp, bits, dir_fd=dirfd)


def create(
    state: State, parent: Dir, name: bytes, mode: int, flags: int, caller: Caller
) -> tuple[Node, os.stat_result, Handle]:
    """Make a regular file and open it."""
    upper, place, over_whiteout = _new_place(state, parent, name)
    kept = os.O_RDWR | (flags & (os.O_SYNC | os.O_DSYNC))
    if over_whiteout:
        with upper.staged() as temp:
            fd = at.open_file(upper.work_fd, temp, kept | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                _dress(upper, place, temp, New(stat.S_IFREG | mode, caller))
                at.rename(upper.work_fd, temp, place.fd(), name)
            except BaseException:
                os.close(fd)
                raise
    else:
        upper.use_umask(caller.umask)
        fd = at.open_file(place.fd(), name, kept | os.O_CREAT | os.O_EXCL, stat.S_IMODE(mode))
        try:
            _own(upper, place, name, New(stat.S_IFREG | mode, caller))
        except BaseException:
            os.close(fd)
            os.unlink(name, dir_fd=place.fd())
            raise
    try:
        node, st = find.adopt_file(state, parent, name, place, os.fstat(fd))
    except BaseException:
        os.close(fd)
        raise
    return node, st, state.files.add(OpenFile(node, fd, flags, kept))


def tmpfile(state: State, parent: Dir, mode: int, flags: int, caller: Caller) -> tuple[Node, os.stat_result, Handle]:
    """Make a regular file without a name and open it (O_TMPFILE); `link` may name it later."""
    upper = state.writable()
    place = copyup.directory(state, parent)
    upper.use_umask(caller.umask)
    fd = os.open(b"/proc/self/fd/%d" % place.fd(), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, stat.S_IMODE(mode))
    try:
        if upper.layer.owners is not None:
            upper.layer.owners.settle(fd, _looks(place, New(stat.S_IFREG | mode, caller)))
        elif (caller.uid, caller.gid) != (upper.uid, upper.gid):
            inherits_group = stat.S_ISGID & os.fstat(place.fd()).st_mode
            os.fchown(fd, caller.uid, -1 if inherits_group else caller.gid)
            if mode & (stat.S_ISUID | stat.S_ISGID):  # chown has cleared them
                os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) | mode & (stat.S_ISUID | stat.S_ISGID))
        st = os.fstat(fd)
    except BaseException:
        os.close(fd)
        raise
    node = find.nameless(state, parent, place, st)
    handle = state.files.add(OpenFile(node, fd, flags, os.O_RDWR))
    return node, attrs.stat_of(node), handle


def link(state: State, node: File, parent: Dir, name: bytes) -> os.stat_result:
    """Give *node*, copied up first, a further name; return its attributes."""
    state.writable()
    _require_free(state, parent, name)  # before the copy-up, which a refusal must not leave behind
    if not node.is_upper and at.is_immutable(parent.places[0].fd(), b""):
        _fail(errno.EPERM)
    redirects.lift_file(state, node, (node.parent, node.name), same_parent=False)
    upper, place, over_whiteout = _new_place(state, parent, name)
    if not node.is_gone:
        tell_number(upper, node, (node.place, node.real), place)
    if upper.index is not None:
        upper.index.record(node)
    if over_whiteout:
        with upper.staged() as temp:
            _link(node, upper.work_fd, temp)
            at.rename(upper.work_fd, temp, place.fd(), name)
    else:
        _link(node, place.fd(), name)
    if node.indexed_links is not None:
        node.indexed_links += 1
    else:
        node.place, node.real = place, name
    state.nodes.add_name(node, parent, name)
    state.nodes.remember_links(node)
    return attrs.stat_of(node)


def _link(node: File, dirfd: int, name: bytes) -> None:
    if node.is_gone:
        if not node.opens:
            _fail(errno.ENOENT)
        at.link_descriptor(node.opens[0].fd, dirfd, name)
    else:
        os.link(node.real, name, src_dir_fd=node.place.fd(), dst_dir_fd=dirfd, follow_symlinks=False)


def tell_number(upper: Upper, node: File, file: tuple[Place, bytes], place: Place) -> None:
    """Prepare *place* for a further name of *node*, which is *file*: a number that is not its own must not be listed.

    It keeps the number of what it was copied from, also where no mark could say so, as on a symlink with userxattr.
    """
    if not place.impure and node.ino != inos.number(upper.layer.fsid, file[0].lstat(file[1]).st_ino):
        upper.set_impure(place)


def unlink(state: State, parent: Dir, name: bytes) -> None:
    """Remove the name of anything but a directory."""
    upper = state.writable()
    node = find.peek(state, parent, name)
    try:
        _unlink(state, upper, node, parent, name)
    finally:
        state.nodes.drop_if_unused(node)


def _unlink(state: State, upper: Upper, node: Node, parent: Dir, name: bytes) -> None:
    if isinstance(node, Dir):
        _fail(errno.EISDIR)
    st = before_removal(state, node)
    if not is_in_upper(node, parent, name):
        upper.put_whiteout(copyup.directory(state, parent), name)
    elif is_shown(parent.lowers, name):
        upper.replace_by_whiteout(parent.places[0], name)
    else:
        os.unlink(name, dir_fd=parent.places[0].fd())
        parent.places[0].has_lost(name)
    forget_name(state, node, parent, name, st)


def is_in_upper(node: File, parent: Dir, name: bytes) -> bool:
    """Tell whether the upper layer has *name*, one of the names of *node*, in *parent*."""
    place = parent.upper
    if place is None or (node.place is place and node.real == name):
        return place is not None
    return place.find(name) is not None


def before_removal(state: State, node: Node) -> os.stat_result:
    """Make ready for the removal of one of *node*'s names; return its attributes.

    A lower file with several names is copied up into the index first: only there can be kept how
    many of them are left. An open file whose attributes and data lie in two layers is made one
    file: without a name, its descriptor is all that is left of it.
    """
    if isinstance(node, Dir):
        return attrs.directory_stat(node, os.fstat(node.places[0].fd()))
    if node.data is not None and node.opens:
        copyup.file(state, node)
    st = node.place.lstat(node.real)
    if node.place.layer.owners is not None:
        st = attrs.file_stat(node, st)
    if node.is_upper:
        harden_file(node)
    elif at.is_protected(node.place.fd(), node.real):
        _fail(errno.EPERM)
    index = state.upper.index if state.upper is not None else None
    if index is not None:
        if st.st_nlink > 1 and not node.is_upper:
            copyup.file(state, node)
        elif node.has_lower_names:
            copyup.link_names(state, node)  # so that union and disk count down together
        index.record(node)
    return st


def forget_name(state: State, node: Node, parent: Dir, name: bytes, st: os.stat_result) -> None:
    """Note in the tables that *name* is gone from the disk; *st* are the attributes it had before."""
    left = st.st_nlink - 1 if isinstance(node, File) and node.is_upper else 0
    if isinstance(node, File) and node.indexed_links is not None:
        left = _count_down(state, node)
    state.nodes.unlink(node, parent, name, st, left)
    if isinstance(node, File) and not node.is_gone and (node.real, node.place) == (name, parent.places[0]):
        node.real, node.place = node.name, node.parent.places[0]
    state.nodes.drop_if_unused(node)


def _count_down(state: State, node: File) -> int:
    """Take one from the links of an indexed file; with the last one its entry goes."""
    index = state.upper.index if state.upper is not None else None
    node.indexed_links = left = (node.indexed_links or 1) - 1
    if index is not None and left:
        with contextlib.suppress(OSError):  # the name is gone; what was recorded before is right if it was an upper one
            index.record(node)
    elif index is not None:
        index.drop(node)
    return left


def rmdir(state: State, parent: Dir, name: bytes) -> None:
    """Remove a directory in which the union shows nothing, whatever whiteouts are in it."""
    upper = state.writable()
    node = find.peek(state, parent, name)
    try:
        _rmdir(state, upper, node, parent, name)
    finally:
        state.nodes.drop_if_unused(node)


def refuse_full(parent: Dir, node: Dir) -> NoReturn:
    """Refuse to remove a directory that holds something; that it may not be removed anyway would come first."""
    is_protected = any(at.is_protected(each.places[0].fd(), b"") for each in (parent, node))
    _fail(errno.EPERM if is_protected else errno.ENOTEMPTY)


def _rmdir(state: State, upper: Upper, node: Node, parent: Dir, name: bytes) -> None:
    if not isinstance(node, Dir):
        _fail(errno.ENOTDIR)
    if readdir.has_names(state, node):
        refuse_full(parent, node)
    st = before_removal(state, node)
    was_upper = node.upper is not None
    leaves_whiteout = is_shown(parent.lowers, name)
    place = copyup.directory(state, parent) if leaves_whiteout else parent.places[0]
    if not was_upper:
        upper.put_whiteout(place, name)
    elif leaves_whiteout:
        upper.replace_directory_by_whiteout(place, name)
    else:
        upper.remove_directory(place, name)
    forget_name(state, node, parent, name, st)
