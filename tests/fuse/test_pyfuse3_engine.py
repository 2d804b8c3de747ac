"""The reference engine's handlers: unwrap, ask, wrap; and what happens when the asking goes wrong."""

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyfuse3
import pytest

from unionfs.core.config import Config
from unionfs.core.mountoptions import FOREVER_S, MountOptions
from unionfs.core.request import Changes
from unionfs.core.union import Union
from unionfs.errors import CrossesLayers, ReadOnlyUnion
from unionfs.fuse.pyfuse3_engine import REFUSED, Handlers
from unionfs.fuse.reply import changes, entry_attributes, statvfs_data

ROOT = 1
CTX = cast(pyfuse3.RequestContext, SimpleNamespace(uid=os.geteuid(), gid=os.getegid(), umask=0, pid=1))


@pytest.fixture
def union(tmp_path: Path) -> Iterator[Union]:
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower" / "file").write_text("content")
    config = Config(lower=(tmp_path / "lower",), upper=tmp_path / "upper", work=tmp_path / "work")
    with Union(config, defer=True) as union:
        yield union


@pytest.fixture
def handlers(union: Union) -> Handlers:
    return Handlers(union, MountOptions())


class Failing:
    """A union each method of which raises one error."""

    config = SimpleNamespace(noacl=False)

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        def fail(*_: object, **__: object) -> None:
            raise self._error

        return fail


def failing(error: Exception) -> Handlers:
    return Handlers(cast(Union, Failing(error)), MountOptions())


def test_every_handler_of_pyfuse3_is_implemented_or_refused_by_name() -> None:
    offered = {name for name, value in vars(pyfuse3.Operations).items() if callable(value) and not name.startswith("_")}
    implemented = {name for name in vars(Handlers) if not name.startswith("_")} & offered
    assert implemented | REFUSED.keys() == offered
    assert not implemented & REFUSED.keys()
    assert all(REFUSED.values())


async def test_a_name_that_exists(handlers: Handlers, union: Union) -> None:
    found = await handlers.lookup(ROOT, b"file", CTX)
    node, st = union.lookup(ROOT, b"file")
    assert (found.st_ino, found.st_size, found.st_mtime_ns) == (node.nodeid, 7, st.st_mtime_ns)
    assert (found.entry_timeout, found.attr_timeout) == (FOREVER_S, FOREVER_S)


async def test_a_name_that_does_not_is_remembered_by_the_kernel(handlers: Handlers) -> None:
    entry = await handlers.lookup(ROOT, b"none", CTX)
    assert (entry.st_ino, entry.entry_timeout) == (0, FOREVER_S)


async def test_forgetting_takes_lookups_back(handlers: Handlers, union: Union) -> None:
    found = await handlers.lookup(ROOT, b"file", CTX)
    await handlers.lookup(ROOT, b"file", CTX)
    before = union.stats()["nodes"]
    await handlers.forget([(found.st_ino, 2)])
    assert union.stats()["nodes"] == before - 1


async def test_a_file_is_opened_copied_up_written_and_read(handlers: Handlers, tmp_path: Path) -> None:
    found = await handlers.lookup(ROOT, b"file", CTX)
    opened = await handlers.open(found.st_ino, os.O_RDWR, CTX)
    assert await handlers.write(opened.fh, 0, b"CON") == 3
    assert await handlers.read(opened.fh, 0, 100) == b"CONtent"
    await handlers.fsync(opened.fh, datasync=False)
    await handlers.release(opened.fh)
    assert (tmp_path / "upper" / "file").read_text() == "CONtent"
    assert (tmp_path / "lower" / "file").read_text() == "content"


async def test_pages_are_kept_where_nobody_would_note_a_read(handlers: Handlers, tmp_path: Path) -> None:
    found = await handlers.lookup(ROOT, b"file", CTX)
    assert (await handlers.open(found.st_ino, os.O_RDONLY, CTX)).keep_cache  # in a lower layer
    assert not (await handlers.open(found.st_ino, os.O_RDWR, CTX)).keep_cache
    assert (await handlers.open(found.st_ino, os.O_WRONLY, CTX)).keep_cache
    os.utime(tmp_path / "upper" / "file", ns=(time.time_ns() + 10**12, 1))
    assert (await handlers.open(found.st_ino, os.O_RDWR, CTX)).keep_cache


