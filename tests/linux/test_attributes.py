"""Extended attributes, file handles, file flags and locks: an answer is a value, a failure an errno."""

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from unionfs.linux import at, fileops, flock, handles, xattr

pytestmark = pytest.mark.xattrs


def test_what_is_not_set_is_none_and_required_is_an_error(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path)
    assert xattr.get(path, "user.none") is None
    with pytest.raises(OSError, match=r".") as caught:
        xattr.require(path, "user.none")
    assert caught.value.errno == errno.ENODATA
    with pytest.raises(OSError, match=r"."):
        xattr.remove(path, "user.none")


@pytest.mark.parametrize("value", [b"", b"x", bytes(range(256)), b"v" * 3000])
def test_a_value_comes_back_as_it_was_set(tmp_path: Path, value: bytes) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    for target in (fd, os.fsencode(tmp_path)):
        xattr.set(target, "user.\udcff", value)
        assert xattr.get(target, "user.\udcff") == value
        assert "user.\udcff" in xattr.names(target)
        xattr.remove(target, "user.\udcff")
    os.close(fd)


@pytest.mark.parametrize(("flags", "exists", "code"), [
    (os.XATTR_CREATE, True, errno.EEXIST), (os.XATTR_REPLACE, False, errno.ENODATA),
    (os.XATTR_CREATE, False, None), (os.XATTR_REPLACE, True, None),
])  # fmt: skip
def test_create_and_replace(tmp_path: Path, flags: int, exists: bool, code: int | None) -> None:
    path = os.fsencode(tmp_path)
    if exists:
        xattr.set(path, "user.k", b"old")
    if code is None:
        xattr.set(path, "user.k", b"new", flags)
        assert xattr.get(path, "user.k") == b"new"
        return
    with pytest.raises(OSError, match=r".") as caught:
        xattr.set(path, "user.k", b"new", flags)
    assert caught.value.errno == code


def test_symlinks_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    (tmp_path / "s").symlink_to("f")
    os.setxattr(tmp_path / "f", "user.k", b"v")
    assert xattr.get(os.fsencode(tmp_path / "s"), "user.k") is None
    assert xattr.names(os.fsencode(tmp_path / "s")) == []


def test_a_copy_leaves_out_what_it_is_told_to(tmp_path: Path) -> None:
    one, two = (os.fsencode(tmp_path / name) for name in ("one", "two"))
    for path in (one, two):
        os.close(os.open(path, os.O_CREAT))
    for name in ("user.a", "user.b"):
        os.setxattr(one, name, name.encode())
    xattr.copy(one, two, xattr.names(one), lambda name: None if name == "user.b" else name)
    assert xattr.names(two) == ["user.a"]


