"""Inodes and paths above a `core.Union`, as the kernel's VFS keeps and walks them.

Two kernels are played. One forgets every inode when an operation ends, which makes the union find
everything again each time; with *remember* it keeps each name it ever resolved and asks for it no
more, as a kernel with long timeouts does, which makes the union live with what it handed out.
"""

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple, final

from unionfs.core.union import Union

__all__ = ["MAX_LINKS", "Place", "Slot", "Vfs", "failure"]

ROOT: Final = 1
MAX_LINKS: Final = 40
"""Symlinks in one path. Source: MAXSYMLINKS in Linux include/linux/namei.h."""


class Place(NamedTuple):
    """Where a walk ended: the inodes from the root down to it, and its attributes."""

    chain: tuple[int, ...]
    st: os.stat_result

    @property
    def nodeid(self) -> int:
        return self.chain[-1]

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.st.st_mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.st.st_mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.st.st_mode)


class Slot(NamedTuple):
    """A name in a directory, which may be taken or free."""

    parent: Place
    name: bytes

    @property
    def key(self) -> tuple[int, bytes]:
        return self.parent.nodeid, self.name


def failure(code: int) -> OSError:
    """An OSError as a system call would raise it."""
    return OSError(code, os.strerror(code))


@final
class Vfs:
    """The inode cache and the path walk over *union*."""

    def __init__(self, union: Union, *, remember: bool) -> None:
        self._union = union
        self._remember = remember
        self._names: dict[tuple[int, bytes], int] = {}
        self._lookups: Counter[int] = Counter()
        self._users: Counter[int] = Counter()
        self._walked: list[int] = []

    def forget_all(self) -> None:
        """Let go of every remembered name, as the kernel does at umount."""
        for parent, name in list(self._names):
            self.drop(parent, name)

    @contextmanager
    def operation(self) -> Iterator[None]:
        """What a walk resolves is used until the operation ends, and not longer unless remembered."""
        mark = len(self._walked)
        try:
            yield
        finally:
            while len(self._walked) > mark:
                self.leave(self._walked.pop())

    def use(self, nodeid: int) -> None:
        """Count one more user of an inode: an open file, a name, a walk."""
        self._users[nodeid] += 1

    def leave(self, nodeid: int) -> None:
        """Count one user less; the last one makes the union forget it."""
        self._users[nodeid] -= 1
        if self._users[nodeid] <= 0:
            del self._users[nodeid]
            lookups = self._lookups.pop(nodeid, 0)
            if lookups:
                self._union.forget(nodeid, lookups)

    def counted(self, nodeid: int) -> None:
        """Take in that a reply counted one lookup of the inode."""
        self._lookups[nodeid] += 1
        self.use(nodeid)
        self._walked.append(nodeid)

    def resolved(self, slot: Slot, nodeid: int) -> None:
        """Take in the inode that a reply gave for a name."""
        self.counted(nodeid)
        if self._remember:
            self.drop(*slot.key)
            self._names[slot.key] = nodeid
            self.use(nodeid)

    def drop(self, parent: int, name: bytes) -> None:
        """Remember the name no more."""
        nodeid = self._names.pop((parent, name), None)
        if nodeid is not None:
            self.leave(nodeid)

    def move(self, old: Slot, new: Slot, *, exchange: bool) -> None:
        """Do to the remembered names what a rename did to the union's."""
        moved, replaced = self._names.pop(old.key, None), self._names.pop(new.key, None)
        if moved is not None:
            self._names[new.key] = moved
        if replaced is not None and exchange:
            self._names[old.key] = replaced
        elif replaced is not None:
            self.leave(replaced)

    def walk(self, path: str, *, follow: bool = False) -> Place:
        """Resolve *path*; a symlink at its end only if *follow*."""
        place = Place((ROOT,), self._union.getattr(ROOT)[1])
        waiting = [part for part in reversed(path.split("/")) if part]
        links = 0
        while waiting:
            if not place.is_dir:
                raise failure(errno.ENOTDIR)
            part = waiting.pop()
            if part == "..":
                if len(place.chain) == 1:  # out of the tree, to a directory of the host's that has no such name
                    raise failure(errno.ENOENT)
                place = Place(place.chain[:-1], self._union.getattr(place.chain[-2])[1])
            elif part != ".":
                below = self._below(Slot(place, os.fsencode(part)))
                if not below.is_symlink or not (waiting or follow):
                    place = below
                    continue
                links += 1
                if links > MAX_LINKS:
                    raise failure(errno.ELOOP)
                target = os.fsdecode(self._union.readlink(below.nodeid))
                waiting.extend(part for part in reversed(target.split("/")) if part)
        return place

    def _below(self, slot: Slot) -> Place:
        known = self._names.get(slot.key)
        if known is not None:
            return Place((*slot.parent.chain, known), self._union.getattr(known)[1])
        node, st = self._union.lookup(*slot.key)
        self.resolved(slot, node.nodeid)
        return Place((*slot.parent.chain, node.nodeid), st)

    def slot(self, path: str) -> Slot:
        """Return the last component, taken or free, in a directory that must exist."""
        directory, _, name = path.rpartition("/")
        parent = self.walk(directory, follow=True)
        if not parent.is_dir:
            raise failure(errno.ENOTDIR)
        return Slot(parent, os.fsencode(name))

    def occupant(self, slot: Slot) -> Place | None:
        """Return what is in a slot, not followed; the parent itself for an empty name."""
        if not slot.name:
            return slot.parent
        try:
            return self._below(slot)
        except FileNotFoundError:
            return None

    def free(self, path: str) -> Slot:
        """Return the slot of a name that must not exist."""
        slot = self.slot(path)
        if self.occupant(slot) is not None:
            raise failure(errno.EEXIST)
        return slot

    def taken(self, path: str) -> tuple[Slot, Place]:
        """Return the slot of a name that must exist, and what is there."""
        slot = self.slot(path)
        if not slot.name:
            raise failure(errno.EBUSY)
        found = self.occupant(slot)
        if found is None:
            raise failure(errno.ENOENT)
        return slot, found
