"""A disk of literals: lookup rules are tried on it with the union's own `Place`, in microseconds and without files.

`Memory` stands in for the two modules of ``unionfs.linux`` through which the union looks at a layer. Everything
above them is the real code: how places are walked, marks read and rules applied.
"""

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from unionfs.core import layer as layer_module
from unionfs.core import lookup as lookup_module
from unionfs.core import ondisk
from unionfs.core.layer import Descriptors, Layer, Place
from unionfs.core.lookup import Rules

__all__ = ["WHITEOUT", "XWHITEOUT", "Memory", "Node", "Tree", "directory", "metacopy"]

_FIRST: Final = 1 << 20
"""Descriptors from here on, which no process has: a slip past the stand-in is an EBADF."""


@dataclass(frozen=True)
class Node:
    """One file or directory."""

    mode: int
    size: int = 0
    entries: "Tree" = field(default_factory=dict)
    xattrs: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def st(self) -> os.stat_result:
        return os.stat_result((self.mode, id(self), 0, 1, 0, 0, self.size, 0, 0, 0), {"st_rdev": 0})


Literal: TypeAlias = "str | Tree | Node"
Tree: TypeAlias = Mapping[str, Literal]
"""A ``str`` is a file's content, a ``dict`` a directory."""

WHITEOUT: Final = Node(stat.S_IFCHR)
XWHITEOUT: Final = Node(stat.S_IFREG, xattrs={ondisk.TRUSTED.whiteout: b"y"})


def directory(entries: Tree, **marks: bytes) -> Node:
    """A directory with marks, by the names they have in `ondisk.XattrSet`."""
    return Node(stat.S_IFDIR, 0, entries, {ondisk.TRUSTED.prefix + name: value for name, value in marks.items()})


def metacopy(mark: bytes = b"", **marks: bytes) -> Node:
    """A file whose data are in a layer below."""
    values = {"metacopy": mark, **marks}
    return Node(stat.S_IFREG, 9, {}, {ondisk.TRUSTED.prefix + name: value for name, value in values.items()})


def _node(literal: Literal) -> Node:
    if isinstance(literal, Node):
        return literal
    return Node(stat.S_IFREG, len(literal)) if isinstance(literal, str) else Node(stat.S_IFDIR, 0, literal)


class Memory:
    """Open directories of literals, by descriptor. Use `stack`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._open: list[Node] = []
        for module, name in ((layer_module, "at"), (layer_module, "xattr"), (lookup_module, "xattr")):
            monkeypatch.setattr(module, name, self)
        monkeypatch.setattr(Place, "close", lambda _: None)  # the numbers are no descriptors of this process

    def stack(self, *trees: Literal, data: tuple[Literal, ...] = (), **rules: bool) -> tuple[list[Place], Rules]:
        """Return the roots of layers, top first, the first of them writable, and the rules over them."""
        cache = Descriptors(1 << 20)
        layers = [self._layer(index, tree, cache) for index, tree in enumerate((*trees, *data))]
        named = layers[: len(trees)]
        for layer in named:
            layer.root.read_marks()
        return [layer.root for layer in named], Rules(tuple(named), tuple(layers[len(trees) :]), **rules)

    def _layer(self, index: int, tree: Literal, cache: Descriptors) -> Layer:
        layer = Layer(index, Path(str(index)), 0, ondisk.TRUSTED, writable=index == 0)
        layer.root = Place.at_root(layer, self._descriptor(_node(tree)), cache)
        return layer

    def _descriptor(self, node: Node) -> int:
        self._open.append(node)
        return _FIRST + len(self._open) - 1

    def _at(self, dirfd: int, name: bytes) -> Node | None:
        here = self._open[dirfd - _FIRST]
        if name == b".":
            return here
        assert b"/" not in name
        assert name != b".."
        found = here.entries.get(os.fsdecode(name))
        return None if found is None else _node(found)

    # as unionfs.linux.at

    def find(self, dirfd: int, name: bytes) -> os.stat_result | None:
        node = self._at(dirfd, name)
        return None if node is None else node.st

    def exists(self, dirfd: int, name: bytes) -> bool:
        return self._at(dirfd, name) is not None

    def open_directory(self, dirfd: int, name: bytes) -> int:
        node = self._at(dirfd, name)
        if node is None or not stat.S_ISDIR(node.mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return self._descriptor(node)

    def proc_path(self, dirfd: int, name: bytes) -> bytes:
        return b"%d/%s" % (dirfd, name)

    # as unionfs.linux.xattr

    def names(self, target: int | bytes) -> list[str]:
        return list(self._target(target).xattrs)

    def get(self, target: int | bytes, name: str) -> bytes | None:
        return self._target(target).xattrs.get(name)

    def _target(self, target: int | bytes) -> Node:
        if isinstance(target, int):
            return self._open[target - _FIRST]
        dirfd, _, name = target.partition(b"/")
        node = self._at(int(dirfd), name)
        assert node is not None
        return node
