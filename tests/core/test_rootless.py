"""The union of an ordinary user: what he may do with files of his own works, what he may not fails with its errno.

The bodies run in a child process that has become somebody without any privilege.
"""

import errno
import os
import stat
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.core.stacks import Stack, Tree, symlink
from unionfs.core.config import Squash
from unionfs.core.request import Caller, Changes
from unionfs.errors import StackError

SOMEBODY = 54321
ROOT = Caller(0, 0, 0o022)
MINE = Caller(SOMEBODY, SOMEBODY, 0o022)
CONTAINERS = "user.containers.override_stat"

pytestmark = [pytest.mark.root, pytest.mark.xattrs]
Body = Callable[[Path], None]
AsUser = Callable[[Body], None]


@pytest.fixture
def as_user(tmp_path: Path) -> AsUser:
    """Return a call that runs its argument as an ordinary user in a directory of his."""
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, SOMEBODY, SOMEBODY)
    for above in (tmp_path, *tmp_path.parents[:2]):
        above.chmod(above.stat().st_mode | 0o011)

    def run(body: Body) -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(_become(body, home))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    return run


def _become(body: Body, home: Path) -> int:
    try:
        os.setgroups([])
        os.setresgid(SOMEBODY, SOMEBODY, SOMEBODY)
        os.setresuid(SOMEBODY, SOMEBODY, SOMEBODY)
        body(home)
    except BaseException:  # noqa: BLE001 - nothing of it may reach the test's own process
        traceback.print_exc()
        return 1
    return 0


def stacked(home: Path, *lowers: Tree, upper: "Tree | None" = None, **options: object) -> Stack:
    base = home / f"stack{len(os.listdir(home))}"
    base.mkdir()
    return Stack(base, lowers, upper or {}, options)


def moded(mode: int, tree: "Tree | None" = None) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        if tree is None:
            path.write_bytes(b"data")
        else:
            path.mkdir()
            for name in tree:
                (path / name).write_bytes(b"data")
        path.chmod(mode)

    return make


def refused(call: Callable[[], object]) -> int | None:
    with pytest.raises(OSError, match=r".") as caught:
        call()
    return caught.value.errno


def test_files_and_directories_that_are_read_only_are_copied_up(as_user: AsUser) -> None:
    def body(home: Path) -> None:
        s = stacked(home, {"f": moded(0o444), "d": moded(0o555, {"x": ""}), "e": moded(0o500, {"y": ""}), "w": "x"})
        s.rename("f", "g")
        s.write("d/x", b"NEW!")
        s.setattr("e/y", mode=0o400)
        s.setattr("e", mtime_ns=5)
        for _ in range(2):
            assert (s.read("g"), s.read("d/x"), s.read("e/y")) == (b"data", b"NEW!", b"data")
            modes = {path: stat.S_IMODE(s.stat(path).st_mode) for path in ("g", "d", "e", "e/y")}
            assert modes == {"g": 0o444, "d": 0o555, "e": 0o500, "e/y": 0o400}
            s.remount()
        s.check_promises()

    as_user(body)


@pytest.mark.parametrize("mode", [0o000, 0o200, 0o300, 0o400, 0o500, 0o600])
def test_a_directory_is_looked_at_and_changed_whatever_its_mode(as_user: AsUser, mode: int) -> None:
    def body(home: Path) -> None:
        tree: Tree = {"d": moded(mode, {}), "e": moded(mode, {}), "f": moded(mode, {})}
        s = stacked(home, {**tree, "low": {}}, {**tree, "low": {}})
        s.setattr("d", mtime_ns=5)
        s.setattr("e", mode=0o700)
        for _ in range(2):
            modes = {path: stat.S_IMODE(s.stat(path).st_mode) for path in tree}
            assert modes == {"d": mode, "e": 0o700, "f": mode}
            assert s.stat("d").st_mtime_ns == 5
            s.remount()
        for path in tree if mode & 0o400 else ():
            s.rmdir(path)
            assert s.is_whiteout(path)
        s.lowers, s._before = [], []  # a picture of such directories cannot be taken
        s.check_promises()

    as_user(body)


def test_a_lower_directory_that_its_owner_may_not_read_is_neither_listed_nor_removed(as_user: AsUser) -> None:
    """Whether it is empty only its mode would have to change to be seen, and lower layers are not changed."""

    def body(home: Path) -> None:
        s = stacked(home, {"d": moded(0o000, {}), "full": moded(0o300, {"f": ""})})
        for path in ("d", "full"):
            for act in (s.rmdir, s.names):
                with pytest.raises(PermissionError):
                    act(path)
        content = s.read("full/f")
        s.rename("full/f", "here")
        assert s.read("here") == content
        s.lowers, s._before = [], []  # a picture of such directories cannot be taken
        s.check_promises()

    as_user(body)