@pytest.mark.parametrize(("name", "is_kept"), [("user.x", False), ("security.capability", True)])
def test_a_copy_may_lose_what_the_target_cannot_hold_but_nothing_of_security(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, is_kept: bool
) -> None:
    def refuse(*_args: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(xattr, "get", lambda _target, _name: b"v")
    monkeypatch.setattr(xattr, "set", refuse)
    if is_kept:
        with pytest.raises(OSError, match="not supported"):
            xattr.copy(b"/one", b"/two", [name], lambda name: name)
    else:
        xattr.copy(b"/one", b"/two", [name], lambda name: name)


# handles


@pytest.mark.root
def test_a_handle_survives_a_rename_and_not_a_removal(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"data")
    here = os.open(tmp_path, os.O_RDONLY)
    handle = handles.handle_of(here, b"f")
    assert handle is not None
    (tmp_path / "f").rename(tmp_path / "g")
    assert handles.handle_of(here, b"g") == handle
    fd = handles.open_handle(here, handle)
    assert fd is not None
    assert os.fstat(fd).st_ino == (tmp_path / "g").stat().st_ino
    os.close(fd)
    (tmp_path / "g").unlink()
    assert handles.open_handle(here, handle) is None
    os.close(here)


@pytest.mark.parametrize("data", [b"", b"x", b"\xff" * 8, b"\0" * 128, b"\0" * 129, os.urandom(28)])
def test_a_handle_that_is_nonsense_opens_nothing(tmp_path: Path, data: bytes) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for kind in (0, 1, 2, 81, 254, 255):
        assert handles.open_handle(here, handles.FileHandle(kind, data)) is None
    os.close(here)


def test_a_directory_has_a_handle_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    here, inner = os.open(tmp_path, os.O_RDONLY), os.open(tmp_path / "d", os.O_RDONLY)
    assert handles.handle_of(inner) == handles.handle_of(here, b"d") != handles.handle_of(here)
    assert len(handles.filesystem_uuid(here)) == 16
    os.close(here)
    os.close(inner)


# file flags, space


@pytest.mark.root
def test_flags_are_read_and_set(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "f", os.O_CREAT | os.O_RDWR)
    try:
        before = fileops.get_flags(fd)
        fileops.set_flags(fd, before | 0x10)
    except OSError as exc:
        pytest.skip(f"needs file flags in {tmp_path}: {exc.strerror}")
    assert fileops.get_flags(fd) == before | 0x10
    with pytest.raises(PermissionError):
        os.open(tmp_path / "f", os.O_RDWR)
    fileops.set_flags(fd, before)
    os.close(fd)


def test_space_is_allocated_and_punched(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "f", os.O_CREAT | os.O_RDWR)
    fileops.fallocate(fd, 0, 0, 8192)
    assert os.fstat(fd).st_size == 8192
    os.pwrite(fd, b"x" * 8192, 0)
    fileops.fallocate(fd, 0x3, 0, 4096)
    assert os.pread(fd, 8192, 0) == b"\0" * 4096 + b"x" * 4096
    for length, code in ((0, errno.EINVAL), (-1, errno.EINVAL)):
        with pytest.raises(OSError, match=r".") as caught:
            fileops.fallocate(fd, 0, 0, length)
        assert caught.value.errno == code
    fileops.syncfs(fd)
    os.close(fd)


# locks


def test_one_holder_at_a_time_in_threads_too(tmp_path: Path) -> None:
    one, two = flock.Lock(tmp_path / "sub" / "lock"), flock.Lock(tmp_path / "sub" / "lock")
    assert one.acquire()
    assert not two.acquire(wait=False)
    got: list[bool] = []
    waiter = threading.Thread(target=lambda: got.append(two.acquire()))
    waiter.start()
    one.release()
    waiter.join(10)
    assert got == [True]
    two.release()
    two.release()


def test_shared_locks_go_together(tmp_path: Path) -> None:
    with flock.Lock(tmp_path / "lock", shared=True), flock.Lock(tmp_path / "lock", shared=True):
        assert not flock.Lock(tmp_path / "lock").acquire(wait=False)


def test_a_directory_is_locked_as_long_as_it_is_open(tmp_path: Path) -> None:
    one, two = (os.open(tmp_path, os.O_RDONLY) for _ in range(2))
    assert flock.lock_descriptor(one)
    assert not flock.lock_descriptor(two)
    os.close(one)
    assert flock.lock_descriptor(two)
    os.close(two)
    assert fcntl.LOCK_EX


def test_two_open_files_lock_bytes_of_one_file(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    one, two = (os.open(tmp_path / "f", os.O_RDWR) for _ in range(2))
    assert flock.lock_range(one, 0, 10)
    assert flock.lock_range(two, 10, 0)
    assert not flock.lock_range(two, 9, 1)
    assert not flock.lock_range(two, 9, 1, shared=True)
    os.close(one)
    assert flock.lock_range(two, 0, 10)
    os.close(two)


def test_at_names_the_flags_as_the_kernel_numbers_them() -> None:
    assert (at.RENAME_NOREPLACE, at.RENAME_EXCHANGE, at.RENAME_WHITEOUT) == (1, 2, 4)
