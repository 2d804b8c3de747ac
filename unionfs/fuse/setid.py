"""What a change by an ordinary user takes from a file besides: its set-id bits.

The kernel says of most requests that they go, and the union takes them: set-user-id, and set-group-id where the group
may execute the file. Where it may not, the bit goes as well unless the user is in the group, and that only the kernel's
own file systems are told; so it is looked up here.

Source: Linux fs/attr.c, setattr_should_drop_sgid(); include/uapi/linux/fuse.h, FUSE_HANDLE_KILLPRIV_V2.
"""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from unionfs.core.request import Changes
from unionfs.linux import ids

if TYPE_CHECKING:
    from unionfs.core.union import Union

__all__ = ["dropping_group_bit"]


@contextmanager
def dropping_group_bit(union: "Union", nodeid: int, head: tuple[int, ...]) -> Iterator[None]:
    """Take the bit from *nodeid* after the block, which changes the file for the caller in *head*, if he loses it."""
    st = union.getattr(nodeid)[1]
    group, pid = head[5:7]
    has_bit = stat.S_ISREG(st.st_mode) and st.st_mode & (stat.S_ISGID | stat.S_IXGRP) == stat.S_ISGID
    goes = has_bit and st.st_gid != group and st.st_gid not in ids.groups_of(pid)
    yield
    if goes:
        mode = stat.S_IMODE(union.getattr(nodeid)[1].st_mode)
        union.setattr(nodeid, Changes(mode=mode & ~(stat.S_ISUID | stat.S_ISGID)))
