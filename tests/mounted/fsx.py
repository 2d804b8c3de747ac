"""Random operations on the data of files, compared with a model in memory; after the idea of Apple's fsx.

Files of a lower layer are among them, so that the first change comes amid readers, writers, mappings and direct
access of before. Every way to the data must show the same bytes at any time, whichever way they came.
"""

import errno
import mmap
import os
import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from unionfs.linux import fileops

__all__ = ["Exerciser", "contents"]

LARGEST: Final = 200_000
PAGE: Final = 4096
HANDLES: Final = 12
KEEP_SIZE, PUNCH, ZERO = 1, 2, 0x10


def contents(root: Path) -> dict[str, bytes]:
    """Return every file of *root* with what it holds."""
    return {path.name: path.read_bytes() for path in root.iterdir()}


@dataclass
class _Open:
    """An open file, perhaps mapped as well."""

    name: str
    fd: int
    flags: int
    view: mmap.mmap | None = None

    @property
    def writes(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY


class Exerciser:
    """Operations on the files of *root*, where *model* says what they hold at the start.

    *remount* is called with everything closed; *without* names the methods that the mount cannot carry.
    """

    def __init__(self, root: Path, model: dict[str, bytes], seed: int, remount: Callable[[], None]) -> None:
        self._root = root
        self._model = {name: bytearray(data) for name, data in model.items()}
        self._seed = seed
        self._choose = random.Random(seed)
        self._remount = remount
        self._open: list[_Open] = []
        self.history: deque[str] = deque(maxlen=400)
        self.counts: dict[str, int] = {}

    def run(self, operations: int, without: frozenset[str] = frozenset()) -> None:
        often = (self.write, self.read, self.map_write, self.map_read, self.direct_write, self.direct_read)
        acts = [*often, *often, *often, self.append, self.truncate, self.punch, self.allocate, self.zero, self.copy]
        acts += [self.reopen, self.reopen, self.map, self.map, self.sync, self.chmod, self.replace]
        acts = [act for act in acts if act.__name__ not in without]
        for number in range(operations):
            act = self.remount if number % 1000 == 999 else self._choose.choice(acts)
            try:
                act()
            except AssertionError as exc:
                raise AssertionError(
                    "\n".join([f"seed {self._seed}, operation {number}: {exc}", *self.history])
                ) from exc
            self.counts[act.__name__] = self.counts.get(act.__name__, 0) + 1
        self.remount()

    # Ways in.

    def _some(self, *, writes: bool = False, direct: bool = False, mapped: bool = False) -> _Open:
        """Return an open file that can do what is asked for; make one if there is none."""
        found = [
            each
            for each in self._open
            if (each.writes or not writes)
            and bool(each.flags & os.O_DIRECT) == direct
            and (each.view is not None or not mapped)
        ]
        return self._choose.choice(found) if found else self._opened(os.O_RDWR | (os.O_DIRECT if direct else 0))

    def _opened(self, flags: int) -> _Open:
        name = self._choose.choice(sorted(self._model))
        if len(self._open) >= HANDLES:
            self._close(self._choose.choice(self._open))
        opened = _Open(name, os.open(self._root / name, flags), flags)
        self._open.append(opened)
        self._note("open", name, flags)
        return opened

    def _close(self, opened: _Open) -> None:
        self._open.remove(opened)
        if opened.view is not None:
            opened.view.close()
        os.close(opened.fd)
        self._note("close", opened.name)

    def _note(self, *words: object) -> None:
        self.history.append(" ".join(map(str, words)))

    def _data(self, length: int) -> bytes:
        return bytes([self._choose.randrange(1, 256)]) * (length // 2) + self._choose.randbytes(length - length // 2)

    def _range(self, end: int = LARGEST) -> tuple[int, int]:
        offset = self._choose.randrange(max(end, 1))
        return offset, min(self._choose.choice((1, 700, PAGE, 30_000)), end - offset)

    def _put(self, name: str, offset: int, data: bytes) -> None:
        model = self._model[name]
        if data and len(model) < offset:
            model.extend(bytes(offset - len(model)))
        model[offset : offset + len(data)] = data

    def _same(self, name: str, offset: int, found: bytes, way: str) -> None:
        expected = bytes(self._model[name][offset : offset + len(found)])
        if found != expected:
            first = next(n for n, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b)
            told = f"{found[first : first + 8]!r} and not {expected[first : first + 8]!r}"
            where = f"byte {offset + first} differs, of {len(self._model[name])}"
            raise AssertionError(f"{way} of {name}: {where}: {told}, {self._now(name, offset + first)}")

    def _now(self, name: str, at: int) -> str:
        """Return what a new reader is told of the byte that differed, out of a cache and without one."""
        start = at - at % PAGE
        said = {}
        for way, flags in (("read", os.O_RDONLY), ("direct read", os.O_RDONLY | os.O_DIRECT)):
            fd = os.open(self._root / name, flags)
            with mmap.mmap(-1, PAGE) as aligned:
                os.preadv(fd, [aligned], start)
                said[way] = aligned[at - start : at - start + 8]
            os.close(fd)
        return f"now {said}"

    # Operations.

    def write(self) -> None:
        opened, (offset, length) = self._some(writes=True), self._range()
        data = self._data(length)
        self._note("write", opened.name, offset, length)
        assert os.pwrite(opened.fd, data, offset) == length
        self._put(opened.name, offset, data)

    def append(self) -> None:
        opened = self._opened(os.O_WRONLY | os.O_APPEND)
        data = self._data(self._choose.randrange(2000))
        if len(self._model[opened.name]) + len(data) <= LARGEST:
            self._note("append", opened.name, len(data))
            os.write(opened.fd, data)
            self._model[opened.name] += data
        self._close(opened)

    def read(self) -> None:
        opened, (offset, length) = self._some_reader(), self._range()
        found = os.pread(opened.fd, length, offset)
        assert len(found) == max(0, min(length, len(self._model[opened.name]) - offset)), f"length read of {opened}"
        self._same(opened.name, offset, found, f"read({opened.flags:#o})")

    def _some_reader(self) -> _Open:
        readers = [each for each in self._open if not each.flags & (os.O_DIRECT | os.O_WRONLY)]
        return self._choose.choice(readers) if readers else self._opened(os.O_RDONLY)

    def direct_write(self) -> None:
        opened = self._some(writes=True, direct=True)
        offset, length = (self._choose.randrange(1, LARGEST // PAGE // 2) * PAGE for _ in range(2))
        with mmap.mmap(-1, length) as aligned:
            aligned[:] = self._data(length)
            self._note("direct write", opened.name, offset, length)
            assert os.pwritev(opened.fd, [aligned], offset) == length
            self._put(opened.name, offset, aligned[:])

    def direct_read(self) -> None:
        opened = self._some(direct=True)
        offset, length = (self._choose.randrange(1, LARGEST // PAGE // 2) * PAGE for _ in range(2))
        with mmap.mmap(-1, length) as aligned:
            count = os.preadv(opened.fd, [aligned], offset)
            assert count == max(0, min(length, len(self._model[opened.name]) - offset)), f"direct read of {opened}"
            self._same(opened.name, offset, aligned[:count], "direct read")

    def map(self) -> None:
        opened = self._some_reader()
        size = len(self._model[opened.name])
        if opened.view is None and size:
            access = mmap.PROT_READ | (mmap.PROT_WRITE if opened.writes else 0)
            opened.view = mmap.mmap(opened.fd, size, mmap.MAP_SHARED, access)
            self._note("map", opened.name, size)

    def _within(self, opened: _Open) -> tuple[int, int]:
        """Return a range of the mapping that the file still has: beyond it waits SIGBUS."""
        assert opened.view is not None
        return self._range(min(len(opened.view), len(self._model[opened.name])))

    def map_write(self) -> None:
        opened = self._some(writes=True, mapped=True)
        if opened.view is None:
            return
        offset, length = self._within(opened)
        data = self._data(length)
        self._note("map write", opened.name, offset, length)
        opened.view[offset : offset + length] = data
        self._put(opened.name, offset, data)
        if self._choose.random() < 0.5:
            opened.view.flush()

    def map_read(self) -> None:
        opened = self._some(mapped=True)
        if opened.view is not None:
            offset, length = self._within(opened)
            self._same(opened.name, offset, opened.view[offset : offset + length], f"mapping({opened.flags:#o})")

    def truncate(self) -> None:
        opened, size = self._some(writes=True), self._choose.choice((0, 1, PAGE, self._choose.randrange(LARGEST)))
        self._note("truncate", opened.name, size)
        os.ftruncate(opened.fd, size)
        model = self._model[opened.name]
        del model[size:]
        model.extend(bytes(size - len(model)))

    def punch(self) -> None:
        self._change_space(PUNCH | KEEP_SIZE)

    def zero(self) -> None:
        self._change_space(ZERO | KEEP_SIZE)

    def allocate(self) -> None:
        self._change_space(self._choose.choice((0, KEEP_SIZE)))

    def _change_space(self, mode: int) -> None:
        opened, (offset, length) = self._some(writes=True), self._range()
        self._note("fallocate", mode, opened.name, offset, length)
        try:
            fileops.fallocate(opened.fd, mode, offset, length)
        except OSError as exc:
            if not mode & ZERO or exc.errno != errno.EOPNOTSUPP:  # tmpfs cannot
                raise
            return
        model = self._model[opened.name]
        if mode & (PUNCH | ZERO):
            end = min(offset + length, len(model))
            model[offset:end] = bytes(max(0, end - offset))
        elif not mode & KEEP_SIZE:
            model.extend(bytes(max(0, offset + length - len(model))))

    def copy(self) -> None:
        source, target = self._some_reader(), self._some(writes=True)
        if source not in self._open:  # it had to give way to the other
            return
        (at, length), (to, _) = self._range(), self._range(LARGEST - 30_000)
        if source.name == target.name and abs(at - to) < length:
            return
        self._note("copy", source.name, at, target.name, to, length)
        done = os.copy_file_range(source.fd, target.fd, length, at, to)
        assert done == max(0, min(length, len(self._model[source.name]) - at))
        self._put(target.name, to, bytes(self._model[source.name][at : at + done]))

    def sync(self) -> None:
        os.fsync(self._some(writes=True).fd)

    def chmod(self) -> None:
        """Copy up without data, where metacopy is on."""
        (self._root / self._choose.choice(sorted(self._model))).chmod(0o600)

    def replace(self) -> None:
        """Have one file give way to a copy of it; who has the old one open must close it, as the model ends here."""
        if self._choose.random() < 0.9:
            return
        name = self._choose.choice(sorted(self._model))
        for opened in [each for each in self._open if each.name == name]:
            self._close(opened)
        self._note("replace", name)
        (self._root / "new").write_bytes(self._model[name])
        (self._root / "new").rename(self._root / name)

    def reopen(self) -> None:
        access = self._choose.choice((os.O_RDONLY, os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_DIRECT, os.O_DIRECT))
        self._opened(access)

    def close(self) -> None:
        """Close everything, whatever happened."""
        for opened in list(self._open):
            with suppress(OSError):
                self._close(opened)

    def remount(self) -> None:
        self.close()
        self._note("remount")
        self._remount()
        assert contents(self._root) == self._model, "after the remount"
