"""Unpack a layer's archive into a directory, in the form that overlay filesystems stack.

    compressed blob → decompress and digest (a thread) → tar members → `plan.Planner` → `_Apply`

`plan` decides everything from values; here its steps are carried out, each with descriptors of
directories and single names, none of which is a symlink. The directory is private to this process until
the caller publishes it, so nobody can swap one in. A failed unpacking leaves whatever it had made, and the
caller drops all of it.
"""

import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO, Final, Protocol

from msgspec.structs import replace

from unionfs.errors import ConfigError, ImageError
from unionfs.linux import at
from unionfs.linux.directories import Directories
from unionfs.linux.remove import remove
from unionfs.oci.compression import Source, decompressed
from unionfs.oci.digest import CHUNK, Digest, DigestMismatch
from unionfs.oci.entry import Entry, Kind
from unionfs.oci.form import Form
from unionfs.oci.plan import Below, Planner, Step, Verb
from unionfs.oci.tarstream import TarReader

__all__ = ["LIMIT_VARIABLE", "Limits", "Lower", "Unpacked", "read_index", "unpack"]


LIMIT_VARIABLE: Final = "UNIONFS_MAX_LAYER"
"""Environment: bytes of the largest layer, with a unit of M, G or T."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much an archive may ask for before it is taken for a bomb."""

    entries: int = 2_000_000
    size: int = 128 << 30
    """Bytes of one layer, unpacked."""
    names: int = 1 << 30
    """Bytes of all paths, targets and attributes: they are held in memory."""
    ratio: int = 500
    """Bytes out for a byte in, stretches of zeros aside: they become holes and fill no disk, and a database or the
    image of a disk has many. Real layers stay below 50, gzip cannot exceed 1032."""
    ratio_from: int = 1 << 30
    """Bytes below which the ratio does not count: a small file of zeros is nobody's bomb."""

    @classmethod
    def from_environment(cls) -> "Limits":
        """Return the limits, with the size that the user allows.

        Raises:
            ConfigError: it is no size.
        """
        text = os.environ.get(LIMIT_VARIABLE, "")
        if not text:
            return cls()
        number, unit = (text[:-1], text[-1].upper()) if text[-1].isalpha() else (text, "")
        if not number.isdigit() or unit not in _UNITS:
            raise ConfigError(f"{LIMIT_VARIABLE}={text}: write a number of bytes, or 200G")
        return cls(size=int(number) * _UNITS[unit])


