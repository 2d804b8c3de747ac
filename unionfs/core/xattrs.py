"""Extended attributes as users see them: the union's own are hidden, those of nested unions are not.

Source: Linux fs/overlayfs/xattrs.c.
"""

import errno
import os

from unionfs.core import copyup
from unionfs.core.nodes import Dir, Node
from unionfs.core.state import State
from unionfs.linux import xattr

__all__ = ["getxattr", "listxattr", "removexattr", "setxattr"]

_NAME_MAX = 255


def _source(node: Node) -> int | bytes:
    """Return where the attributes of *node* are read."""
    if isinstance(node, Dir):
        return node.places[0].fd()
    if node.opens and node.data is None:
        return node.opens[0].fd  # four times faster than by name
    if node.is_gone:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    return node.place.target(node.real)


def _target(state: State, node: Node) -> int | bytes:
    """Return where they are changed: the node is copied up first."""
    state.writable()
    if isinstance(node, Dir):
        copyup.directory(state, node)
    else:
        copyup.metadata(state, node)
    return _source(node)


def _on_disk(state: State, name: bytes) -> str | None:
    """Return the name an attribute has on disk, or None if users may not see it."""
    text = os.fsdecode(name)
    marks = state.layers[0].xattrs
    if state.config.noxattrs or (not state.shows_acls and text in xattr.ACLS):
        return None
    stored = marks.on_disk(text)
    return None if marks.is_reserved(text) or len(os.fsencode(stored)) > _NAME_MAX else stored


def _asked_for(state: State, name: bytes) -> str | None:
    """Return the same for a name that somebody asks for; the mere prefix of our own is none."""
    if os.fsdecode(name) == state.layers[0].xattrs.prefix:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return _on_disk(state, name)


def _require(state: State, node: Node, stored: str) -> bytes:
    """Return an attribute by its name on disk; a lower file may have the one itself that it stands for.

    In the upper layer that would be one which nobody has set through a union.

    Raises:
        OSError: ENODATA, it is not set; EOPNOTSUPP, the layer has none of this kind.
    """
    source = _source(node)
    real = None if node_is_upper(node) else state.layers[0].xattrs.stands_for(stored)
    if real is not None and (value := xattr.get(source, real)) is not None and stored not in xattr.names(source):
        return value
    return xattr.require(source, stored)


def getxattr(state: State, node: Node, name: bytes) -> bytes:
    """Return one attribute.

    Raises:
        OSError: ENODATA, it is not set; EOPNOTSUPP, the layer has none of this kind.
    """
    stored = _asked_for(state, name)
    if stored is None:
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
    return _require(state, node, stored)


def listxattr(state: State, node: Node) -> list[bytes]:
    """Return the names that users may see."""
    marks = state.layers[0].xattrs
    found = xattr.names(_source(node))
    if node_is_upper(node):
        found = [stored for stored in found if not marks.has_stand_in(stored)]
    shown = dict.fromkeys(marks.shown(stored) for stored in found if marks.is_for_users(stored))
    return [name for name in map(os.fsencode, shown) if _on_disk(state, name) is not None]


def setxattr(state: State, node: Node, name: bytes, value: bytes, flags: int = 0) -> None:
    """Set one attribute; *flags* is os.XATTR_CREATE, os.XATTR_REPLACE or 0."""
    state.writable()
    stored = _asked_for(state, name)
    if stored is None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    if stored == xattr.DEFAULT_ACL and not isinstance(node, Dir):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    if flags and not node_is_upper(node):
        _check_flags(state, node, stored, flags)
    xattr.set(_target(state, node), stored, value, flags)


def _check_flags(state: State, node: Node, stored: str, flags: int) -> None:
    """Refuse before a copy-up what would be refused after it."""
    try:
        is_set = _require(state, node, stored) is not None
    except OSError as exc:
        if exc.errno not in xattr.NOT_SET:
            raise
        is_set = False
    if flags & os.XATTR_CREATE and is_set:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    if flags & os.XATTR_REPLACE and not is_set:
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))


def removexattr(state: State, node: Node, name: bytes) -> None:
    """Remove one attribute.

    Raises:
        OSError: ENODATA, it is not set; then nothing is copied up.
    """
    state.writable()
    stored = _asked_for(state, name)
    if stored is None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    if stored == xattr.DEFAULT_ACL and not isinstance(node, Dir):
        return  # it cannot have one, so it has none now
    if not node_is_upper(node):
        _require(state, node, stored)
    xattr.remove(_target(state, node), stored)


def node_is_upper(node: Node) -> bool:
    if isinstance(node, Dir):
        return node.upper is not None
    return node.is_upper
