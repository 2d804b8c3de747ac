"""Attributes by a descriptor, also by one that is a mere place and takes no such call itself."""

import errno
import os
from pathlib import Path

import pytest

from unionfs.linux import xattr

pytestmark = pytest.mark.xattrs


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_PATH])
def test_every_call_works_by_descriptor(tmp_path: Path, flags: int) -> None:
    path = tmp_path / "file"
    path.touch()
    fd = os.open(path, flags)
    try:
        xattr.set(fd, "user.a", b"1")
        assert (xattr.get(fd, "user.a"), "user.a" in xattr.names(fd)) == (b"1", True)
        for name, flag, code in (
            ("user.a", os.XATTR_CREATE, errno.EEXIST),
            ("user.b", os.XATTR_REPLACE, errno.ENODATA),
        ):
            with pytest.raises(OSError, match=r".") as caught:
                xattr.set(fd, name, b"2", flag)
            assert caught.value.errno == code
        xattr.remove(fd, "user.a")
        assert xattr.get(fd, "user.a") is None
    finally:
        os.close(fd)
    assert "user.a" not in os.listxattr(path)
