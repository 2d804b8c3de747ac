"""Another user on a mount that root has opened to all: he may do what he may do in a plain directory, and no more.

The same attempts are made in a plain copy of the tree and in the mount, where each file is in the lower
layer, or has been copied up before. Every answer must be the same, and so must be what the tree looks
like afterwards.
"""

import contextlib
import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.mounted.users import USER, as_user, outcome
from tests.mounting import Stack
from unionfs.linux import fileops

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.xattrs]

GROUP = 54322
"""A further group of the user."""

ACL = "system.posix_acl_access"


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, bits, who) for tag, bits, who in entries)


def with_user(bits: int) -> bytes:
    """An ACL that gives the user these rights, and others of the group all, and nobody else any."""
    return acl((1, 6, 2**32 - 1), (2, bits, USER), (4, 7, 2**32 - 1), (16, 7, 2**32 - 1), (32, 0, 2**32 - 1))


FILES: dict[str, tuple[int, int, int]] = {
    "secret": (0, 0, 0o600),
    "readable": (0, 0, 0o644),
    "writable": (0, 0, 0o666),
    "group": (0, GROUP, 0o060),
    "notgroup": (0, GROUP, 0o604),
    "mine": (USER, USER, 0o600),
    "mine-unreadable": (USER, USER, 0o000),
    "mine-group": (USER, 0, 0o660),
    "suid": (0, 0, 0o4777),
    "sgid": (0, GROUP, 0o2777),
    "mandatory": (0, GROUP, 0o2767),
    "sticky/roots": (0, 0, 0o666),
    "sticky/mine": (USER, USER, 0o600),
    "search-only/known": (0, 0, 0o644),
    "blind/known": (0, 0, 0o644),
    "drop/known": (0, 0, 0o644),
    "closed/known": (0, 0, 0o666),
    "owned/roots": (0, 0, 0o600),
    "shared/file": (0, GROUP, 0o664),
    "acl-read": (0, 0, 0o600),
    "acl-none": (0, GROUP, 0o660),
}
DIRECTORIES: dict[str, tuple[int, int, int]] = {
    "sticky": (0, 0, 0o1777),
    "search-only": (0, 0, 0o711),
    "blind": (0, 0, 0o744),
    "drop": (0, 0, 0o733),
    "closed": (0, 0, 0o700),
    "owned": (USER, USER, 0o755),
    "shared": (0, GROUP, 0o2775),
    "empty": (0, 0, 0o755),
}


def build(root: Path) -> None:
    for name in DIRECTORIES:
        (root / name).mkdir()
    for name, (uid, gid, mode) in FILES.items():
        path = root / name
        path.write_bytes(b"data of root")
        os.chown(path, uid, gid)
        path.chmod(mode)
    os.setxattr(root / "acl-read", ACL, with_user(4))
    os.setxattr(root / "acl-none", ACL, with_user(0))
    os.setxattr(root / "readable", "user.note", b"n")
    os.setxattr(root / "readable", "trusted.note", b"n")
    (root / "to-secret").symlink_to("secret")
    (root / "to-readable").symlink_to("readable")
    for name, (uid, gid, mode) in DIRECTORIES.items():
        os.chown(root / name, uid, gid)
        (root / name).chmod(mode)
    root.chmod(0o755)


Act = Callable[[Path], object]


