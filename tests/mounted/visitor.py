"""Whoever visits a tree and tries everything a user could on every name: reads it all, changes it all, removes it all.

    python -m tests.mounted.visitor ROOT TRAIL

A process of its own, which can be killed when the mount keeps it waiting: the file TRAIL then ends with what it was
trying. No symlink is followed here, so what is read was handed out by the mount. Prints the errnos that came, and
writes the contents that were read beside TRAIL, as ``TRAIL.read``.
"""

import contextlib
import errno
import json
import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import BinaryIO, TextIO, final

from unionfs.linux import at, fileops

DEPTH = 8
LOOKED_FOR = (b"secret", b"dir", b"..", b".", b"outside", b"\xff", b"n" * 255, b"n" * 256)
_OPEN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
ANSWERS = frozenset(
    getattr(errno, f"E{name}")
    for name in re.findall(
        r"\w+",
        "NOENT EXIST NOTDIR ISDIR INVAL IO STALE PERM ACCES LOOP NAMETOOLONG NOTEMPTY OPNOTSUPP NODATA XDEV NXIO FBIG "
        "NOSPC RANGE NOTTY",
    )
)
"""What a hostile layer may be answered with; anything else is a surprise."""


@final
class Visitor:
    def __init__(self, root: bytes, trail: TextIO, contents: BinaryIO) -> None:
        self.root = root
        self.errors: Counter[str] = Counter()
        self.done = 0
        self._trail = trail
        self._contents = contents

    def attempt(self, what: str, path: bytes, act: Callable[[], object]) -> None:
        self._trail.write(f"{what} {os.fsdecode(path)!r}\n")
        self._trail.flush()
        try:
            act()
        except OSError as exc:
            if exc.errno not in ANSWERS:
                raise
            self._trail.write(f"    {errno.errorcode[exc.errno or 0]}\n")
            self.errors[errno.errorcode[exc.errno or 0]] += 1
        else:
            self.done += 1

    def walk(self, path: bytes, depth: int = 0) -> list[bytes]:
        """Return *path* and what is below it."""
        found = [path]
        names: list[bytes] = []
        self.attempt("list", path, lambda: names.extend(os.listdir(path)))
        for name in names if depth < DEPTH else ():
            below = path + b"/" + name
            with contextlib.suppress(OSError):
                found += self.walk(below, depth + 1) if stat.S_ISDIR(os.lstat(below).st_mode) else [below]
        return found

    def look(self, path: bytes) -> None:
        self.attempt("stat", path, lambda: os.lstat(path))
        self.attempt("readlink", path, lambda: self._contents.write(os.readlink(path)))
        self.attempt("read", path, lambda: self.read(path))
        self.attempt("xattrs", path, lambda: self.read_attributes(path))
        self.attempt("flags", path, lambda: self.with_open(path, os.O_RDONLY, fileops.get_flags))

    def read(self, path: bytes) -> None:
        if stat.S_ISREG(os.lstat(path).st_mode):
            self.with_open(path, os.O_RDONLY, lambda fd: self._contents.write(os.pread(fd, 1 << 16, 0)))
            self.with_open(path, os.O_RDONLY, lambda fd: os.pread(fd, 100, os.fstat(fd).st_size - 50))

    def read_attributes(self, path: bytes) -> None:
        for name in os.listxattr(path, follow_symlinks=False):
            self._contents.write(os.getxattr(path, name, follow_symlinks=False))

    @staticmethod
    def with_open(path: bytes, flags: int, act: Callable[[int], object]) -> None:
        if not stat.S_ISREG(os.lstat(path).st_mode) and not stat.S_ISDIR(os.lstat(path).st_mode):
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        fd = os.open(path, flags | _OPEN)
        try:
            act(fd)
        finally:
            os.close(fd)

    def change(self, path: bytes) -> None:
        other = path + b"~"
        acts: dict[str, Callable[[], object]] = {
            "create in": lambda: self.create(path + b"/new"),
            "mkdir in": lambda: self.create(path + b"/newdir", is_directory=True),
            "utime": lambda: os.utime(path, ns=(1, 1), follow_symlinks=False),
            "chown": lambda: os.lchown(path, 7, 7),
            "setxattr": lambda: os.setxattr(path, "user.k", b"v", follow_symlinks=False),
            "removexattr": lambda: os.removexattr(path, "user.k", follow_symlinks=False),
            "chmod": lambda: self.with_open(path, os.O_RDONLY, lambda fd: os.fchmod(fd, 0o750)),
            "write": lambda: self.with_open(path, os.O_RDWR, lambda fd: os.pwrite(fd, b"overwritten", 2)),
            "truncate": lambda: self.with_open(path, os.O_WRONLY | os.O_TRUNC, os.fsync),
            "setflags": lambda: self.with_open(path, os.O_RDONLY, lambda fd: fileops.set_flags(fd, fileops.FS_NOATIME)),
            "link": lambda: os.link(path, path + b".link", follow_symlinks=False),
            "rename": lambda: os.rename(path, other),
            "exchange": lambda: self.exchange(other, path + b".link"),
            "rename back": lambda: os.rename(other, path),
        }
        for what, act in acts.items():
            self.attempt(what, path, act)

    @staticmethod
    def create(path: bytes, *, is_directory: bool = False) -> None:
        """Make something in what is really a directory: the symlinks here are traps for the daemon, not for us."""
        fd = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | _OPEN)
        name = os.path.basename(path)
        try:
            if is_directory:
                os.mkdir(name, dir_fd=fd)
            else:
                os.close(os.open(name, os.O_CREAT | os.O_WRONLY | _OPEN, 0o644, dir_fd=fd))
        finally:
            os.close(fd)

    @staticmethod
    def exchange(one: bytes, two: bytes) -> None:
        fd = os.open(os.path.dirname(one), os.O_PATH)
        try:
            at.rename(fd, os.path.basename(one), fd, os.path.basename(two), at.RENAME_EXCHANGE)
        finally:
            os.close(fd)

    def visit(self) -> None:
        for path in self.walk(self.root):
            self.look(path)
            for name in () if os.path.islink(path) else LOOKED_FOR:
                self.attempt("lookup", path + b"/" + name, partial(os.lstat, path + b"/" + name))
        for path in self.walk(self.root)[1:]:
            self.change(path)
            self.look(path)
        for path in reversed(self.walk(self.root)[1:]):
            self.attempt("unlink", path, partial(os.unlink, path))
            self.attempt("rmdir", path, partial(os.rmdir, path))
        self.walk(self.root)


def main(root: str, trail: str) -> None:
    with open(trail, "w", encoding="utf-8") as steps, open(f"{trail}.read", "wb") as contents:
        visitor = Visitor(os.fsencode(root), steps, contents)
        visitor.visit()
    print(json.dumps({"done": visitor.done, "errors": visitor.errors}))


if __name__ == "__main__":
    main(*sys.argv[1:])
