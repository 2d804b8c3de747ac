"""What the union writes on disk, byte for byte: golden values of the kernel's, and everything else refused."""

import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unionfs.core import inos, ondisk
from unionfs.core.ondisk import TRUSTED, USER
from unionfs.errors import BadMark
from unionfs.linux.handles import FileHandle

UUID = bytes(range(16))
HANDLE = FileHandle(1, b"\x2a\x00\x00\x00\x07\x00\x00\x00")
ORIGIN = bytes.fromhex("00 fb 1d 00 01") + UUID + HANDLE.data


def test_an_origin_is_the_kernels_structure() -> None:
    assert ondisk.encode_origin(HANDLE, UUID) == ORIGIN
    assert ondisk.encode_origin(HANDLE, UUID, of_upper=True) == ORIGIN[:3] + b"\x04" + ORIGIN[4:]
    assert ondisk.decode_origin(ORIGIN) == (HANDLE, UUID)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        ORIGIN[:20],
        ORIGIN[:-1],
        ORIGIN + b"\0",
        b"\1" + ORIGIN[1:],
        ORIGIN[:1] + b"\xfa" + ORIGIN[2:],
        ORIGIN[:3] + b"\x01" + ORIGIN[4:],
    ],
    ids=["empty", "short", "cut", "long", "version", "magic", "big-endian"],
)
def test_an_origin_that_is_not_to_be_believed_is_none(value: bytes) -> None:
    assert ondisk.decode_origin(value) is None


def test_an_origin_of_any_endianness_is_ours_too() -> None:
    assert ondisk.decode_origin(ORIGIN[:3] + b"\x03" + ORIGIN[4:]) == (HANDLE, UUID)


@given(st.binary(max_size=64))
def test_any_bytes_are_an_origin_or_none(value: bytes) -> None:
    decoded = ondisk.decode_origin(value)
    assert decoded is None or len(decoded[1]) == 16


@given(st.binary(max_size=128), st.integers(0, 255), st.binary(min_size=16, max_size=16))
def test_an_origin_is_read_as_it_was_written(data: bytes, kind: int, uuid: bytes) -> None:
    assert ondisk.decode_origin(ondisk.encode_origin(FileHandle(kind, data), uuid)) == (FileHandle(kind, data), uuid)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"", (0, b"")), (b"\0\4\0\0", (0, b"")), (b"\0\x24\0\1" + b"d" * 32, (1, b"d" * 32))],
)
def test_a_metacopy_mark(value: bytes, expected: tuple[int, bytes]) -> None:
    assert tuple(ondisk.decode_metacopy(value)) == expected


@pytest.mark.parametrize("value", [b"\0", b"y", b"\1\4\0\0", b"\0\5\0\0", b"\0\4\0\0x"])
def test_a_metacopy_mark_that_no_union_wrote_is_refused(value: bytes) -> None:
    with pytest.raises(BadMark):
        ondisk.decode_metacopy(value)


@pytest.mark.parametrize("value", [b"a", b"/a", b"/a/b", b"/" + b"n" * 255, b"..a", b"/...", b"\xff", b" "])
def test_a_redirect_that_a_union_could_have_written(value: bytes) -> None:
    assert ondisk.check_redirect(value) == value


@pytest.mark.parametrize(
    "value",
    [b"", b"/", b"//", b"/a/", b"//a", b"/a//b", b".", b"..", b"/..", b"/a/../b", b"/.", b"a/b", b"../x", b"n" * 256,
     b"a\0", b"/a\0b", b"/" + b"a/" * ondisk.PATH_MAX + b"a"],
)  # fmt: skip
def test_a_redirect_that_none_wrote(value: bytes) -> None:
    with pytest.raises(BadMark):
        ondisk.check_redirect(value)


@given(st.integers(1, 1000), st.integers(1, 1000), st.booleans())
def test_a_link_count_is_read_as_it_was_written(union: int, real: int, of_upper: bool) -> None:
    mark = ondisk.encode_nlink(union, real, of_upper=of_upper)
    other = real + 500
    upper, lower = (real, other) if of_upper else (other, real)
    assert ondisk.decode_nlink(mark, upper, lower) == union


@pytest.mark.parametrize(
    "mark",
    [
        b"",
        b"U",
        b"U1",
        b"X+1",
        b"U+",
        b"U+x",
        b"U+1 ",
        b"U-5",
        b"L-5",
        b"U--1",
        b"\0",
        b"U+" + b"9" * 5000,
        b"L+4294967296",
    ],
)
def test_a_link_count_that_makes_no_sense_is_none(mark: bytes) -> None:
    assert ondisk.decode_nlink(mark, upper=5, lower=5) is None


# names


def test_a_union_nested_in_this_one_keeps_its_marks() -> None:
    for marks in (TRUSTED, USER):
        for name in ("opaque", "overlay.opaque", "x"):
            shown = marks.prefix + name
            stored = marks.on_disk(shown)
            assert stored == f"{marks.prefix}overlay.{name}"
            assert marks.shown(stored) == shown
            assert not marks.is_private(stored)
            assert marks.is_private(shown) == (name != "overlay.opaque")


@pytest.mark.parametrize("name", ["user.x", "trusted.overlay", "trusted.overlayfs.x", "user.overlay", "security.ima"])
def test_names_that_are_nobodys_marks_are_left_alone(name: str) -> None:
    assert TRUSTED.on_disk(name) == TRUSTED.shown(name) == name
    assert not TRUSTED.is_private(name)


def test_the_marks_of_fuse_overlayfs_are_private_in_both_flavours() -> None:
    assert TRUSTED.is_private("user.fuseoverlayfs.origin")
    assert USER.is_private("user.fuseoverlayfs.opaque")


def test_a_whiteout_is_a_device_of_number_zero() -> None:
    def of(mode: int, rdev: int) -> bool:
        return ondisk.is_whiteout(os.stat_result((mode, 1, 1, 1, 0, 0, 0, 0, 0, 0), {"st_rdev": rdev}))

    assert of(stat.S_IFCHR | 0o666, 0)
    assert of(stat.S_IFCHR, 0)
    assert not of(stat.S_IFCHR, os.makedev(1, 3))
    assert not of(stat.S_IFBLK, 0)
    assert not of(stat.S_IFREG, 0)


# inode numbers


@given(st.integers(0, 255), st.integers(0, 255), st.integers(1, 2**56 - 1), st.integers(1, 2**56 - 1))
def test_two_files_have_two_numbers_wherever_they_are(one: int, two: int, real_one: int, real_two: int) -> None:
    assert (inos.number(one, real_one) == inos.number(two, real_two)) == ((one, real_one) == (two, real_two))


@given(st.integers(0, 255), st.integers(0, 2**64 - 1))
def test_a_number_fits_into_64_bits_and_is_stable(fsid: int, real: int) -> None:
    number = inos.number(fsid, real)
    assert 0 <= number < 2**64
    assert number >> 56 == fsid
    assert inos.number(fsid, real) == number


def test_the_marks_have_the_kernels_names() -> None:
    kernel = {"opaque", "redirect", "metacopy", "origin", "impure", "nlink", "upper", "whiteout", "protattr"}
    assert {getattr(TRUSTED, mark) for mark in kernel} == {f"trusted.overlay.{mark}" for mark in kernel}
    assert {getattr(USER, mark) for mark in kernel} == {f"user.overlay.{mark}" for mark in kernel}