def of_file(name: str) -> dict[str, Act]:
    return {
        f"read {name}": lambda root: (root / name).read_bytes(),
        f"append {name}": lambda root: append(root / name),
        f"truncate {name}": lambda root: os.truncate(root / name, 3),
        f"write {name}": lambda root: append(root / name, os.O_TRUNC),
        f"chmod {name}": lambda root: (root / name).chmod(0o2755),
        f"own {name}": lambda root: os.chown(root / name, USER, -1),
        f"regroup {name}": lambda root: os.chown(root / name, -1, GROUP),
        f"touch {name}": lambda root: os.utime(root / name),
        f"backdate {name}": lambda root: os.utime(root / name, (1, 1)),
        f"note {name}": lambda root: os.setxattr(root / name, "user.mine", b"1"),
        f"trust {name}": lambda root: os.setxattr(root / name, "trusted.mine", b"1"),
        f"capable {name}": lambda root: os.setxattr(root / name, "security.capability", b"\2\0\0\2" + bytes(16)),
        f"acl {name}": lambda root: os.setxattr(root / name, ACL, with_user(7)),
        f"look {name}": lambda root: os.getxattr(root / name, "user.note"),
        f"spy {name}": lambda root: os.getxattr(root / name, "trusted.note"),
        f"list {name}": lambda root: sorted(set(os.listxattr(root / name)) - {ACL}),
        f"access {name}": lambda root: [os.access(root / name, how) for how in (os.R_OK, os.W_OK, os.X_OK)],
        f"immutable {name}": lambda root: flag(root / name, 0x10),
        f"undumped {name}": lambda root: flag(root / name, 0x40),
        f"link {name}": lambda root: os.link(root / name, root / "sticky" / f"link-{name.replace('/', '-')}"),
        f"move {name}": lambda root: os.rename(root / name, root / "owned" / f"moved-{name.replace('/', '-')}"),
        f"remove {name}": lambda root: (root / name).unlink(),
    }


def flag(path: Path, bit: int) -> None:
    """Set a file flag of chattr(1)."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        fileops.set_flags(fd, fileops.get_flags(fd) | bit)
    finally:
        os.close(fd)


def append(path: Path, flags: int = os.O_APPEND) -> None:
    fd = os.open(path, os.O_WRONLY | flags)
    try:
        os.write(fd, b"by the user")
    finally:
        os.close(fd)


def of_directory(name: str) -> dict[str, Act]:
    return {
        f"entries of {name}": lambda root: sorted(os.listdir(root / name)),
        f"known in {name}": lambda root: (root / name / "known").stat().st_size,
        f"create in {name}": lambda root: os.close(os.open(root / name / "new", os.O_CREAT | os.O_EXCL, 0o6777)),
        f"mkdir in {name}": lambda root: os.mkdir(root / name / "newdir", 0o2777),
        f"symlink in {name}": lambda root: (root / name / "newlink").symlink_to("x"),
        f"fifo in {name}": lambda root: os.mkfifo(root / name / "newfifo"),
        f"device in {name}": lambda root: os.mknod(root / name / "dev", stat.S_IFCHR | 0o666, os.makedev(1, 3)),
        f"whiteout in {name}": lambda root: os.mknod(root / name / "readable", stat.S_IFCHR, os.makedev(1, 3)),
        f"tmpfile in {name}": lambda root: os.close(os.open(root / name, os.O_TMPFILE | os.O_RDWR, 0o600)),
        f"chmod {name}": lambda root: (root / name).chmod(0o777),
        f"rename {name}": lambda root: (root / name).rename(root / "sticky" / name),
        f"rmdir {name}": lambda root: (root / name).rmdir(),
    }


ACTS: dict[str, Act] = {}
for _name in FILES:
    ACTS |= of_file(_name)
for _name in DIRECTORIES:
    ACTS |= of_directory(_name)
ACTS |= of_file("to-secret") | of_file("to-readable")


def attempts(root: Path) -> dict[str, str]:
    os.umask(0o022)
    return {name: outcome(act, root) for name, act in ACTS.items()}


def looks(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for here, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(here, name)
            st = path.lstat()
            size = 0 if stat.S_ISDIR(st.st_mode) else st.st_size
            names = sorted(os.listxattr(path, follow_symlinks=False))
            found[str(path.relative_to(root))] = (oct(st.st_mode), st.st_uid, st.st_gid, size, names)
    return found


@pytest.mark.parametrize("where", ["lower", "upper"])
def test_every_answer_is_that_of_a_plain_directory(stack: Stack, tmp_path: Path, where: str) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    build(plain)
    shutil.rmtree(stack.base)
    stack.base.mkdir()
    build(stack.base)
    (stack.top / "top").unlink()
    stack.mount()
    if where == "upper":
        copy_up(stack.merged)
    expected, answers = (as_user(partial(attempts, root), groups=[GROUP]) for root in (plain, stack.merged))
    if stack.engine == "pyfuse3":  # which has neither O_TMPFILE nor file flags
        lacking = ("tmpfile ", "immutable ", "undumped ")
        answers |= {name: said for name, said in expected.items() if name.startswith(lacking)}
    assert answers == expected
    assert looks(stack.merged) == looks(plain)
    assert {name: said for name, said in answers.items() if "data of root" in said} == {
        name: said for name, said in answers.items() if name.startswith("read ") and "data" in said
    }
    assert stack.logged() == ""


def copy_up(root: Path) -> None:
    for path in [*root.rglob("*"), root]:
        st = path.lstat()
        os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns), follow_symlinks=False)


def test_a_copy_is_never_more_open_than_the_original_on_the_way_up(stack: Stack) -> None:
    """The work directory is closed to all others, so what is staged there with any mode cannot be reached."""
    (stack.base / "base").chmod(0o600)
    stack.mount()
    (stack / "base").write_text("changed")
    work = stack.work / "work"
    assert stat.S_IMODE(work.stat().st_mode) & 0o077 == 0
    with pytest.raises(AssertionError, match="died"):
        as_user(lambda: os.listdir(work))


def test_set_user_id_programs_work_for_root_only_if_the_mount_says_so(stack: Stack) -> None:
    """As under the kernel's overlayfs, a mount made by root honours them; ``nosuid`` does not."""
    shutil.copy("/usr/bin/id", stack.base / "id")
    (stack.base / "id").chmod(0o4755)

    def effective() -> str:
        return subprocess.run([stack / "id", "-u"], capture_output=True, text=True, check=False).stdout.strip()

    stack.mount()
    assert as_user(effective) == "0"
    stack.unmount()
    stack.mount("-o", "nosuid")
    assert as_user(effective) == str(USER)


