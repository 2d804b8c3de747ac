"""ACLs of new objects: what `acl.inherit` computes is what the kernel does, for every default ACL and mode."""

import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core.conftest import Stacks
from unionfs.core import acl
from unionfs.core.request import Caller

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NO_ID = 0xFFFFFFFF


def encode(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


SMALL = encode((USER_OBJ, 7, NO_ID), (GROUP_OBJ, 5, NO_ID), (OTHER, 1, NO_ID))
LARGE = encode((USER_OBJ, 7, NO_ID), (USER, 6, 1234), (GROUP_OBJ, 5, NO_ID), (MASK, 7, NO_ID), (OTHER, 0, NO_ID))

BITS = st.integers(0, 7)


@st.composite
def default_acls(draw: st.DrawFn) -> bytes:
    users = sorted(draw(st.sets(st.integers(1, 5), max_size=2)))
    groups = sorted(draw(st.sets(st.integers(1, 5), max_size=2)))
    entries = [(USER_OBJ, draw(BITS), NO_ID), *((USER, draw(BITS), uid) for uid in users)]
    entries += [(GROUP_OBJ, draw(BITS), NO_ID), *((GROUP, draw(BITS), gid) for gid in groups)]
    if users or groups or draw(BITS) > 3:
        entries.append((MASK, draw(BITS), NO_ID))
    return encode(*entries, (OTHER, draw(BITS), NO_ID))


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    try:
        os.setxattr(tmp_path, DEFAULT, SMALL)
    except OSError as exc:
        pytest.skip(f"needs ACLs in {tmp_path}: {exc.strerror}")
    yield tmp_path
    os.removexattr(tmp_path, DEFAULT)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(default_acls(), st.integers(0, 0o7777))
def test_the_kernel_hands_down_the_same(directory: Path, default: bytes, mode: int) -> None:
    os.setxattr(directory, DEFAULT, default)
    path = directory / "new"
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY, mode))
    try:
        access = os.getxattr(path, ACCESS) if ACCESS in os.listxattr(path) else None
        assert acl.inherit(default, mode) == (access, stat.S_IMODE(path.stat().st_mode))
    finally:
        path.unlink()


def test_a_default_acl_that_the_bits_say_gives_no_acl() -> None:
    assert acl.inherit(SMALL, 0o777) == (None, 0o751)
    assert acl.inherit(SMALL, 0o4640) == (None, 0o4640)


def test_the_mask_takes_what_the_mode_does_not_give_the_group() -> None:
    access, bits = acl.inherit(LARGE, 0o640)
    assert bits == 0o640
    expected = ((USER_OBJ, 6, NO_ID), (USER, 6, 1234), (GROUP_OBJ, 5, NO_ID), (MASK, 4, NO_ID), (OTHER, 0, NO_ID))
    assert access == encode(*expected)


@pytest.mark.parametrize("default", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("mode", [0o666, 0o600, 0o777])
def test_an_object_over_a_whiteout_inherits_as_any_other(
    stack: Stacks, directory: Path, default: bytes, mode: int
) -> None:
    s = stack({"d": {"gone": "", "gonedir": {}}})
    s.unlink("d/gone")
    s.rmdir("d/gonedir")
    s.union.setxattr(s.id("d"), DEFAULT.encode(), default)
    caller = Caller(os.geteuid(), os.getegid(), 0o077)  # an umask that a default ACL must override
    for over, free in (("gone", "free"), ("gonedir", "freedir")):
        make = s.mkdir if "dir" in over else s.create
        make(f"d/{over}", mode=mode, caller=caller)
        make(f"d/{free}", mode=mode, caller=caller)
        looks = [
            (s.stat(f"d/{name}").st_mode, sorted(acls(s.upper / "d" / name).items()), s.stat(f"d/{name}").st_gid)
            for name in (over, free)
        ]
        assert looks[0] == looks[1]


def acls(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in (ACCESS, DEFAULT) if name in os.listxattr(path)}


def test_an_acl_survives_copy_up(stack: Stacks, directory: Path) -> None:
    def make(path: Path) -> None:
        path.write_bytes(b"x")
        os.setxattr(path, ACCESS, LARGE)

    s = stack({"f": make})
    s.write("f", b"y")
    assert s.union.getxattr(s.id("f"), ACCESS.encode()) == LARGE
    assert stat.S_IMODE(s.stat("f").st_mode) == stat.S_IMODE((s.lowers[0] / "f").stat().st_mode)