async def test_a_write_drops_set_id_bits_because_it_cannot_know_who_writes(handlers: Handlers) -> None:
    made, entry = await handlers.create(ROOT, b"program", 0o6755, os.O_WRONLY, CTX)
    await handlers.write(made.fh, 0, b"x")
    assert (await handlers.getattr(entry.st_ino, CTX)).st_mode & 0o7777 == 0o755
    await handlers.release(made.fh)


ANSWERS: dict[str, tuple[Exception, int]] = {
    "a plain one": (FileExistsError(errno.EEXIST, "there"), errno.EEXIST),
    "one of ours": (ReadOnlyUnion("no upper"), errno.EROFS),
    "a rename that crosses": (CrossesLayers(), errno.EXDEV),
    "one without a number": (OSError("odd"), errno.EIO),
}


@pytest.mark.parametrize(("error", "number"), ANSWERS.values(), ids=ANSWERS.keys())
async def test_an_error_is_an_answer(error: Exception, number: int) -> None:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await failing(error).unlink(ROOT, b"x", CTX)
    assert caught.value.errno == number


@pytest.mark.logs("bug in mkdir, answered EIO")
async def test_a_bug_is_logged_with_its_traceback_and_answered_eio(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await failing(ZeroDivisionError("planted")).mkdir(ROOT, b"x", 0o755, CTX)
    assert caught.value.errno == errno.EIO
    assert "ZeroDivisionError: planted" in caplog.text
    assert "Traceback" in caplog.text


async def test_requests_are_counted_by_name(handlers: Handlers) -> None:
    for _ in range(3):
        await handlers.lookup(ROOT, b"none", CTX)
    await handlers.statfs(CTX)
    assert handlers.requests == {"lookup": 3, "statfs": 1}


FIELDS = "update_mode update_uid update_gid update_size update_atime update_mtime"


def asked(*updated: str) -> Changes:
    attr = SimpleNamespace(st_mode=0o104755, st_uid=1, st_gid=2, st_size=3, st_atime_ns=4, st_mtime_ns=5)
    fields = SimpleNamespace(**{name: name.removeprefix("update_") in updated for name in FIELDS.split()})
    return changes(cast(pyfuse3.EntryAttributes, attr), cast(pyfuse3.SetattrFields, fields))


CHANGES: dict[str, tuple[tuple[str, ...], Changes]] = {
    "nothing": ((), Changes()),
    "mode without its type": (("mode",), Changes(mode=0o4755)),
    "an owner drops set-id bits": (("uid", "gid"), Changes(uid=1, gid=2, kill_priv=True)),
    "unless the mode is given": (("uid", "mode"), Changes(uid=1, mode=0o4755)),
    "a size drops set-id bits": (("size",), Changes(size=3, kill_priv=True)),
    "times": (("atime", "mtime"), Changes(atime_ns=4, mtime_ns=5)),
}


@pytest.mark.parametrize(("updated", "expected"), CHANGES.values(), ids=CHANGES.keys())
def test_a_setattr_changes_what_it_names(updated: tuple[str, ...], expected: Changes) -> None:
    assert asked(*updated) == expected


def test_no_attribute_is_lost(tmp_path: Path) -> None:
    st = os.stat(tmp_path)
    wrapped = entry_attributes(99, st, MountOptions(entry_timeout=1, attr_timeout=2))
    assert (wrapped.st_ino, wrapped.entry_timeout, wrapped.attr_timeout) == (99, 1, 2)
    counts = ["st_mode", "st_nlink", "st_uid", "st_gid", "st_rdev", "st_size", "st_blocks", "st_blksize"]
    names = [*counts, "st_atime_ns", "st_mtime_ns", "st_ctime_ns"]
    assert [getattr(wrapped, name) for name in names] == [getattr(st, name) for name in names]


def test_space_is_passed_on(tmp_path: Path) -> None:
    st = os.statvfs(tmp_path)
    data = statvfs_data(st)
    for name in ("f_bsize", "f_frsize", "f_blocks", "f_files", "f_namemax"):
        assert getattr(data, name) == getattr(st, name)