def test_a_device_works_only_if_the_mount_says_so(stack: Stack) -> None:
    os.mknod(stack.base / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (stack.base / "null").chmod(0o666)
    stack.mount("-o", "nodev")
    assert as_user(lambda: outcome(lambda root: (root / "null").read_bytes(), stack.merged)) == "Permission denied"
    stack.unmount()
    stack.mount("-o", "dev")
    assert as_user(lambda: outcome(lambda root: (root / "null").read_bytes(), stack.merged)) == repr(b"")


def test_marks_cannot_be_forged_through_the_mount(stack: Stack) -> None:
    """Neither the union's own nor those of image tools: a file that a user makes never hides another's."""
    (stack.base / "directory").chmod(0o777)
    (stack.base / "directory" / "roots").write_text("roots")
    stack.mount()
    names = [".wh.roots", ".wh..wh..opq", ".wh..opq"]

    def forge() -> list[str]:
        place = stack.merged / "directory"
        said = [outcome(lambda root, name=name: (root / name).touch(), place) for name in names]  # type: ignore[misc]  # mypy infers no lambda with a default
        (place / "mine").mkdir()
        for mark in ("user.overlay.opaque", "user.fuseoverlayfs.opaque", "trusted.overlay.opaque"):
            with contextlib.suppress(OSError):
                os.setxattr(place / "mine", mark, b"y")
        return said

    assert as_user(forge) == ["Invalid argument"] * 3
    assert sorted(os.listdir(stack / "directory")) == ["mine", "roots"]
    stack.unmount()
    stack.mount()
    assert sorted(os.listdir(stack / "directory")) == ["mine", "roots"]
