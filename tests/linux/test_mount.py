"""mount(2) and the kernel's list of mounts, with names that need escapes."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from unionfs.linux.ids import CAP_SYS_ADMIN, has_capability, is_initial_user_namespace
from unionfs.linux.mount import MNT_DETACH, Mount, flag_bits, mount, mounts, parse_mountinfo, umount

pytestmark = pytest.mark.root


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    where = tmp_path / "space tab\tnewline\nback\\slash \udcff #"
    where.mkdir()
    yield where
    while any(entry.mountpoint == str(where) for entry in mounts()):
        umount(str(where), MNT_DETACH)


def shown(where: Path) -> Mount:
    return next(entry for entry in mounts() if entry.mountpoint == str(where))


def test_what_is_mounted_is_listed_under_the_name_it_was_mounted_on(mountpoint: Path) -> None:
    mount("a source", str(mountpoint), "tmpfs", flag_bits(["nosuid", "nodev", "noexec"]), "size=64k")
    entry = shown(mountpoint)
    assert (entry.type, entry.source, entry.root) == ("tmpfs", "a source", "/")
    assert {"rw", "nosuid", "nodev", "noexec"} <= set(entry.options.split(","))
    assert "size=64k" in entry.super_options.split(",")
    device = os.stat(mountpoint).st_dev
    assert entry.device == f"{os.major(device)}:{os.minor(device)}"


def test_a_busy_mount_can_only_be_detached(mountpoint: Path) -> None:
    mount("tmpfs", str(mountpoint), "tmpfs", 0, "size=64k")
    with (mountpoint / "open").open("w"):
        with pytest.raises(OSError, match="busy"):
            umount(str(mountpoint))
        umount(str(mountpoint), MNT_DETACH)
    assert not os.path.ismount(mountpoint)


def test_an_error_names_the_target(mountpoint: Path) -> None:
    with pytest.raises(OSError, match="Invalid argument") as caught:
        umount(str(mountpoint))
    assert caught.value.filename == str(mountpoint)


def test_optional_fields_may_be_absent_or_many() -> None:
    lines = [
        "22 27 0:21 / /proc rw shared:5 master:2 propagate_from:1 - proc proc rw\n",
        "23 27 0:22 / /sys rw - sysfs sysfs rw,seclabel\n",
    ]
    assert [entry.type for entry in parse_mountinfo(lines)] == ["proc", "sysfs"]


def test_root_of_this_machine_may_mount() -> None:
    assert has_capability(CAP_SYS_ADMIN)
    assert isinstance(is_initial_user_namespace(), bool)
