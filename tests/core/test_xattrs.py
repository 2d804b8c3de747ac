"""Extended attributes as users see them: theirs, never the union's own, and the rules of setxattr(2)."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.core.conftest import Stacks
from tests.core.stacks import PREFIX, marked, symlink
from unionfs.core.union import Union

pytestmark = pytest.mark.xattrs


def fails(call: Callable[[], object]) -> int | None:
    with pytest.raises(OSError, match=r".") as caught:
        call()
    return caught.value.errno


def noted(path: Path) -> None:
    path.write_bytes(b"data")
    os.setxattr(path, "user.note", b"n")


def names(union: Union, node: int) -> set[bytes]:
    return {name for name in union.listxattr(node) if name.startswith((b"user.", b"trusted."))}


def test_attributes_of_lower_and_upper_files(stack: Stacks) -> None:
    s = stack({"f": noted})
    node = s.id("f")
    assert (s.union.listxattr(node), s.union.getxattr(node, b"user.note")) == ([b"user.note"], b"n")
    s.union.setxattr(node, b"user.more", b"m" * 1000)
    s.union.removexattr(node, b"user.note")
    assert s.union.listxattr(node) == [b"user.more"]
    s.remount()
    assert s.union.getxattr(s.id("f"), b"user.more") == b"m" * 1000


@pytest.mark.parametrize("path", ["f", "d"])
def test_create_and_replace(stack: Stacks, path: str) -> None:
    def directory(where: Path) -> None:
        where.mkdir()
        os.setxattr(where, "user.note", b"n")

    s = stack({"f": noted, "d": directory})
    union, node = s.union, s.id(path)
    assert fails(lambda: union.setxattr(node, b"user.note", b"x", os.XATTR_CREATE)) == errno.EEXIST
    assert fails(lambda: union.setxattr(node, b"user.none", b"x", os.XATTR_REPLACE)) == errno.ENODATA
    assert fails(lambda: union.removexattr(node, b"user.none")) == errno.ENODATA
    assert fails(lambda: union.getxattr(node, b"user.none")) == errno.ENODATA
    assert s.upper_names() == []
    union.setxattr(node, b"user.note", b"x", os.XATTR_REPLACE)
    union.setxattr(node, b"user.none", b"y", os.XATTR_CREATE)
    assert (union.getxattr(node, b"user.note"), union.getxattr(node, b"user.none")) == (b"x", b"y")
    assert fails(lambda: union.setxattr(node, b"user.none", b"y", os.XATTR_CREATE)) == errno.EEXIST


def test_the_unions_own_marks_are_neither_seen_nor_touched(stack: Stacks) -> None:
    s = stack({"d": marked({"x": ""}, opaque=b"y", redirect=b"/e"), "e": {}}, upper={"u": marked({}, opaque=b"y")})
    for path in ("d", "u"):
        node = s.id(path)
        assert names(s.union, node) == set()
        assert fails(lambda node=node: s.union.getxattr(node, PREFIX.encode() + b"opaque")) == errno.ENODATA  # type: ignore[misc]  # mypy infers no lambda with a default
    s.write("d/x", b"")
    assert names(s.union, s.id("d")) == set()


def test_a_nested_unions_marks_are_kept_under_another_name(stack: Stacks) -> None:
    s = stack({"d": {}})
    node, name = s.id("d"), PREFIX.encode() + b"opaque"
    s.union.setxattr(node, name, b"y")
    assert s.union.getxattr(node, name) == b"y"
    assert names(s.union, node) == {name}
    assert s.mark("d", "opaque") is None
    assert s.mark("d", "overlay.opaque") == b"y"
    twice = PREFIX.encode() + b"overlay.opaque"
    s.union.setxattr(node, twice, b"z")
    assert s.mark("d", "overlay.overlay.opaque") == b"z"
    assert names(s.union, node) == {name, twice}
    s.union.removexattr(node, name)
    assert names(s.union, node) == {twice}


def test_a_name_that_is_too_long_for_its_escape_is_not_supported(stack: Stacks) -> None:
    s = stack({"f": "x"})
    name = PREFIX.encode() + b"n" * (255 - len(PREFIX))
    assert fails(lambda: s.union.setxattr(s.id("f"), name, b"v")) == errno.EOPNOTSUPP
    assert s.upper_names() == []


def test_the_mere_prefix_is_no_name(stack: Stacks) -> None:
    s = stack({"f": "x"})
    node, name = s.id("f"), PREFIX.encode()
    assert fails(lambda: s.union.setxattr(node, name, b"v")) == errno.EINVAL
    assert fails(lambda: s.union.getxattr(node, name)) == errno.EINVAL
    assert fails(lambda: s.union.removexattr(node, name)) == errno.EINVAL
    assert s.upper_names() == []


def test_a_symlink_has_attributes_of_its_own(stack: Stacks) -> None:
    s = stack({"f": noted, "s": symlink("f")})
    assert s.union.listxattr(s.id("s")) == []
    assert fails(lambda: s.union.getxattr(s.id("s"), b"user.note")) in {errno.ENODATA, errno.EPERM}
    assert fails(lambda: s.union.setxattr(s.id("s"), b"user.note", b"x")) in {errno.EPERM, errno.EOPNOTSUPP}
    assert s.union.getxattr(s.id("f"), b"user.note") == b"n"


@pytest.mark.root
def test_a_symlinks_trusted_attribute_is_set_on_the_symlink(stack: Stacks) -> None:
    s = stack({"f": "x", "s": symlink("f")})
    s.union.setxattr(s.id("s"), b"trusted.mine", b"v")
    assert s.union.getxattr(s.id("s"), b"trusted.mine") == b"v"
    assert fails(lambda: s.union.getxattr(s.id("f"), b"trusted.mine")) == errno.ENODATA


def test_names_need_not_be_utf8_and_values_may_be_anything(stack: Stacks) -> None:
    s = stack({"f": "x"})
    node = s.id("f")
    for value in (b"", bytes(range(256))):
        s.union.setxattr(node, b"user.\xff\xfe", value)
        assert s.union.getxattr(node, b"user.\xff\xfe") == value
    assert s.union.listxattr(node) == [b"user.\xff\xfe"]


def test_attributes_and_acls_can_be_left_out(stack: Stacks) -> None:
    s = stack({"f": noted}, noxattrs=True)
    assert s.union.listxattr(s.id("f")) == []
    assert fails(lambda: s.union.getxattr(s.id("f"), b"user.note")) in {errno.ENODATA, errno.EOPNOTSUPP}
    assert fails(lambda: s.union.setxattr(s.id("f"), b"user.note", b"x")) == errno.EOPNOTSUPP
    s = stack({"f": noted}, noacl=True)
    assert s.union.listxattr(s.id("f")) == [b"user.note"]
    assert fails(lambda: s.union.setxattr(s.id("f"), b"system.posix_acl_access", b"\2\0\0\0")) == errno.EOPNOTSUPP
