"""What requests are answered without the union, and with what it would have said."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.lives import Mount
from unionfs.fuse import wire
from unionfs.fuse.protocol import Opcode

pytestmark = pytest.mark.root


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    made = Mount(tmp_path)
    (made.lower / "f").write_text("lower")
    made.serve()
    yield made
    made.close()


def errno_of(mount: Mount, nodeid: int, name: bytes) -> int:
    try:
        answer = mount.ask(Opcode.GETXATTR, nodeid, wire.GETXATTR.pack(0) + name + b"\0")
    except OSError as exc:
        return exc.errno or 0
    return answer if isinstance(answer, int) else 0


def test_a_file_without_attributes_is_asked_once(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    f = mount.id(b"f")
    for name in (b"user.a", b"security.capability", b"trusted.a", b"system.posix_acl_access"):
        assert errno_of(mount, f, name) == errno.ENODATA
        monkeypatch.setitem(vars(mount.union), "listxattr", None)


def test_an_attribute_of_no_known_kind_is_asked_of_the_layer(mount: Mount) -> None:
    f = mount.id(b"f")
    for _ in range(2):
        assert errno_of(mount, f, b"system.foo") == errno_of(mount, f, b"foo.bar") == errno.EOPNOTSUPP
        assert errno_of(mount, f, b"user.a") == errno.ENODATA
