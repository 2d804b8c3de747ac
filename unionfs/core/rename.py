"""Rename: decide everything first, then do it in one renameat2.

What must be true before the call: both objects and both directories are in the upper layer; a
directory that merges with lower ones carries a redirect to them; one that does not is opaque where a
lower layer has its new name; an empty directory that is replaced holds no whiteouts. The call itself
leaves a whiteout at the old name (RENAME_WHITEOUT) where a lower layer has that name. So each name
shows, at any moment, the old state or the new one.

Source: Linux fs/overlayfs/dir.c, ovl_rename() and ovl_set_redirect().
"""

import contextlib
import errno
import os
import stat
from typing import NamedTuple, NoReturn

from unionfs.core import copyup, dirops, files, find, readdir, redirects
from unionfs.core.layer import Place
from unionfs.core.lookup import is_shown
from unionfs.core.nodes import Dir, File, Node
from unionfs.core.protection import is_protected
from unionfs.core.state import State
from unionfs.core.upper import Upper
from unionfs.errors import CrossesLayers
from unionfs.linux import at

__all__ = ["End", "rename"]


class End(NamedTuple):
    """One end of a rename: a name in a directory."""

    parent: Dir
    name: bytes


def _fail(code: int) -> NoReturn:
    raise OSError(code, os.strerror(code))


def rename(state: State, old: End, new: End, flags: int = 0) -> None:
    """Give what is called *old* the name *new*.

    *flags* is RENAME_NOREPLACE, RENAME_EXCHANGE or RENAME_WHITEOUT (which leaves a whiteout at the
    old name: the union then shows nothing there, as after any rename).

    Raises:
        CrossesLayers: a lower directory would need a redirect, and may not have one.
        Deferred: a long copy-up comes first.
    """
    upper = state.writable()
    dirops.check_name(new.name)
    if flags & at.RENAME_EXCHANGE and flags & (at.RENAME_NOREPLACE | at.RENAME_WHITEOUT):
        _fail(errno.EINVAL)
    node = find.peek(state, old.parent, old.name)
    target: Node | None = None
    try:
        target = _target(state, new, flags)
        if target is not None and flags & at.RENAME_NOREPLACE:
            _fail(errno.EEXIST)
        if node is target:
            return
        _check(old, node, new, target, flags)
        _require_movable(state, node)
        if target is not None and flags & at.RENAME_EXCHANGE:
            _require_movable(state, target)
        elif isinstance(target, Dir) and readdir.has_names(state, target):
            dirops.refuse_full(new.parent, target)
        _refuse_in_vain(old, node, new, target)
        if target is not None and flags & at.RENAME_EXCHANGE:
            _exchange(state, upper, (old, node), (new, target))
        else:
            _replace(state, upper, (old, node), (new, target))
    finally:
        state.nodes.drop_if_unused(node)
        if target is not None:
            state.nodes.drop_if_unused(target)


def _target(state: State, new: End, flags: int) -> Node | None:
    if new.parent.is_gone:
        _fail(errno.ENOENT)
    if flags & at.RENAME_EXCHANGE:
        return find.peek(state, new.parent, new.name)
    return find.peek_if_there(state, new.parent, new.name)


def _check(old: End, node: Node, new: End, target: Node | None, flags: int) -> None:
    """Refuse what rename(2) refuses by the kinds and places of its ends.

    Raises:
        OSError: EINVAL, ENOTDIR, EISDIR or ENOTEMPTY.
    """
    if isinstance(node, Dir) and new.parent.is_within(node):
        _fail(errno.EINVAL)
    if target is None:
        return
    if isinstance(target, Dir) and old.parent.is_within(target):
        _fail(errno.EINVAL if flags & at.RENAME_EXCHANGE else errno.ENOTEMPTY)
    if flags & at.RENAME_EXCHANGE:
        return
    if isinstance(node, Dir) and not isinstance(target, Dir):
        _fail(errno.ENOTDIR)
    if not isinstance(node, Dir) and isinstance(target, Dir):
        _fail(errno.EISDIR)


def _refuse_in_vain(old: End, node: Node, new: End, target: Node | None) -> None:
    """Refuse now what the upper layer would refuse later, when a file had been copied up and its hard links broken.

    Raises:
        OSError: EPERM, what would lose a name is append-only or immutable, or the directory that would lose or get one.
    """
    if not any(isinstance(each, File) and not each.is_upper for each in (node, target)):
        return
    losing = (old.parent, node) if target is None else (old.parent, node, new.parent, target)
    if any(map(is_protected, losing)) or at.is_immutable(new.parent.places[0].fd(), b""):
        _fail(errno.EPERM)


def _require_movable(state: State, node: Node) -> None:
    if isinstance(node, Dir) and node.lowers and not state.config.redirect_dir.makes:
        raise CrossesLayers("a directory of a lower layer; mount with redirect_dir=on to rename it")


