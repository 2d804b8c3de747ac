"""Images have names and ids, and what nothing leads to is collected."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.oci.archives import archive_of, file, hard_link
from tests.oci.conftest import BASE, CHANGE
from tests.oci.making import image_of
from unionfs.errors import ImageError, NoSuchImage
from unionfs.linux.flock import Lock
from unionfs.oci import gc
from unionfs.oci.accounting import account, layers
from unionfs.oci.containers import Containers
from unionfs.oci.digest import Digest
from unionfs.oci.images import Image, Images
from unionfs.oci.model import OCI_MANIFEST, Descriptor
from unionfs.oci.reference import Reference
from unionfs.oci.snapshots import Snapshots
from unionfs.oci.store import MissingBlob


def test_an_image_is_found_by_each_of_its_names(images: Images, base: Image) -> None:
    images.tag(base, Reference.parse("quay.io/team/base:latest"))
    digest = base.descriptor.digest
    for text in ("base:1", "docker.io/library/base:1", "quay.io/team/base", f"base@{digest}", base.id, base.id.hex):
        assert images.find(text).descriptor == base.descriptor
    assert images.find(base.id.short).names == (Reference.parse("base:1"), Reference.parse("quay.io/team/base"))
    for text in ("base", "base:2", "feedbeef", f"other@{digest}", "UPPER", "../x"):
        with pytest.raises(NoSuchImage):
            images.find(text)


def test_the_beginning_of_an_id_must_be_long_enough(images: Images) -> None:
    made = [image_of(images, [BASE], f"a:{n}") for n in range(1)]
    by_start: dict[str, int] = {}
    for number in range(20):
        config = image_of(images, [BASE, CHANGE + bytes(512 * number)])
        by_start[config.id.hex[0]] = by_start.get(config.id.hex[0], 0) + 1
    crowded = next(start for start, count in by_start.items() if count > 1)
    with pytest.raises(ImageError, match="beginning of"):
        images.find(crowded)
    assert images.find(made[0].id.hex[:20]).id == made[0].id


def test_a_name_moves_and_leaves_a_nameless_image(images: Images, base: Image) -> None:
    other = image_of(images, [BASE, CHANGE], "base:1")
    assert images.find("base:1").id == other.id
    assert [image.names for image in images.all()] == [(Reference.parse("base:1"),), ()]
    assert images.find(base.id.short).names == ()


def test_an_image_that_is_not_whole_is_not_added(images: Images, base: Image) -> None:
    images.blobs.delete(base.layers[0].blob.digest)
    with pytest.raises(MissingBlob):
        images.add(base.descriptor, Reference.parse("again:1"))
    with pytest.raises(NoSuchImage):
        images.find("again:1")


def test_a_manifest_that_is_none_is_not_added(images: Images) -> None:
    digest = images.blobs.put(b"{}")
    with pytest.raises(ImageError):
        images.add(Descriptor(media_type=OCI_MANIFEST, digest=digest, size=2))
    assert images.all() == []


def test_garbage_is_what_no_image_leads_to(images: Images, base: Image, app: Image) -> None:
    snapshots = Snapshots.of(images)
    snapshots.ensure(app.layers)
    assert gc.garbage(images) == []
    images.blobs.put(b"nobody knows me")
    (images.root / "staging" / "crashed").mkdir()
    images.drop(app)
    kinds = [item.kind for item in gc.garbage(images)]
    assert sorted(kinds) == ["blob"] * 4 + ["index", "layer", "staging"]
    assert [item.kind for item in gc.collect(images) or ()] == kinds
    assert gc.garbage(images) == []
    assert snapshots.has(base.layers[0].chain_id)
    assert images.find("base:1").size > 0


def test_shared_layers_stay_as_long_as_one_image_has_them(images: Images, base: Image, app: Image) -> None:
    Snapshots.of(images).ensure(app.layers)
    assert [(row.images, row.chain_id) for row in layers(images)] == [
        (2, base.layers[0].chain_id),
        (1, app.layers[1].chain_id),
    ]
    images.drop(base)
    gc.collect(images)
    assert [row.images for row in layers(images)] == [1, 1]
    images.drop(app)
    gc.collect(images)
    assert layers(images) == []
    assert list(images.blobs) == []


def test_nothing_is_collected_while_an_image_is_being_added(images: Images, base: Image) -> None:
    images.drop(base)
    with images.using():
        assert gc.collect(images, wait=False) is None
        assert images.blobs.has(base.id)
    assert gc.collect(images, wait=False)


def test_a_container_keeps_its_image(images: Images, base: Image) -> None:
    snapshots = Snapshots.of(images)
    root = snapshots.merged(snapshots.ensure(base.layers)).root.entry
    containers = Containers(images)
    container = containers.ensure("work", base, root)
    assert containers.ensure("work", base, root) == containers.find("work")
    with pytest.raises(ImageError, match="in use"):
        images.drop(base)
    with pytest.raises(ImageError, match="another image"):
        containers.ensure("work", image_of(images, [BASE, CHANGE]), root)
    with pytest.raises(ImageError, match="cannot be the name"):
        containers.ensure("../x", base, root)
    containers.remove(container)
    images.drop(base)
    assert not container.directory.exists()


def test_a_mount_keeps_its_image_until_its_holder_is_gone(images: Images, base: Image) -> None:
    containers = Containers(images)
    lock = containers.mount(base, None, images.root / "mnt")
    assert [mount.image for mount in containers.mounted()] == [base.descriptor.digest]
    with pytest.raises(ImageError, match="in use"):
        images.drop(base)
    lock.release()
    assert containers.mounted() == []
    images.drop(base)


def test_readers_and_a_writer_do_not_wait_for_each_other(images: Images, app: Image) -> None:
    """The database is in WAL mode: a reader sees the state from before a change, and all of the change after it."""
    with images.database.changing() as db:
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        db.execute("DELETE FROM names")
        assert Images(images.root).find("app:1") == app
        with images.database.reading() as other:
            before = other.execute("SELECT name FROM names").fetchall()
            db.execute("COMMIT")
            assert other.execute("SELECT name FROM names").fetchall() == before != [], "one state for the whole block"
            db.execute("BEGIN")
    with pytest.raises(NoSuchImage):
        images.find("app:1")


def test_a_change_that_fails_is_none(images: Images, app: Image) -> None:
    def fail() -> None:
        with images.database.changing() as db:
            db.execute("DELETE FROM names")
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert images.find("app:1") == app


def test_uses_of_layers_are_counted(images: Images, base: Image, app: Image) -> None:
    Snapshots.of(images).ensure(app.layers)
    assert {row.chain_id: row.images for row in layers(images)} == {
        str(app.layers[0].chain_id): 2, str(app.layers[1].chain_id): 1,
    }  # fmt: skip
    images.drop(base)
    assert [row.images for row in layers(images)] == [1, 1]


def test_every_byte_is_accounted_for(images: Images, base: Image, app: Image) -> None:
    Snapshots.of(images).ensure(app.layers)
    images.blobs.put(b"garbage" * 1000)
    images.drop(base)
    rows = account(images)
    assert sum(row.size for row in rows) == gc.tree_size(images.root)
    blobs = rows[0]
    assert (blobs.kind, blobs.count - blobs.active) == ("Blobs", 3)
    assert blobs.reclaimable >= 7000


def test_a_tree_as_deep_as_can_be_is_accounted_for_and_collected(tmp_path: Path) -> None:
    """Its paths are good in the layer, and longer than PATH_MAX below the store."""
    images = Images(tmp_path / ("s" * 200) / "store")
    deep = "/".join("d" * 2000)[:3990]
    image = image_of(images, [archive_of(file(f"{deep}/f", b"x" * 5000), hard_link("g", f"{deep}/f"))], "deep:1")
    Snapshots.of(images).ensure(image.layers)
    du = subprocess.run(["du", "-s", "-B512", images.root], check=True, capture_output=True, text=True).stdout
    assert sum(row.size for row in account(images)) == gc.tree_size(images.root) == int(du.split()[0]) * 512
    images.drop(image)
    assert {item.kind for item in gc.collect(images) or ()} == {"blob", "layer", "index"}
    assert gc.garbage(images) == []


@pytest.mark.skipif(not shutil.which("skopeo"), reason="needs skopeo")
def test_the_store_itself_is_an_image_layout(images: Images, app: Image) -> None:
    command = ["skopeo", "inspect", "--format", "{{.Digest}}", f"oci:{images.root}:1"]
    images.untag(Reference.parse("base:1"))
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == app.descriptor.digest


def test_locks_of_one_store_exclude_each_other(images: Images) -> None:
    path = images.root / "locks" / "store"
    with images.using(), images.using():
        assert not Lock(path).acquire(wait=False)
    alone = Lock(path)
    assert alone.acquire(wait=False)
    assert not Lock(path, shared=True).acquire(wait=False)
    alone.release()


def test_a_digest_is_text() -> None:
    assert Digest.of(b"").startswith("sha256:")