_UNITS: Final = {"": 1, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Lower(Below, Protocol):
    """The layers below, as `Below`, and their files' content."""

    def open(self, path: bytes) -> BinaryIO:
        """Open the file that `find` found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """What came out of an archive."""

    diff_id: Digest
    """Of the archive, decompressed."""
    entries: tuple[Entry, ...]
    """The layer's files, sorted, parents first, with the digest of each content."""
    notes: tuple[str, ...] = field(default=())
    """What could not be kept as the archive says, one sentence each."""


HOLE: Final = 1 << 16
"""Bytes of zeros from which on a hole is made of them."""

_ZEROS: Final = bytes(CHUNK)

_WRITING: Final = frozenset({Verb.FILE, Verb.COPY})
"""Steps that take disk space."""


class _Pump:
    """Decompress and digest in a thread: both leave the interpreter free to make files meanwhile."""

    def __init__(self, source: Source, limits: Limits) -> None:
        self._source = source
        self._limits = limits
        self._chunks: queue.Queue[bytes | BaseException] = queue.Queue(maxsize=4)
        self._stop = threading.Event()
        self._hasher = hashlib.sha256()
        self._zeros = 0
        self._thread = threading.Thread(target=self._run, daemon=True, name="decompress")
        self._thread.start()

    def _run(self) -> None:
        last: bytes | BaseException = b""
        try:
            while not self._stop.is_set() and (chunk := self._source.read(CHUNK)):
                self._hasher.update(chunk)
                self._zeros += len(chunk) if _is_hole(chunk) else 0
                self._check()
                self._put(chunk)
        except BaseException as error:  # noqa: BLE001 - carried to the reader, who raises it
            last = error
        self._put(last)

    def _check(self) -> None:
        made, taken, limits = self._source.produced, self._source.consumed, self._limits
        if made > limits.size:
            raise ImageError(f"the layer is larger than {limits.size >> 20} MiB unpacked; try: {LIMIT_VARIABLE}=...G")
        full = made - self._zeros
        if full > limits.ratio_from and full > limits.ratio * max(1, taken):
            raise ImageError(f"the layer unpacks to {full // max(1, taken)} times its size: a compression bomb")

    def _put(self, chunk: bytes | BaseException) -> None:
        while not self._stop.is_set():
            with suppress(queue.Full):
                self._chunks.put(chunk, timeout=0.1)
                break

    def read(self, _size: int = -1, /) -> bytes:
        """Return the next chunk, nothing at the end; raise what went wrong in the thread."""
        chunk = self._chunks.get()
        if isinstance(chunk, BaseException):
            raise chunk
        if not chunk:
            self._chunks.put(b"")
        return chunk

    def close(self) -> Digest:
        """End the thread and return the digest of all that it read."""
        self._stop.set()
        while not self._chunks.empty():
            self._chunks.get_nowait()
        self._thread.join()
        return Digest.from_hex(self._hasher.hexdigest())


def unpack(
    blob: BinaryIO, directory: int, form: Form, *, lower: Lower | None, expected: Digest | None, limits: Limits
) -> Unpacked:
    """Unpack the layer in *blob* into the empty directory *directory* (a descriptor).

    *lower* is None for the bottom layer, *expected* is the diff id, None where nobody promised one:
    then an archive without end mark is refused, because nothing else would tell that it was cut short.

    Raises:
        ImageError: the archive is hostile, damaged, too large, or not the one expected.
        OSError: the disk refused.
    """
    pump = _Pump(decompressed(blob), limits)
    reader, planner = TarReader(pump), Planner(lower)
    apply = _Apply(directory, form, lower, reader)
    try:
        _run(reader, planner, apply, limits)
        if expected is None and not reader.ended:
            raise ImageError("the archive has no end mark: it is cut short")
        reader.drain()
        entries = tuple(planner.entries())
        apply.finish(entries)
    finally:
        apply.close()
        diff_id = pump.close()
    if expected is not None and diff_id != expected:
        raise DigestMismatch(expected, diff_id)
    return Unpacked(diff_id=diff_id, entries=entries, notes=(*planner.notes, *form.notes))


def read_index(blob: BinaryIO, below: Below | None, limits: Limits) -> tuple[Entry, ...]:
    """Return the entries that `unpack` would, and unpack nothing."""
    pump = _Pump(decompressed(blob), limits)
    reader, planner = TarReader(pump), Planner(below)

    def learn(step: Step) -> Entry | None:
        if step.verb is not Verb.FILE:
            return None
        return replace(step.entry, digest=_digest_of(step.entry.size, reader.content()))

    try:
        _run(reader, planner, learn, limits)
    finally:
        pump.close()
    return tuple(planner.entries())


def _run(reader: TarReader, planner: Planner, apply: Callable[[Step], Entry | None], limits: Limits) -> None:
    count = size = names = 0
    for member in reader:
        planner.plan(member)
        for step in planner.steps:
            entry = step.entry
            count += 1
            size += entry.size if step.verb in _WRITING else 0
            names += len(entry.path) + len(entry.link) + sum(len(value) for _, value in entry.xattrs)
        if count > limits.entries or size > limits.size:
            most = f"{limits.entries} entries, or {limits.size >> 20} MiB"
            raise ImageError(f"the layer has more than {most}; try: {LIMIT_VARIABLE}=...G")
        if names > limits.names:
            raise ImageError(f"the layer has more than {limits.names >> 20} MiB of names and attributes: a bomb")
        _carry_out(planner, apply)
    planner.end()
    _carry_out(planner, apply)


def _carry_out(planner: Planner, apply: Callable[[Step], Entry | None]) -> None:
    for step in planner.steps:
        entry = apply(step)
        if entry is not None:
            planner.completed(step.path, entry)
    planner.steps.clear()


class _Apply:
    """Carry out steps below one directory; `close` it in the end."""

    def __init__(self, root: int, form: Form, lower: Lower | None, reader: TarReader) -> None:
        self._directories = Directories(root)
        self._form = form
        self._lower = lower
        self._reader = reader
        self._verbs: dict[Verb, Callable[[int, bytes, Step], Entry | None]] = {
            Verb.DIR: self._directory,
            Verb.FILE: self._file,
            Verb.SYMLINK: lambda fd, name, step: self._form.symlink(fd, name, step.entry),
            Verb.NODE: lambda fd, name, step: self._form.node(fd, name, step.entry),
            Verb.HARDLINK: self._hard_link,
            Verb.COPY: self._copy,
            Verb.WHITEOUT: lambda fd, name, _step: self._form.whiteout(fd, name),
            Verb.OPAQUE: self._opaque,
            Verb.REMOVE: self._remove,
        }

    def __call__(self, step: Step) -> Entry | None:
        """Carry out one step; returns the entry where its content taught something new."""
        try:
            parent, name = self._directories.parent(step.path)
            entry = self._verbs[step.verb](parent, name, step)
        except OSError as error:
            raise OSError(error.errno, f"cannot unpack {os.fsdecode(step.path)!r}: {error.strerror}") from error
        if not (lost := self._form.not_kept):
            return entry
        entry = entry or step.entry
        kept = tuple(item for item in entry.xattrs if item[0] not in lost)
        lost.clear()
        return replace(entry, xattrs=kept)

    def finish(self, entries: tuple[Entry, ...]) -> None:
        """Give directories their times, now that everything in them was made."""
        for entry in entries:
            if entry.kind is Kind.DIR:
                parent, name = self._directories.parent(entry.path)
                os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def close(self) -> None:
        """Give the descriptors back."""
        self._directories.close()

    def _directory(self, parent: int, name: bytes, step: Step) -> None:
        if step.path:
            with suppress(FileExistsError):  # its attributes come a second time
                os.mkdir(name, 0o700, dir_fd=parent)
        self._form.attributes(self._directories.fd(step.path), step.entry)

    def _opaque(self, _parent: int, _name: bytes, step: Step) -> None:
        self._form.opaque(self._directories.fd(step.path))

    def _remove(self, parent: int, name: bytes, step: Step) -> None:
        if step.entry.kind is Kind.DIR:
            self._directories.close()
            parent, name = self._directories.parent(step.path)
        remove(parent, name)

    def _hard_link(self, parent: int, name: bytes, step: Step) -> None:
        here = os.dup(parent)  # the next descriptor asked for may push this one out
        try:
            there, target = self._directories.parent(step.entry.path)
            os.link(target, name, src_dir_fd=there, dst_dir_fd=here, follow_symlinks=False)
        finally:
            os.close(here)

    def _file(self, parent: int, name: bytes, step: Step) -> Entry:
        return self._write(parent, name, step.entry, self._reader.content())

    def _write(self, parent: int, name: bytes, entry: Entry, content: Iterator[tuple[int, bytes]]) -> Entry:
        fd = at.open_file(parent, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            digest = _write_content(fd, entry.size, content)
            self._form.attributes(fd, entry)
        finally:
            os.close(fd)
        return replace(entry, digest=digest)

    def _copy(self, parent: int, name: bytes, step: Step) -> Entry | None:
        if step.entry.kind is not Kind.FILE:
            make = self._form.symlink if step.entry.kind is Kind.SYMLINK else self._form.node
            make(parent, name, step.entry)
            return None
        assert self._lower is not None  # noqa: S101 - the plan found the file there
        with self._lower.open(step.path) as file:
            return self._write(parent, name, step.entry, _chunks(file))


def _digest_of(
    size: int, content: Iterator[tuple[int, bytes]], write: Callable[[int, bytes], None] | None = None
) -> bytes:
    """Return the sha256 of *content* with its holes filled; *write* is given each piece of data and its offset."""
    hasher, end = hashlib.sha256(), 0
    for offset, chunk in content:
        if offset != end:
            _hash_zeros(hasher, offset - end)
        if write is not None:
            write(offset, chunk)
        hasher.update(chunk)
        end = offset + len(chunk)
    _hash_zeros(hasher, size - end)
    return hasher.digest()


def _write_content(fd: int, size: int, content: Iterator[tuple[int, bytes]]) -> bytes:
    """Write *content* to the empty file *fd* and return its sha256; holes stay holes, and zeros become some."""
    end = 0

    def write(offset: int, chunk: bytes) -> None:
        nonlocal end
        if _is_hole(chunk):
            return
        if offset != end:
            os.lseek(fd, offset, os.SEEK_SET)
        view = memoryview(chunk)
        while view:
            view = view[os.write(fd, view) :]
        end = offset + len(chunk)

    digest = _digest_of(size, content, write)
    if end < size:
        os.ftruncate(fd, size)
    return digest


def _is_hole(chunk: bytes) -> bool:
    """Tell whether nothing need be written for *chunk*: it is all zeros, and large enough to be worth it."""
    return len(chunk) >= HOLE and _ZEROS.startswith(chunk)


def _hash_zeros(hasher: "hashlib._Hash", count: int) -> None:
    for at_byte in range(0, count, CHUNK):
        hasher.update(bytes(min(CHUNK, count - at_byte)))


def _chunks(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    at_byte = 0
    while chunk := file.read(CHUNK):
        yield at_byte, chunk
        at_byte += len(chunk)
