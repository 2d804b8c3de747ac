"""SIGKILL at every step of every change: the next command opens the store, finds it sound, and goes on.

A child runs the whole life of an image: load, unpack, name, container, remove, collect. It kills itself
at its n-th step, for each n there is; steps are the system calls that change names or attributes, and
the commits of the database.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.oci.conftest import BASE, CHANGE
from tests.oci.making import image_of
from unionfs.linux import fileops
from unionfs.oci import database, gc
from unionfs.oci.containers import Containers
from unionfs.oci.database import Database
from unionfs.oci.images import Images
from unionfs.oci.load import load
from unionfs.oci.make import Note, commit
from unionfs.oci.reference import Reference
from unionfs.oci.save import save
from unionfs.oci.snapshots import Snapshots
from unionfs.oci.verify import check

STEPS = {"os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.link", "os.symlink", "os.chmod", "os.utime"}
NAME = Reference.parse("app:2")


def bring(root: Path, archive: Path) -> None:
    """Load, unpack, name, and make a container."""
    images = Images(root)
    snapshots = Snapshots.of(images)
    with images.using():
        (image,) = load(images, archive)
        chain = snapshots.ensure(image.layers)
        images.tag(image, NAME)
    Containers(images).ensure("work", image, snapshots.merged(chain).root.entry)


def take_away(root: Path, _archive: Path) -> None:
    """Remove the container, the image, and the garbage."""
    images = Images(root)
    containers = Containers(images)
    for container in containers.all():
        containers.remove(container)
    for image in images.all():
        images.drop(image)
    gc.collect(images)


def run_until(step: int, work: Callable[[], object]) -> bool:
    """Run *work* in a child that dies at its step number *step*; True if it did not get so far."""
    pid = os.fork()
    if pid == 0:
        _count_down(step)
        try:
            work()
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in {0, -signal.SIGKILL}
    return status == 0


def _count_down(left: int) -> None:
    def at_step(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(lambda event, args: at_step() if event in STEPS else None)
    original = Database.changing

    @contextmanager
    def changing(self: Database) -> Iterator[object]:
        with original(self) as connection:
            yield connection
            at_step()  # before the commit
        at_step()  # after it

    Database.changing = changing  # type: ignore[method-assign, assignment]  # the fault


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    images = Images(tmp_path / "source")
    image = image_of(images, [BASE, CHANGE], "app:1")
    with (tmp_path / "app.tar").open("wb") as file:
        save(images.blobs, [(image, image.names)], "oci-archive", file)
    return tmp_path / "app.tar"


def unsound(root: Path) -> list[str]:
    """Return what is wrong; the layout's index may be a step behind the database, until the next change."""
    return [f"{p.kind} {p.name}: {p.what}" for p in check(Images(root)) if not p.harmless and p.kind != "index"]


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave syncing out: it is for power cuts, and SIGKILL loses nothing that the kernel has."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    monkeypatch.setattr(fileops, "syncfs", lambda _fd: None)
    monkeypatch.setattr(database, "SYNCHRONOUS", "OFF")


@pytest.mark.slow
@pytest.mark.parametrize("work", [bring, take_away])
def test_killed_at_every_step(tmp_path: Path, archive: Path, work: Callable[[Path, Path], None], fast: None) -> None:
    root, step, is_done = tmp_path / "store", 0, False
    while not is_done:
        step += 1
        (bring if work is take_away else take_away)(root, archive)
        is_done = run_until(step, lambda: work(root, archive))
        assert unsound(root) == [], f"after step {step}"
        check(Images(root), repair=True)  # a container of which the database knows nothing more, or nothing yet
        work(root, archive)
        assert unsound(root) == [], f"after step {step} and again"
        assert bool(os.listdir(root / "containers")) == (work is bring), f"after step {step} and again"
    assert step > 10
    take_away(root, archive)
    assert gc.garbage(Images(root)) == []


def with_changes(root: Path, archive: Path) -> Path:
    """Bring an image and a container into a store that holds neither; return a file that was changed."""
    take_away(root, archive)
    bring(root, archive)
    changed = Containers(Images(root)).find("work").upper / "new"
    changed.write_bytes(b"the user's")
    return changed


@pytest.mark.slow
def test_a_repair_killed_at_every_step_loses_nothing(tmp_path: Path, archive: Path, fast: None) -> None:
    root, step, is_done = tmp_path / "store", 0, False
    names = ["docker.io/library/app:1", "docker.io/library/app:2"]
    while not is_done:
        step += 1
        changed = with_changes(root, archive)
        os.truncate(root / "unionfs.db", 5000)
        is_done = run_until(step, lambda: check(Images(root), repair=True))
        check(Images(root), repair=True)
        assert unsound(root) == [], f"after step {step}"
        gc.collect(Images(root), partial=True)
        assert changed.read_bytes() == b"the user's", f"after step {step}"
        assert [str(name) for name in Images(root).all()[0].names] == names, f"after step {step}"
        assert [each.name for each in Containers(Images(root)).all()] == ["work"], f"after step {step}"
    assert step > 10


@pytest.mark.slow
def test_a_commit_killed_at_every_step_is_whole_or_nothing(tmp_path: Path, archive: Path, fast: None) -> None:
    root, step, is_done = tmp_path / "store", 0, False

    def work() -> None:
        images = Images(root)
        container = Containers(images).find("work")
        with images.using():
            base = images.by_manifest(container.image)
            commit(images, base, container.upper, Note(created_by="test"), Reference.parse("changed:1"))

    while not is_done:
        step += 1
        with_changes(root, archive)
        is_done = run_until(step, work)
        assert unsound(root) == [], f"after step {step}"
        work()
        gc.collect(Images(root))
        image = Images(root).find("changed:1")
        assert len(image.layers) == 3
        assert unsound(root) == [], f"after step {step} and again"
        assert gc.garbage(Images(root)) == []
    assert step > 5


def test_two_processes_unpack_a_layer_once(tmp_path: Path) -> None:
    images = Images(tmp_path / "store")
    image = image_of(images, [BASE, CHANGE], "app:1")
    made = tmp_path / "made"
    made.mkdir()

    def unpack() -> None:
        snapshots = Snapshots.of(Images(tmp_path / "store"))
        snapshots.ensure(image.layers, lambda layer, what: (made / f"{what}-{os.getpid()}-{layer.diff_id.hex}").touch())

    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                unpack()
            finally:
                os._exit(0 if sys.exc_info()[0] is None else 1)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    assert len(list(made.glob("unpacked-*"))) == 2
    assert unsound(tmp_path / "store") == []
