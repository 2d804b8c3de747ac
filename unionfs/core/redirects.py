"""Redirects: how what is moved in the upper layer goes on leading to what the lower layers have.

A directory that merges with lower ones needs one when it gets another name, and so does a file that has left its data
in a lower layer (metacopy). Within one directory the old name is enough; from anywhere else it is a path from the root,
as the lower layers have it.

Source: Linux fs/overlayfs/dir.c, ovl_set_redirect(), ovl_get_redirect() and ovl_set_link_redirect().
"""

import errno

from unionfs.core import copyup, ondisk
from unionfs.core.nodes import Dir, File
from unionfs.core.state import State
from unionfs.errors import CrossesLayers
from unionfs.linux import xattr

__all__ = ["lift_file", "path_below", "redirect_of"]


def redirect_of(node: Dir, *, same_parent: bool) -> bytes | None:
    """Return the redirect that *node* needs before it moves; None if the one it has will do.

    Raises:
        CrossesLayers: it would be longer than the kernel's overlayfs believes.
    """
    own = node.upper.redirect if node.upper else None
    if own is not None and (same_parent or own.startswith(b"/")):
        return None
    redirect = node.name if same_parent else path_below(node)
    if len(redirect) > ondisk.REDIRECT_MAX:
        raise CrossesLayers(f"the redirect would be longer than {ondisk.REDIRECT_MAX} bytes")
    return redirect


def path_below(node: Dir) -> bytes:
    """Return where the lower layers have *node*: its path, as far as no redirect says otherwise."""
    parts: list[bytes] = []
    for each in node.ancestors():
        if each.parent is each:
            break
        redirect = each.upper.redirect if each.upper else None
        parts.append(redirect or each.name)
        if redirect is not None and redirect.startswith(b"/"):
            return b"/".join(reversed(parts))
    return b"/" + b"/".join(reversed(parts))


def lift_file(state: State, node: File, name: tuple[Dir, bytes], *, same_parent: bool) -> None:
    """Bring *node* into the upper layer, fit to get another name than *name*, one of those that it has.

    With metacopy its data stay below, if they are there, and a redirect leads to them. They are copied where that
    cannot be: it would be too long, or cannot be written down.

    Raises:
        Deferred: the data take long; complete the job and call again.
    """
    if not state.config.metacopy:
        copyup.file(state, node)
        return
    copyup.metadata(state, node)
    if node.data is None:
        return
    place, real = node.data
    is_enough = same_parent and place.lstat(real).st_nlink == 1  # its other names may be in other directories
    if not _leads_to_data(node, name, relative=is_enough):
        copyup.file(state, node)


def _leads_to_data(node: File, name: tuple[Dir, bytes], *, relative: bool) -> bool:
    """Give the metacopy file *node* the redirect that it needs to be called otherwise; False if it cannot have it."""
    target, mark = node.place.target(node.real), node.place.layer.xattrs.redirect
    own = xattr.get(target, mark)
    if own is not None and (relative or own.startswith(b"/")):
        return True
    data_name = name[1] if own is None else own
    redirect = data_name if relative else path_below(name[0]).rstrip(b"/") + b"/" + data_name
    if len(redirect) > ondisk.REDIRECT_MAX:
        return False
    try:
        xattr.set(target, mark, redirect)
    except OSError as exc:
        if exc.errno not in {errno.EACCES, errno.EPERM, errno.EOPNOTSUPP}:
            raise
        return False
    return True
