"""A union over literal layers on a real disk, driven by paths, with the promises that hold whatever a test does.

`Stack.check_promises` says them; the fixture ``stack`` in ``conftest.py`` asks after every test.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

from unionfs.core.config import Config
from unionfs.core.nodes import Node
from unionfs.core.request import Caller, Changes
from unionfs.core.union import Union
from unionfs.linux import ids
from unionfs.names import ROOT_ID

__all__ = ["ME", "PREFIX", "WHITEOUT", "Stack", "Tree", "build", "fifo", "marked", "opaque", "picture", "symlink"]

IS_PRIVILEGED: Final = ids.has_capability(ids.CAP_SYS_ADMIN) and ids.is_initial_user_namespace()
PREFIX: Final = "trusted.overlay." if IS_PRIVILEGED else "user.overlay."
"""Of the marks that a union of this process believes."""

ME: Final = Caller(os.geteuid(), os.getegid(), 0o022)
PAST: Final = 1_000_000_000_123_456_789
"""How old everything in a literal layer is: nanoseconds since 1970, so that what was touched can be told."""

Maker: TypeAlias = Callable[[Path], None]
Tree: TypeAlias = "Mapping[str, str | bytes | Maker | Tree]"
"""Text or bytes are a file, a mapping is a directory; anything else is made by a call with its path."""


def build(tree: Tree, path: Path) -> Path:
    """Make the directory *path* and what is in it."""
    path.mkdir(exist_ok=True)
    for name, node in tree.items():
        where = path / name
        if isinstance(node, Mapping):
            build(node, where)
        elif isinstance(node, str | bytes):
            where.write_bytes(node.encode() if isinstance(node, str) else node)
            os.utime(where, ns=(PAST, PAST))
        else:
            node(where)
            os.utime(where, ns=(PAST, PAST), follow_symlinks=False)
    os.utime(path, ns=(PAST, PAST))
    return path


def made(tree: "Tree | Maker", path: Path) -> Path:
    """Make a layer; return its *path*."""
    if isinstance(tree, Mapping):
        return build(tree, path)
    tree(path)
    os.utime(path, ns=(PAST, PAST))
    return path


def WHITEOUT(path: Path) -> None:  # noqa: N802 - it stands in literals as the constant it is
    os.mknod(path, stat.S_IFCHR, 0)


def marked(node: "Tree | str", **marks: bytes) -> Maker:
    """A file or directory with marks of the union, by their names without the prefix."""

    def make(path: Path) -> None:
        build({path.name: node}, path.parent)
        for name, value in marks.items():
            os.setxattr(path, PREFIX + name, value)

    return make


def opaque(tree: Tree) -> Maker:
    return marked(tree, opaque=b"y")


def symlink(target: str) -> Maker:
    return lambda path: path.symlink_to(target)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def picture(root: Path | bytes) -> dict[bytes, tuple[object, ...]]:
    """Return all that can be seen of a tree: type, mode, owner, times, size, content or target, attributes."""
    found: dict[bytes, tuple[object, ...]] = {}
    top = os.fsencode(root)
    for here, directories, files in os.walk(top):
        for path in (here, *(os.path.join(here, name) for name in (*files, *directories))):
            found[path] = _looks(path)
    return found


def _looks(path: bytes) -> tuple[object, ...]:
    st = os.lstat(path)
    content: object = None
    if stat.S_ISREG(st.st_mode):
        with contextlib.suppress(PermissionError), open(path, "rb") as file:
            content = hash(file.read())
    elif stat.S_ISLNK(st.st_mode):
        content = os.readlink(path)
    marks = tuple(sorted((name, os.getxattr(path, name, follow_symlinks=False)) for name in _names(path)))
    return st.st_mode, st.st_uid, st.st_gid, st.st_mtime_ns, st.st_size, st.st_nlink, st.st_rdev, content, marks


def _names(path: bytes) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)


class Stack:
    """Layers, the union over them, and what the kernel would remember of it: lookups and open files."""

    def __init__(
        self, base: Path, lowers: "tuple[Tree | Maker, ...]", upper: "Tree | Maker | None", options: dict[str, Any]
    ) -> None:
        self.lowers = [made(tree, base / f"l{index}") for index, tree in enumerate(lowers)]
        self.data = [made(tree, base / f"d{index}") for index, tree in enumerate(options.pop("data_only", ()))]
        self.upper, self.work = base / "upper", base / "work"
        self._has_upper = upper is not None
        if upper is not None:
            made(upper, self.upper)
            self.work.mkdir()
        self._options, self._defer = options, bool(options.pop("defer", False))
        self._before = [picture(lower) for lower in (*self.lowers, *self.data)]
        self._descriptors = len(os.listdir("/proc/self/fd"))
        self.union = self._open()

    def _open(self) -> Union:
        self.lookups: dict[int, int] = {}
        self.handles: list[int] = []
        where: dict[str, Any] = {"upper": self.upper, "work": self.work} if self._has_upper else {}
        lower, data = tuple(self.lowers), tuple(self.data)
        return Union(Config(lower=lower, data_only=data, **where, **self._options), defer=self._defer)

    def remount(self, **options: object) -> None:
        """Close and open the union again, with *options* changed."""
        self.union.close()
        self._options |= options
        self.union = self._open()

    def forget_all(self) -> None:
        """Close and forget everything, as the kernel does before it unmounts."""
        for fh in self.handles:
            self.union.release(fh)
            self.union.releasedir(fh)
        for nodeid, count in self.lookups.items():
            self.union.forget(nodeid, count)
        self.lookups, self.handles = {}, []

    def check_promises(self) -> None:
        """Forget everything, close, and compare with what was there before."""
        self.forget_all()
        assert self.union.stats()["nodes"] == 1, "forgotten nodes are kept"
        self.union.close()
        assert [picture(lower) for lower in (*self.lowers, *self.data)] == self._before, "a lower layer was changed"
        assert len(os.listdir("/proc/self/fd")) == self._descriptors, "descriptors were left open"
        if self._has_upper:
            assert os.listdir(self.work / "work") == [], "the work directory is not empty"

    # by path

    def seen(self, node: Node) -> int:
        """Count the lookup that an answer carries."""
        self.lookups[node.nodeid] = self.lookups.get(node.nodeid, 0) + 1
        return node.nodeid

    def id(self, path: str | bytes) -> int:
        """Look *path* up, component by component, and return its node id."""
        nodeid: int = ROOT_ID
        for name in os.fsencode(path).split(b"/") if path else ():
            nodeid = self.seen(self.union.lookup(nodeid, name)[0])
        return nodeid

    def at(self, path: str) -> tuple[int, bytes]:
        """Return the parent's node id and the last name."""
        above, _, name = path.rpartition("/")
        return self.id(above), os.fsencode(name)

    def node(self, path: str) -> Node:
        return self.union.getattr(self.id(path))[0]

    def stat(self, path: str) -> os.stat_result:
        return self.union.getattr(self.id(path))[1]

    def exists(self, path: str) -> bool:
        try:
            self.id(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def names(self, path: str = "") -> list[str]:
        """List a directory, sorted, without the dots."""
        fh = self.union.opendir(self.id(path))
        try:
            return sorted(os.fsdecode(entry.name) for entry in self.union.readdir(fh, 0)[2:])
        finally:
            self.union.releasedir(fh)

    def open(self, path: str, flags: int = os.O_RDONLY) -> int:
        return self.opened(self.union.open(self.id(path), flags))

    def opened(self, fh: int) -> int:
        self.handles.append(fh)
        return fh

    def close(self, fh: int) -> None:
        self.handles.remove(fh)
        self.union.release(fh)

    def content(self, fh: int) -> bytes:
        return self.union.read(fh, 1 << 20, 0)

    def read(self, path: str) -> bytes:
        fh = self.open(path)
        try:
            return self.content(fh)
        finally:
            self.close(fh)

    def write(self, path: str, data: bytes, flags: int = 0) -> None:
        """Write at the start of an existing file."""
        fh = self.open(path, os.O_WRONLY | flags)
        self.union.write(fh, data, 0)
        self.close(fh)

    def create(self, path: str, data: bytes = b"", mode: int = 0o644, caller: Caller = ME) -> int:
        node, _, fh = self.union.create(*self.at(path), mode, os.O_RDWR, caller)
        self.seen(node)
        self.opened(fh)
        self.union.write(fh, data, 0)
        return fh

    def mkdir(self, path: str, mode: int = 0o755, caller: Caller = ME) -> int:
        return self.seen(self.union.mkdir(*self.at(path), mode, caller)[0])

    def symlink(self, path: str, target: str, caller: Caller = ME) -> int:
        return self.seen(self.union.symlink(*self.at(path), os.fsencode(target), caller)[0])

    def mknod(self, path: str, mode: int, rdev: int = 0, caller: Caller = ME) -> int:
        return self.seen(self.union.mknod(*self.at(path), mode, rdev, caller)[0])

    def link(self, path: str, new: str) -> int:
        return self.seen(self.union.link(self.id(path), *self.at(new))[0])

    def unlink(self, path: str) -> None:
        self.union.unlink(*self.at(path))

    def rmdir(self, path: str) -> None:
        self.union.rmdir(*self.at(path))

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        self.union.rename(*self.at(old), *self.at(new), flags)

    def setattr(self, path: str, **changes: int | None) -> os.stat_result:
        return self.union.setattr(self.id(path), Changes(**cast(dict[str, Any], changes)))[1]

    # on disk

    def upper_names(self, path: str = "") -> list[str]:
        return sorted(os.listdir(self.upper / path))

    def is_whiteout(self, path: str) -> bool:
        st = (self.upper / path).lstat()
        return stat.S_ISCHR(st.st_mode) and st.st_rdev == 0

    def mark(self, path: str, name: str) -> bytes | None:
        """Return a mark of something in the upper layer."""
        try:
            return os.getxattr(self.upper / path, PREFIX + name, follow_symlinks=False)
        except OSError:
            return None