def test_a_symlink_takes_no_attribute_of_a_user_and_keeps_its_owner(as_user: AsUser) -> None:
    """So a chown of it is accepted, as an unpacker needs it, and not kept."""

    def body(home: Path) -> None:
        s = stacked(home, {"l": symlink("x")}, xattr_permissions=2)
        s.symlink("new", "x", ROOT)
        for name in ("l", "new"):
            s.setattr(name, uid=7, gid=7)
            assert (s.stat(name).st_uid, s.stat(name).st_gid) == (SOMEBODY, SOMEBODY)
        s.check_promises()

    as_user(body)


def test_numbers_stay_over_copy_up(as_user: AsUser) -> None:
    def body(home: Path) -> None:
        s = stacked(home, {"f": moded(0o444), "d": moded(0o555, {"x": ""})})
        before = [s.node(path).ino for path in ("f", "d", "d/x")]
        s.setattr("f", mtime_ns=5)
        s.write("d/x", b"N")
        assert [s.node(path).ino for path in ("f", "d", "d/x")] == before
        s.check_promises()

    as_user(body)


def test_numbers_stay_over_a_remount_unless_the_name_has_changed(as_user: AsUser) -> None:
    """Only root may open a file by the handle that its copy remembers; a handle can be compared without."""

    def body(home: Path) -> None:
        s = stacked(home, {"f": "x", "d": {"x": "", "moved": ""}})
        names = ("f", "d", "d/x")
        before = [s.node(path).ino for path in names]
        moved = s.node("d/moved").ino
        for path in ("f", "d/x", "d/moved"):
            s.setattr(path, mtime_ns=5)
        s.rename("d/moved", "d/here")
        s.forget_all()
        s.remount()
        assert [s.node(path).ino for path in names] == before
        fh = s.opened(s.union.opendir(s.id("d")))
        listed = {entry.name: entry.ino for entry in s.union.readdir(fh, 0)}
        assert listed[b"x"] == before[2]
        assert listed[b"here"] == s.node("d/here").ino != moved
        s.check_promises()

    as_user(body)


def test_an_index_is_refused_where_files_cannot_be_opened_by_handle(as_user: AsUser) -> None:
    def body(home: Path) -> None:
        with pytest.raises(StackError, match="CAP_DAC_READ_SEARCH"):
            stacked(home, {}, index=True)

    as_user(body)


def test_removal_and_opaque_directories_by_attributes_of_users(as_user: AsUser) -> None:
    def body(home: Path) -> None:
        s = stacked(home, {"f": "x", "d": {"g": "y"}, "m": {"h": ""}})
        s.unlink("f")
        s.unlink("d/g")
        s.rmdir("d")
        s.mkdir("d", caller=MINE)
        s.rename("m", "moved")
        for _ in range(2):
            assert (s.names(), s.names("d"), s.names("moved")) == (["d", "moved"], [], ["h"])
            s.remount()
        s.check_promises()

    as_user(body)


def test_nothing_can_be_given_to_others(as_user: AsUser) -> None:
    def body(home: Path) -> None:
        s = stacked(home, {"f": "x", "gone": ""})
        s.unlink("gone")
        for act in (
            lambda: s.create("new", caller=ROOT),
            lambda: s.create("gone", caller=ROOT),
            lambda: s.mkdir("gone", caller=ROOT),
            lambda: s.symlink("new", "x", ROOT),
            lambda: s.union.tmpfile(1, 0o600, os.O_RDWR, ROOT),
            lambda: s.setattr("f", uid=0),
            lambda: s.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3)),
        ):
            assert refused(act) == errno.EPERM
        assert s.names() == ["f"]
        assert os.listdir(s.work / "work") in ([], ["#0"])
        s.check_promises()

    as_user(body)


