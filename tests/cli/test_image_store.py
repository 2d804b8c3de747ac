"""The store where it is hard: a full disk, and many commands at once."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.test_image_mounts import Store
from tests.mounting import ROOT
from tests.oci.archives import archive_of, directory, file
from tests.oci.conftest import BASE, CHANGE
from tests.oci.making import image_of
from unionfs.oci.images import Images
from unionfs.oci.save import save

pytestmark = [pytest.mark.root, pytest.mark.fuse]


@pytest.fixture
def unionfs(tmp_path: Path) -> Iterator[Store]:
    """Return a program whose store is not there yet."""
    store = Store(tmp_path)
    yield store
    store.unmount_all()


def archive(directory: Path, name: str, layers: list[bytes]) -> Path:
    """Write an image that is to be loaded to a file."""
    source, path = Images(directory / "source"), directory / f"{name}.tar"
    image = image_of(source, layers, f"{name}:1")
    with path.open("wb") as written:
        save(source.blobs, [(image, image.names)], "oci-archive", written)
    return path


@pytest.mark.parametrize("size", [64, 512, 2000])
def test_a_load_onto_a_full_disk_leaves_nothing_and_succeeds_with_room(unionfs: Store, size: int) -> None:
    """Whatever it is that does not fit: the database, or less or more of the layer."""
    content = os.urandom(900_000) * 3
    path = archive(unionfs.directory, "app", [archive_of(directory("."), file("big", content)), CHANGE])
    unionfs.root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", unionfs.root], check=True)
    told = unionfs("load", "-q", "-i", path, status=1)
    assert "No space left on device; " in told
    assert told.startswith("unionfs: error: ")
    assert told.count("\n") == 1
    subprocess.run(["mount", "-o", "remount,size=32m", unionfs.root], check=True)
    assert unionfs("images", "-a", "-q") == ""
    unionfs("check")
    unionfs("load", "-q", "-i", path)
    assert unionfs("cat", "app:1:/var/new") == "new"
    unionfs("check")


@contextmanager
def disk(place: Path, size: str) -> Iterator[None]:
    """Have a disk of that size on *place*."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_an_import_onto_a_disk_of_any_size_leaves_nothing_staged(unionfs: Store) -> None:
    """Whatever does not fit, down to the index of the layer and the transaction at the end."""
    path = unionfs.directory / "root.tar"
    path.write_bytes(archive_of(directory("."), file("big", os.urandom(100_000))))
    unionfs.root.mkdir()
    sizes, failed = range(60, 420, 40), 0
    for size in sizes:
        with disk(unionfs.root, f"{size}k"):
            done = unionfs.run("import", path, "app:1")
            failed += done.returncode
            if done.returncode:
                assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
                assert "No space left on device; " in done.stderr
            subprocess.run(["mount", "-o", "remount,size=32m", unionfs.root], check=True)
            staging = unionfs.root / "staging"
            assert not staging.exists() or os.listdir(staging) == []
            unionfs("import", path, "app:1")
            unionfs("check")
    assert 0 < failed < len(sizes)


MANY = """
import random, subprocess, sys
from unionfs.cli.main import main

number, path, mnt = int(sys.argv[1]), sys.argv[2], sys.argv[3]
choices = random.Random(number)
mine, shared = f"mine{number}:1", "app:1"
commands = [
    ["load", "-q", "-i", path], ["tag", shared, mine], ["ls", "-R", shared], ["images"], ["rmi", mine],
    ["rmi", "-f", shared], ["prune", "--all", "-f"], ["mount", shared, mnt], ["umount", mnt], ["check"], ["df"],
    ["mount", "--rw", "box", shared, mnt], ["commit", "box", mine], ["rm", "box"], ["save", "-o", mnt + ".tar", shared],
    ["import", mnt + ".root", "new:1"], ["export", "-o", mnt + ".root", "box"], ["which", shared + ":/etc/passwd"],
]
if number == 0:
    commands = [["check"], ["check", "--quick"]]
sys.argv[0] = "unionfs"
done = 0
for _ in range(30):
    command = choices.choice(commands)
    status = main(command)
    done += status == 0
    if command[0] == "check" and status:
        sys.exit("a check beside other commands has found a problem")
print(done)
"""


def test_many_commands_at_once_leave_a_sound_store(unionfs: Store) -> None:
    path = archive(unionfs.directory, "app", [BASE, CHANGE])
    unionfs("load", "-q", "-i", path)
    started = []
    for number in range(8):
        mountpoint = unionfs.directory / f"mnt{number}"
        mountpoint.mkdir()
        command = [sys.executable, "-c", MANY, str(number), str(path), str(mountpoint)]
        started.append(
            subprocess.Popen(
                command, env=unionfs.environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        )
    told = [process.communicate(timeout=60) for process in started]
    assert [process.returncode for process in started] == [0] * 8
    for out, errors in told:
        assert "Traceback" not in errors
        assert all(line.startswith("unionfs: error: ") for line in errors.splitlines()), errors
        assert int(out.splitlines()[-1]) > 0
    unionfs("check")
