"""SIGKILL at every step of every change: the next command opens the store, finds it sound, and goes on.

A child runs the whole life of an image: load, unpack, name, container, remove, collect. It dies at its
n-th step, for each n there is.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.oci.conftest import BASE, CHANGE
from tests.oci.crashing import run_until, unsound
from tests.oci.making import image_of
from unionfs.oci import gc
from unionfs.oci.containers import Containers
from unionfs.oci.images import Images
from unionfs.oci.load import load
from unionfs.oci.reference import Reference
from unionfs.oci.snapshots import Snapshots
from unionfs.oci.verify import check

NAME = Reference.parse("app:2")


def bring(root: Path, archive: Path) -> None:
    """Load, unpack, name, and make a container."""
    images = Images(root)
    snapshots = Snapshots.of(images)
    with images.using():
        ((image, _),) = load(images, archive)
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