def _replace(state: State, upper: Upper, source: tuple[End, Node], goal: tuple[End, Node | None]) -> None:
    (old, node), (new, target) = source, goal
    _lift(state, upper, old, node, new)
    from_place = copyup.directory(state, old.parent)
    to_place = copyup.directory(state, new.parent)
    there = to_place.find(new.name)
    removed = None if target is None else dirops.before_removal(state, target)
    if isinstance(target, File) and removed is not None:
        files.keep(state, target, removed)
    if there is not None and stat.S_ISDIR(there.st_mode) and any(True for _ in to_place.child(new.name).scan()):
        upper.clear(to_place, new.name)
        if isinstance(target, Dir):
            target.places[0].close()
            emptied = to_place.child(new.name)  # should the rename fail, this is what is left of it
            emptied.mark_fresh()
            emptied.opaque = True
            target.places = (emptied,)
    leaves_whiteout = is_shown(old.parent.lowers, old.name)
    to_place.will_hold(new.name)
    _announce(upper, node, from_place, old.name, to_place)
    if isinstance(node, Dir) and there is not None and not stat.S_ISDIR(there.st_mode):
        at.rename(from_place.fd(), old.name, to_place.fd(), new.name, at.RENAME_EXCHANGE)
        if not leaves_whiteout:
            with contextlib.suppress(OSError):  # a whiteout that hides nothing, at worst
                os.unlink(old.name, dir_fd=from_place.fd())
                from_place.has_lost(old.name)
    elif leaves_whiteout:
        _rename_with_whiteout(upper, from_place, old.name, to_place, new.name)
    else:
        at.rename(from_place.fd(), old.name, to_place.fd(), new.name)
        from_place.has_lost(old.name)
    if target is not None and removed is not None:
        dirops.forget_name(state, target, new.parent, new.name, removed)
    _moved(state, node, old, new, to_place)


def _rename_with_whiteout(upper: Upper, from_place: Place, old: bytes, to_place: Place, new: bytes) -> None:
    try:
        if upper.can_mknod:
            at.rename(from_place.fd(), old, to_place.fd(), new, at.RENAME_WHITEOUT)
            return
    except OSError as exc:
        if exc.errno not in {errno.EINVAL, errno.EPERM, errno.ENOSYS}:
            raise
    if to_place.find(new) is None:
        upper.put_whiteout(to_place, new)
    upper.expect_whiteouts(from_place)
    _swap_in(upper, from_place, old, to_place, new)


def _swap_in(upper: Upper, from_place: Place, old: bytes, to_place: Place, new: bytes) -> None:
    """Exchange the two names, and have a whiteout at *old*, where what was at *new* is now.

    A crash between the two steps leaves what was to be replaced under the old name; nothing is lost.
    """

    def exchange() -> None:
        at.rename(from_place.fd(), old, to_place.fd(), new, at.RENAME_EXCHANGE)

    exchange()
    replaced = from_place.lstat(old)
    if from_place.is_whiteout(old, replaced):
        return
    try:
        if stat.S_ISDIR(replaced.st_mode):
            upper.replace_directory_by_whiteout(from_place, old)
        else:
            upper.replace_by_whiteout(from_place, old)
    except OSError:
        exchange()
        raise


def _exchange(state: State, upper: Upper, source: tuple[End, Node], goal: tuple[End, Node]) -> None:
    (old, node), (new, target) = source, goal
    _lift(state, upper, old, node, new)
    _lift(state, upper, new, target, old)
    from_place = copyup.directory(state, old.parent)
    to_place = copyup.directory(state, new.parent)
    _announce(upper, node, from_place, old.name, to_place)
    _announce(upper, target, to_place, new.name, from_place)
    at.rename(from_place.fd(), old.name, to_place.fd(), new.name, at.RENAME_EXCHANGE)
    _moved(state, node, old, new, to_place)
    _moved(state, target, new, old, from_place)


def _lift(state: State, upper: Upper, old: End, node: Node, new: End) -> None:
    """Bring *node* into the upper layer, fit to stand under the name *new*."""
    if isinstance(node, File):
        redirects.lift_file(state, node, old, same_parent=old.parent is new.parent)
        return
    if not node.lowers:
        if is_shown(new.parent.lowers, new.name) and not node.places[0].opaque:
            upper.set_opaque(node.places[0])
        return
    redirect = redirects.redirect_of(node, same_parent=old.parent is new.parent)
    place = copyup.directory(state, node)
    if redirect is not None:
        upper.set_redirect(place, redirect)


def _announce(upper: Upper, node: Node, place: Place, name: bytes, to_place: Place) -> None:
    """Prepare *to_place* for *node*, still *name* in *place*: its number, which it keeps, is not the listing's."""
    if isinstance(node, File):
        dirops.tell_number(upper, node, (place, name), to_place)
    elif node.lowers:
        upper.set_impure(to_place)


def _moved(state: State, node: Node, old: End, new: End, place: Place) -> None:
    """Note in the tables that *node* now has the name *new*, in the upper directory *place*."""
    state.nodes.move(node, old, new)
    if isinstance(node, Dir):
        node.places[0].parent, node.places[0].name = place, new.name
    elif node.indexed_links is None:
        node.place, node.real = place, new.name
