"""Write a layer anew in another form: other whiteouts, other marks, redirects and metacopy spelled out.

The layer goes through an archive, in memory a piece at a time: one thread packs, this one unpacks. So
whatever can be packed can be converted, and there is no second way to write a layer.
"""

import os
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, Final

from unionfs.core.ondisk import OPAQUE_FILE, WHITEOUT_PREFIX, XWHITEOUTS
from unionfs.errors import ConfigError, ImageError
from unionfs.linux import at, xattr
from unionfs.oci.entry import Entry
from unionfs.oci.flatten import flatten
from unionfs.oci.form import Form, RootForm, UserForm
from unionfs.oci.merged import Merged
from unionfs.oci.pack import pack
from unionfs.oci.scan import scan
from unionfs.oci.snapshots import LayerFiles
from unionfs.oci.unpack import Limits, Unpacked, unpack

__all__ = ["DIALECTS", "convert"]


class _Aufs:
    """Whiteouts and opaque marks are files called ``.wh.``, as in archives and in aufs."""

    @staticmethod
    def whiteout(dirfd: int, name: bytes) -> None:
        """See `Form.whiteout`."""
        os.close(at.open_file(dirfd, WHITEOUT_PREFIX + name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444))

    @staticmethod
    def opaque(fd: int) -> None:
        """See `Form.opaque`."""
        os.close(at.open_file(fd, OPAQUE_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444))


class AufsRootForm(_Aufs, RootForm):
    """Root's form, with aufs' marks."""


class AufsUserForm(_Aufs, UserForm):
    """A user's form, with aufs' marks."""


class XattrForm(RootForm):
    """Root's form, with whiteouts that are attributes: they survive a copy by those who may make no device."""

    def whiteout(self, dirfd: int, name: bytes) -> None:
        """See `Form.whiteout`."""
        fd = at.open_file(dirfd, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            xattr.set(fd, self.marks.whiteout, b"y")
        finally:
            os.close(fd)
        if xattr.get(dirfd, self.marks.opaque) is None:
            xattr.set(dirfd, self.marks.opaque, XWHITEOUTS)


DIALECTS: Final[dict[str, Callable[[], Form]]] = {
    "trusted": RootForm,
    "user": UserForm,
    "aufs": lambda: AufsRootForm() if os.geteuid() == 0 else AufsUserForm(),
    "xattr": XattrForm,
}
"""Name of a form → how it is written."""


class _Somewhere:
    """Layers below that nobody looks at: they may hold anything, so every whiteout stays."""

    def find(self, _path: bytes) -> Entry | None:
        return None

    def open(self, path: bytes) -> BinaryIO:
        raise ImageError(f"{path!r} is below")


def convert(source: Path, target: Path, dialect: str, lower: list[Path] | None = None) -> Unpacked:
    """Write the layer *source* as the new directory *target*.

    With *lower* (bottom first), redirects and metacopy files are spelled out.

    Raises:
        BadMark: a redirect leads to nothing, or needs *lower* and there is none.
        ConfigError: *target* exists.
    """
    if target.exists():
        raise ConfigError(f"{target} exists, and convert makes a new directory; try: another name")
    below = Merged([_scanned(path) for path in lower or ()])
    fd = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        spelled = flatten(scan(fd), below)
    finally:
        os.close(fd)
    where = {item.entry.path: (item.below.layer, item.below.source) for item in spelled if item.below is not None}
    entries = [item.entry for item in spelled]
    target.mkdir()
    with closing(LayerFiles([*(lower or ()), source])) as files:
        last = len(lower or ())
        return _through(entries, lambda entry: files.open(*where.get(entry.path, (last, entry.path))), target, dialect)


def _scanned(path: Path) -> list[Entry]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return [entry for entry, _ in scan(fd)]
    finally:
        os.close(fd)


def _through(entries: list[Entry], content: Callable[[Entry], BinaryIO], target: Path, dialect: str) -> Unpacked:
    """Pack into one end of a pipe and unpack from the other."""
    reading, writing = os.pipe()
    failed: list[Exception] = []

    def send() -> None:
        try:
            with os.fdopen(writing, "wb") as sink:
                pack(entries, content, sink)
        except BrokenPipeError:
            return  # the other side says why
        except Exception as error:  # noqa: BLE001 - raised below, by the thread that is asked
            failed.append(error)

    thread = threading.Thread(target=send, name="pack")
    thread.start()
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with os.fdopen(reading, "rb") as source:
            return unpack(source, fd, DIALECTS[dialect](), lower=_Somewhere(), expected=None, limits=Limits())
    except ImageError:
        thread.join()
        if failed:
            raise failed[0] from None
        raise
    finally:
        os.close(fd)
        thread.join()