def test_a_file_of_somebody_else_is_not_copied_up_as_ones_own(as_user: AsUser, tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    layer.mkdir()
    (layer / "roots").write_bytes(b"x")
    (layer / "d").mkdir()

    def body(home: Path) -> None:
        s = stacked(home, {})
        s.lowers, lowers = [layer], s.lowers
        s.remount()
        assert refused(lambda: s.setattr("roots", mtime_ns=1)) == errno.EPERM
        assert refused(lambda: s.create("d/new")) == errno.EPERM
        assert s.upper_names() == []
        assert os.listdir(s.work / "work") == []
        s.lowers = lowers
        s.check_promises()

    as_user(body)


def test_with_attributes_the_user_is_root_of_what_he_sees(as_user: AsUser) -> None:
    def body(home: Path) -> None:
        s = stacked(home, {"f": moded(0o644), "gone": "", "l": symlink("f")}, xattr_permissions=2)
        s.unlink("gone")
        s.create("gone", mode=0o4755, caller=ROOT)
        s.mkdir("d", 0o700, Caller(1, 2, 0))
        s.create("d/inner", mode=0, caller=Caller(3, 4, 0))
        s.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3), ROOT)
        s.mknod("fifo", stat.S_IFIFO | 0o600, 0, Caller(5, 6, 0))
        s.symlink("link", "target", ROOT)
        s.setattr("f", uid=7, gid=8, mode=0o2755)
        s.setattr("l", uid=9)
        s.setattr("d", mode=0)
        s.write("d/inner", b"data")
        for _ in range(2):
            looks: dict[str, tuple[int, int, str]] = {
                path: (st.st_uid, st.st_gid, oct(st.st_mode))
                for path in ("gone", "d", "d/inner", "null", "fifo", "f")
                for st in [s.stat(path)]
            }
            assert looks == {
                "gone": (0, 0, "0o104755"),
                "d": (1, 2, "0o40000"),
                "d/inner": (3, 4, "0o100000"),
                "null": (0, 0, "0o20644"),
                "fifo": (5, 6, "0o10600"),
                "f": (7, 8, "0o102755"),
            }
            assert s.stat("null").st_rdev == os.makedev(1, 3)
            assert s.read("d/inner") == b"data"
            s.remount()
        for path in ("gone", "d", "d/inner", "null", "fifo", "f"):
            real = (s.upper / path).lstat()
            assert (real.st_uid, real.st_mode & 0o7000) == (SOMEBODY, 0)
        assert os.getxattr(s.upper / "null", CONTAINERS) == b"0:0:0644:char-1-3"
        for path in ("null", "fifo", "f", "l"):
            s.rename(path, f"{path}.moved")
            s.unlink(f"{path}.moved")
        s.check_promises()

    as_user(body)


def test_attributes_for_root_are_refused_with_a_sentence(as_user: AsUser) -> None:
    def body(home: Path) -> None:
        with pytest.raises(StackError, match="try: xattr_permissions=2"):
            stacked(home, {}, xattr_permissions=1)

    as_user(body)


def test_squashed_to_root(as_user: AsUser) -> None:
    def body(home: Path) -> None:
        s = stacked(home, {"f": "x"}, squash=Squash(0, 0))
        s.create("new", caller=ROOT)
        s.setattr("f", uid=0, gid=0, mode=0o600)
        assert [(s.stat(path).st_uid, s.stat(path).st_gid) for path in ("f", "new", "")] == [(0, 0)] * 3
        assert refused(lambda: s.setattr("f", uid=5)) == errno.EPERM
        assert (s.upper / "new").stat().st_uid == SOMEBODY
        s.check_promises()

    as_user(body)


def test_a_file_that_may_not_be_read_cannot_be_copied_and_stays(as_user: AsUser) -> None:
    def body(home: Path) -> None:
        s = stacked(home, {"f": moded(0o200)})
        assert refused(lambda: s.write("f", b"x")) == errno.EACCES
        assert s.upper_names() == []
        fh = s.open("f", os.O_WRONLY | os.O_TRUNC)
        s.union.write(fh, b"new", 0)
        s.union.setattr(s.id("f"), Changes(mode=0o600))
        assert s.read("f") == b"new"
        s.check_promises()

    as_user(body)


@pytest.mark.parametrize("option", [0, 2])
def test_capabilities_are_copied_up_where_they_can_be_kept(as_user: AsUser, tmp_path: Path, option: int) -> None:
    layer = tmp_path / "layer"
    layer.mkdir()
    (layer / "ping").write_bytes(b"x")
    for path in (layer, layer / "ping"):
        os.chown(path, SOMEBODY, SOMEBODY)
    os.setxattr(layer / "ping", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))

    def body(home: Path) -> None:
        s = stacked(home, {}, xattr_permissions=option)
        s.lowers, lowers = [layer], s.lowers
        s.remount()
        if not option:
            assert refused(lambda: s.setattr("ping", mode=0o755)) == errno.EPERM
            assert s.upper_names() == []
        else:
            s.setattr("ping", mode=0o755)
            assert s.union.listxattr(s.id("ping")) == [b"security.capability"]
        s.lowers = lowers
        s.check_promises()

    as_user(body)
