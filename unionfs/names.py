"""The numbers and names that cross the floors, as types of their own.

A ``NodeId`` cannot be passed where a ``Handle`` is wanted: the checker sees what a reader would not.
"""

from typing import Final, NewType

__all__ = ["NO_NODE", "ROOT_ID", "Handle", "NodeId"]

NodeId = NewType("NodeId", int)
"""The kernel's name for an inode of the union: unique while the kernel knows it, never reused."""

Handle = NewType("Handle", int)
"""An open file or directory of the union, as the kernel passes it back; not a descriptor."""

ROOT_ID: Final = NodeId(1)
"""The root directory. Source: FUSE_ROOT_ID in Linux include/uapi/linux/fuse.h."""

NO_NODE: Final = NodeId(0)
"""No inode: in an entry reply, a name that does not exist."""
