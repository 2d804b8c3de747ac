"""``[SOURCE] MOUNTPOINT -o ...``: what mount(8), fuse-overlayfs' users and container engines pass."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounting import PATIENCE_S, ROOT, Stack, eventually
from unionfs.linux.mount import Mount, mount, mounts, umount
from unionfs.testing import disk

pytestmark = [pytest.mark.root, pytest.mark.fuse]


def shown(stack: Stack) -> Mount:
    return next(mount for mount in mounts() if mount.mountpoint == str(stack.merged))


def test_what_podman_passes(dirs: Stack) -> None:
    """Empty elements, a map with a leading colon, options for others, layers that are symlinks."""
    (dirs.directory / "l").mkdir()
    (dirs.directory / "l" / "ABC").symlink_to("../top")
    (dirs.directory / "l" / "DEF").symlink_to("../base")
    options = f"lowerdir=l/ABC:l/DEF,upperdir={dirs.upper},workdir={dirs.work},,private,volatile,noacl,nodev,fsync=0,"
    done = dirs.run("-o", options, dirs.merged, program="overlay", cwd=dirs.directory)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(os.listdir(dirs.merged)) == ["base", "directory", "top"]
    assert dirs.record()["lower"] == [str(dirs.top), str(dirs.base)]


def test_without_an_upperdir_it_is_read_only(dirs: Stack) -> None:
    done = dirs.run(dirs.merged, "-o", f"lowerdir={dirs.top}:{dirs.base}", program="overlay")
    assert (done.returncode, done.stderr) == (0, "")
    with pytest.raises(OSError, match="Read-only file system"):
        (dirs / "new").touch()
    assert "ro" in shown(dirs).options.split(",")


def test_unknown_options_are_warned_about(dirs: Stack) -> None:
    done = dirs.run("-o", f"{dirs.options},sparkle", "--shiny", dirs.merged, program="overlay")
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "unionfs: warning: unknown option 'sparkle' is ignored",
        "unionfs: warning: unknown argument '--shiny' is ignored",
    ]


def test_flags_and_options_stand_anywhere_and_options_come_twice(dirs: Stack) -> None:
    layers = dirs.options.split(",")
    done = dirs.run("-o", layers[0], "a source", dirs.merged, f"-o{','.join(layers[1:])}", "-o", "noatime", "-n")
    assert (done.returncode, done.stderr) == (0, "")
    mount = shown(dirs)
    assert (mount.source, mount.type) == ("a source", "fuse.unionfs")
    assert "noatime" in mount.options.split(",")


@pytest.mark.parametrize("name", ["co:lon", "com,ma", "back\\slash", " space\n", "\udcff", "a=b", '"quoted"'])
def test_layers_of_any_name(dirs: Stack, name: str) -> None:
    (dirs.directory / name).mkdir()
    (dirs.directory / name / "found").touch()
    path = str(dirs.directory / name)
    for character in "\\:,":
        path = path.replace(character, f"\\{character}")
    done = dirs.run(dirs.merged, "-o", f"lowerdir={path}", program="overlay")
    assert (done.returncode, done.stderr) == (0, "")
    assert os.listdir(dirs.merged) == ["found"]


def test_the_names_of_a_mount(stack: Stack) -> None:
    stack.mount_overlay(r",fsname=my\,files,subtype=mine")
    assert (shown(stack).source, shown(stack).type) == ("my,files", "fuse.mine")
    assert stack.record()["state"] == "live"
    stack.unmount()


FLAGS = ["nodev", "nosuid", "noexec", "sync", "dirsync", "noatime", "nodiratime"]


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_is_honoured(stack: Stack, flag: str) -> None:
    stack.mount_overlay(f",{flag}")
    assert flag in f"{shown(stack).options},{shown(stack).super_options}".split(",")


SHOWN = {
    "rw": "rw",
    "dev": "rw",
    "suid": "rw",
    "exec": "rw",
    "ro": "ro",
    "atime": "relatime",
    "relatime": "relatime",
    "strictatime": "rw",
    "allow_other": "allow_other",
    "default_permissions": "default_permissions",
}


@pytest.mark.parametrize(("option", "word"), SHOWN.items())
def test_a_word_of_mount_8_is_accepted_and_shown(stack: Stack, option: str, word: str) -> None:
    done = stack.run("-o", f"{stack.options},{option}", stack.merged, program="overlay")
    assert (done.returncode, done.stderr) == (0, "")
    words = f"{shown(stack).options},{shown(stack).super_options}".split(",")
    assert word in words
    assert not {"nodev", "nosuid", "noexec"} & set(words)


def test_noexec_and_ro_are_honoured(stack: Stack) -> None:
    script = stack.top / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    stack.mount_overlay(",exec")
    assert subprocess.run([stack / "script"], check=False).returncode == 0
    assert stack.run(stack.merged, "-o", "ro,remount,noexec", program="overlay").returncode == 0
    with pytest.raises(PermissionError):
        subprocess.run([stack / "script"], check=False)
    with pytest.raises(OSError, match="Read-only file system"):
        (stack / "new").touch()


@pytest.fixture
def memories(tmp_path: Path) -> Iterator[list[Path]]:
    """Return two file systems, each with one file and one directory; they have the same numbers on both."""
    places = [tmp_path / "memory0", tmp_path / "memory1"]
    for place in places:
        place.mkdir()
        mount("tmpfs", str(place), "tmpfs", 0, "size=1m")
        (place / f"file-{place.name}").write_text(place.name)
        (place / f"directory-{place.name}" / "inside").mkdir(parents=True)
    yield places
    for place in places:
        umount(str(place))


@pytest.mark.parametrize("xino", ["on", "off", "auto"])
def test_numbers_are_unique_over_two_file_systems(stack: Stack, memories: list[Path], xino: str) -> None:
    """With one st_dev and one st_ino two files would be hard links of each other to tar and rsync."""
    real = [(place / f"{kind}-{place.name}").stat().st_ino for place in memories for kind in ("file", "directory")]
    assert real[:2] == real[2:], "the numbers of the layers collide"
    options = f"lowerdir={memories[0]}:{memories[1]},upperdir={stack.upper},workdir={stack.work},xino={xino}"
    done = stack.run("-o", f"{options},engine={stack.engine}", stack.merged, program="overlay")
    assert (done.returncode, done.stderr) == (0, "")
    names = sorted(os.listdir(stack.merged))
    numbers = {name: (stack / name).stat().st_ino for name in names}
    assert len(set(numbers.values())) == len(names) == 4
    assert {entry.name: entry.inode() for entry in os.scandir(stack.merged)} == numbers
    for name in names:
        (stack / name).chmod(0o700)
    assert {name: (stack / name).stat().st_ino for name in names} == numbers, "they outlive a copy-up"
    assert [(stack / f"file-{place.name}").read_text() for place in memories] == ["memory0", "memory1"]
    stack.unmount()


def test_static_nlink_shows_one_link_of_each_directory(stack: Stack, memories: list[Path]) -> None:
    """Else a directory of one layer shows its real count, where its file system keeps one."""
    lower = memories[0]
    os.link(lower / "file-memory0", lower / "second")
    for options, shown_links in (("", 3), (",static_nlink", 1)):
        layers = f"lowerdir={lower}:{memories[1]},upperdir={stack.upper},workdir={stack.work},engine={stack.engine}"
        done = stack.run("-o", f"{layers}{options}", stack.merged, program="overlay")
        assert (done.returncode, done.stderr) == (0, "")
        assert (stack / "directory-memory0").stat().st_nlink == shown_links
        assert (stack / "second").stat().st_nlink == 2, "a file's links are counted"
        stack.unmount()


def test_root_lets_others_in_and_honours_devices_and_set_id(stack: Stack) -> None:
    stack.mount_overlay()
    mount = shown(stack)
    assert not {"nodev", "nosuid"} & set(mount.options.split(","))
    assert {"allow_other", "default_permissions"} <= set(mount.super_options.split(","))


def test_remount(stack: Stack) -> None:
    stack.mount_overlay(",nosuid")
    done = stack.run(stack.merged, "-o", "remount,ro", program="overlay")
    assert (done.returncode, done.stderr) == (0, "")
    assert {"ro", "nosuid"} <= set(shown(stack).options.split(","))
    with pytest.raises(OSError, match="Read-only file system"):
        (stack / "new").touch()
    assert stack.run("mount", "-o", "remount,rw", stack.merged).returncode == 0  # the other form has it as well
    with (stack / "new").open("w"):
        done = stack.run(stack.merged, "-o", "remount,ro", program="overlay")
    assert done.returncode == 1
    assert "cannot be remounted; because of Device or resource busy; try: close what is open for writing" in done.stderr


def test_mount8_names_what_is_to_stay_and_nothing_else(dirs: Stack) -> None:
    """``mount -o remount,exec`` comes with a SOURCE, with all flags that the mount had, and without a word of exec."""
    dirs.mount_overlay(",noexec,nosuid,nodev,nosymfollow,sync")
    assert {"noexec", "nosuid", "nodev", "nosymfollow"} <= set(shown(dirs).options.split(","))
    (dirs.upper / "link").symlink_to("top")
    with pytest.raises(OSError, match="symbolic links"):
        (dirs / "link").read_text()
    kept = "rw,nosuid,nodev,nosymfollow,relatime,remount,sync,user_id=0,group_id=0,default_permissions,allow_other"
    assert dirs.run("none", dirs.merged, "-o", kept, program="overlay").returncode == 0
    assert shown(dirs).options == "rw,nosuid,nodev,relatime,nosymfollow"
    assert "sync" in shown(dirs).super_options.split(",")
    assert dirs.run("none", dirs.merged, "-o", "rw,relatime,remount", program="overlay").returncode == 0
    assert shown(dirs).options == "rw,relatime"
    assert (dirs / "link").read_text() == "top\n"


def test_what_is_no_union_is_not_remounted(dirs: Stack) -> None:
    with disk.in_memory() as memory:
        done = dirs.run(memory, "-o", "remount,ro", program="overlay")
        assert done.returncode == 1
        assert "cannot be remounted; because what is mounted there is tmpfs" in done.stderr
        (memory / "new").touch()


def test_what_is_not_named_stays(dirs: Stack) -> None:
    dirs.mount_overlay(",nosuid,sync")
    assert dirs.run(dirs.merged, "-o", "remount,noexec", program="overlay").returncode == 0
    assert {"nosuid", "noexec"} <= set(shown(dirs).options.split(","))
    assert "sync" in shown(dirs).super_options.split(",")


def test_what_was_mounted_read_only_cannot_become_writable(dirs: Stack) -> None:
    """Its upper layer was not even locked, so another mount may have it by now."""
    dirs.mount_overlay(",ro")
    done = dirs.run(dirs.merged, "-o", "remount,rw", program="overlay")
    assert done.returncode == 1
    assert "because it was mounted ro" in done.stderr
    with pytest.raises(OSError, match="Read-only file system"):
        (dirs / "new").touch()


@pytest.mark.parametrize("word", ["sync", "dirsync"])
def test_what_was_mounted_without_syncing_is_not_said_to_sync(dirs: Stack, word: str) -> None:
    """The daemon would not know, and the list of mounts would show what nobody does."""
    dirs.mount_overlay()
    done = dirs.run(dirs.merged, "-o", f"remount,{word}", program="overlay")
    assert done.returncode == 1
    assert f"{word} cannot be added; because it was mounted without; try: unmount, then mount" in done.stderr
    dirs.unmount()
    dirs.mount_overlay(f",{word}")
    assert dirs.run(dirs.merged, "-o", f"remount,{word},nosuid", program="overlay").returncode == 0
    assert {word, "nosuid"} <= set(f"{shown(dirs).options},{shown(dirs).super_options}".split(","))


@pytest.mark.parametrize(
    ("had", "asked"),
    [
        ("", "noatime"),
        ("", "strictatime"),
        ("", "nodiratime"),
        ("noatime", "atime"),
        ("strictatime", "relatime"),
        ("nodiratime", "diratime"),
    ],
)
def test_access_times_stay_as_they_were_mounted(dirs: Stack, had: str, asked: str) -> None:
    """As with syncing. What was mounted may be said again, for mount(8) does."""
    dirs.mount_overlay(f",{had}")
    before = shown(dirs).options.split(",")
    done = dirs.run(dirs.merged, "-o", f"remount,{asked}", program="overlay")
    assert done.returncode == 1
    assert f"{asked} cannot be added; because it was mounted without; try: unmount, then mount" in done.stderr
    again = ",".join(["remount", *before, "noexec"])
    assert dirs.run(dirs.merged, "-o", again, program="overlay").returncode == 0
    assert shown(dirs).options.split(",") == [before[0], "noexec", *before[1:]]


def test_debug_shows_each_request(stack: Stack) -> None:
    command = stack.command(stack.merged, "-d", "-o", stack.options, program="overlay")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        eventually(stack.is_mounted)
        (stack / "directory").rmdir()
        stack.unmount()
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert "DEBUG: lookup" in said
    assert "DEBUG: rmdir" in said


def test_mount_8_with_our_helper(stack: Stack, tmp_path: Path) -> None:
    """mount(8) runs /sbin/mount.fuse.unionfs; here from a mount namespace that has one."""
    helper = tmp_path / "sbin" / "mount.fuse.unionfs"
    helper.parent.mkdir()
    words = " ".join(f"'{word}'" for word in stack.command(program="overlay"))
    helper.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    helper.chmod(0o755)
    script = (
        'mount --bind "$1" /usr/sbin && mount -t fuse.unionfs -o "$2" src "$3" && ls "$3" && grep "$3" /proc/mounts; '
        'umount "$3"'
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(helper.parent), stack.options, str(stack.merged)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stderr == ""
    assert done.stdout.split()[:5] == ["base", "directory", "top", "src", str(stack.merged)]


def test_a_fraction_of_a_second_is_not_cut_off(stack: Stack) -> None:
    """With the fraction cut off, the kernel would ask each time: here it asks again, but not each time."""
    stack.mount_overlay(",timeout=0.5")

    def asked() -> int:
        shown = json.loads(stack.run("mounts", "--json", "--stats", stack.merged).stdout)
        counts: dict[str, int] = shown[0]["stats"]["requests"]
        return sum(counts.get(name, 0) for name in ("lookup", "getattr", "statx"))

    before = asked()
    for _ in range(1000):
        (stack / "base").stat()
    assert asked() - before < 500

    def asks_again() -> bool:
        known = asked()
        (stack / "base").stat()
        return asked() > known

    eventually(asks_again)


def test_version_and_help(dirs: Stack) -> None:
    for flag in ("--version", "-V"):
        assert dirs.run(flag, program="overlay").stdout.startswith("unionfs ")
    assert dirs.run("--help", program="overlay").stdout.startswith("usage: unionfs-overlay")
