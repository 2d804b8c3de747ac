"""Images of our own: from a root file system, from a container's changes; and back to a tar."""

import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.oci.archives import archive_of, directory, file, names, opened, packed, unpacked
from tests.oci.conftest import BASE
from tests.oci.making import image_of
from tests.oci.test_breakouts import REFUSED
from unionfs.errors import BadMark, ConfigError, ImageError
from unionfs.oci import gc
from unionfs.oci.containers import Container, Containers
from unionfs.oci.convert import DIALECTS, convert
from unionfs.oci.digest import Digest
from unionfs.oci.form import RootForm
from unionfs.oci.images import Image, Images
from unionfs.oci.make import Note, commit, export, import_root
from unionfs.oci.model import OCI_LAYER, OCI_LAYER_GZIP, RunConfig
from unionfs.oci.reference import Reference
from unionfs.oci.scan import scan
from unionfs.oci.snapshots import Snapshots, remove_path
from unionfs.oci.verify import check

NOTE = Note(created_by="a test", comment="c", author="me")


def exported(images: Images, image: Image, upper: Path | None = None) -> dict[str, bytes | None]:
    """Return the files of the exported tar, and their content."""
    snapshots = Snapshots.of(images)
    buffer = io.BytesIO()
    export(snapshots, snapshots.ensure(image.layers), upper, buffer)
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as tar:
        found = {
            m.name: found.read() if (found := tar.extractfile(m)) else None for m in tar.getmembers() if not m.issym()
        }
    return found


@pytest.fixture
def container(images: Images, base: Image) -> Container:
    snapshots = Snapshots.of(images)
    return Containers(images).ensure("work", base, snapshots.merged(snapshots.ensure(base.layers)).root.entry)


@pytest.mark.parametrize(
    ("pack", "kind"), [(bytes, OCI_LAYER), (gzip.compress, OCI_LAYER_GZIP), (lzma.compress, OCI_LAYER_GZIP)]
)
def test_a_root_file_system_becomes_an_image(images: Images, pack: Callable[[bytes], bytes], kind: str) -> None:
    source = io.BytesIO(pack(BASE))
    image = import_root(images, source, Reference.parse("root:1"), NOTE, RunConfig(cmd=("sh",)))
    assert images.find("root:1") == image
    assert (image.layers[0].diff_id, image.layers[0].blob.media_type) == (Digest.of(BASE), kind)
    history = (image.config.history or ())[0]
    assert (history.created_by, history.comment, history.author) == ("a test", "c", "me")
    assert image.config.config == RunConfig(cmd=("sh",))
    assert exported(images, image)["usr/lib/libc"] == b"library" * 300


def test_equal_content_makes_equal_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    ids = set()
    for place in ("one", "two"):
        images = Images(tmp_path / place)
        ids.add(import_root(images, io.BytesIO(BASE), None, NOTE, RunConfig()).descriptor.digest)
    assert len(ids) == 1
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(ConfigError, match="SOURCE_DATE_EPOCH"):
        import_root(Images(tmp_path / "three"), io.BytesIO(BASE), None, NOTE, RunConfig())


def test_no_hostile_root_leaves_anything(images: Images) -> None:
    """Each that `test_breakouts` has refused, after many good files; only the archive itself is garbage."""
    good = [file(f"good/{number}", b"x") for number in range(20)]
    for members, message in REFUSED.values():
        with pytest.raises(ImageError, match=message):
            import_root(images, io.BytesIO(archive_of(*good, *members)), None, NOTE, RunConfig())
        assert images.all() == []
        assert [os.listdir(images.root / name) for name in ("staging", "layers", "indexes")] == [[], [], []]
    assert {item.kind for item in gc.garbage(images)} == {"blob"}
    assert [problem.what for problem in check(images) if not problem.harmless] == []


def test_a_commit_has_the_changes_and_nothing_else(images: Images, base: Image, container: Container) -> None:
    (container.upper / "etc").mkdir()
    (container.upper / "etc/new").write_bytes(b"new")
    os.mknod(container.upper / "etc/passwd", 0o20000, 0)
    image = commit(images, base, container.upper, NOTE, Reference.parse("mine:1"))
    assert [layer.diff_id for layer in image.layers[:1]] == [base.layers[0].diff_id]
    with images.blobs.open(image.layers[1].blob.digest) as blob, tarfile.open(fileobj=blob) as tar:
        assert tar.getnames() == ["etc", "etc/.wh.passwd", "etc/new"]
    shown = exported(images, image)
    assert shown == exported(images, base, container.upper)
    assert (shown["etc/new"], "etc/passwd" in shown) == (b"new", False)
    assert image.config.config == base.config.config


@pytest.mark.root
def test_names_as_long_as_can_be_are_deleted_and_hidden(images: Images) -> None:
    """With the prefix of a whiteout they are longer than any name of a file."""
    longest, deep = "n" * 255, "/".join("d" * 2047)  # 4,093 bytes
    below = archive_of(file(longest, b"x"), directory("o"), file(f"o/{longest}"), file(f"{deep}/f"))
    base = image_of(images, [below], "base:1")
    snapshots = Snapshots.of(images)
    root = snapshots.merged(snapshots.ensure(base.layers)).root.entry
    container = Containers(images).ensure("work", base, root)
    os.mknod(container.upper / longest, 0o20000, 0)
    (container.upper / "o").mkdir()
    os.setxattr(container.upper / "o", "trusted.overlay.opaque", b"y")
    fd = os.open(container.upper, os.O_RDONLY)
    for _ in range(2047):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.setxattr(f"/proc/self/fd/{fd}", "trusted.overlay.opaque", b"y")
    image = commit(images, base, container.upper, NOTE, None)
    merged = snapshots.merged(snapshots.ensure(image.layers))
    assert [entry for entry in (longest, f"o/{longest}", f"{deep}/f") if merged.find(os.fsencode(entry))] == []
    assert merged.find(os.fsencode(deep)) is not None
    os.mkdir("dd", dir_fd=fd)
    os.close(fd)
    with pytest.raises(ImageError, match="path of 4096 bytes is longer than any in an image"):
        commit(images, base, container.upper, NOTE, None)
    remove_path(images.root)  # pytest would recurse into it


def test_equal_changes_make_equal_layers(
    images: Images, base: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    made = []
    for number in range(2):
        upper = tmp_path / f"upper{number}"
        upper.mkdir()
        for name in "ab" if number else "ba":
            (upper / name).write_bytes(name.encode())
        made.append(commit(images, base, upper, NOTE, None))
    assert made[0].descriptor == made[1].descriptor


def mark(path: Path, name: str, value: bytes) -> None:
    os.setxattr(path, f"trusted.overlay.{name}", value)


@pytest.mark.root
class TestRedirects:
    """Renamed directories and metacopy files are spelled out."""

    def test_a_renamed_directory(self, images: Images, base: Image, container: Container) -> None:
        upper = container.upper
        os.mknod(upper / "bin", 0o20000, 0)
        (upper / "tools").mkdir()
        mark(upper / "tools", "redirect", b"/bin")
        (upper / "tools/extra").write_bytes(b"e")
        image = commit(images, base, upper, NOTE, None)
        shown = exported(images, image)
        assert shown == exported(images, base, upper)
        assert {name for name in shown if name.startswith(("bin", "tools"))} == {
            "tools", "tools/sh", "tools/dash", "tools/extra",
        }  # fmt: skip
        assert shown["tools/dash"] == b"#!shell" * 200

    def test_a_renamed_directory_with_a_deleted_file_and_a_renamed_child(
        self, images: Images, base: Image, container: Container
    ) -> None:
        upper = container.upper
        (upper / "u").mkdir()
        mark(upper / "u", "redirect", b"usr")
        os.mknod(upper / "usr", 0o20000, 0)
        (upper / "u/l").mkdir()
        mark(upper / "u/l", "redirect", b"lib")
        os.mknod(upper / "u/lib", 0o20000, 0)
        shown = exported(images, commit(images, base, upper, NOTE, None))
        assert {name for name in shown if name.startswith("u")} == {"u", "u/l", "u/l/libc"}

    def test_a_metacopy_file(self, images: Images, base: Image, container: Container) -> None:
        upper = container.upper
        (upper / "etc").mkdir()
        (upper / "etc/passwd").touch(0o600)
        os.truncate(upper / "etc/passwd", 11)
        mark(upper / "etc/passwd", "metacopy", b"")
        shown = exported(images, commit(images, base, upper, NOTE, None))
        assert shown["etc/passwd"] == b"root:x:0:0\n"

    @pytest.mark.parametrize("redirect", [b"/nowhere", b"nowhere"])
    def test_a_redirect_to_nothing(self, images: Images, base: Image, container: Container, redirect: bytes) -> None:
        (container.upper / "d").mkdir()
        mark(container.upper / "d", "redirect", redirect)
        with pytest.raises(BadMark, match="where nothing is"):
            commit(images, base, container.upper, NOTE, None)


@pytest.mark.root
@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_every_dialect_means_the_same(tmp_path: Path, dialect: str) -> None:
    source = tmp_path / "source"
    unpacked(archive_of(file("d/f", b"x", mode=0o640, uid=5)), source)
    os.mknod(source / "gone", 0o20000, 0)
    (source / "o").mkdir()
    mark(source / "o", "opaque", b"y")
    convert(source, tmp_path / "there", dialect)
    convert(tmp_path / "there", tmp_path / "back", "trusted")
    assert packed(tmp_path / "back") == packed(source)
    with opened(tmp_path / "there") as fd:
        kinds = names(entry for entry, _ in scan(fd))
    assert kinds == {"d": "dir", "d/f": "file", "gone": "whiteout", "o": "DIR"}
    has_device = (tmp_path / "there/gone").exists() and (tmp_path / "there/gone").is_char_device()
    assert has_device is (dialect in {"trusted", "user"})
    with pytest.raises(ConfigError, match="exists"):
        convert(source, tmp_path / "there", dialect)


@pytest.mark.root
def test_converting_over_lower_layers_flattens(tmp_path: Path) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    unpacked(archive_of(file("old/f", b"content")), lower)
    (upper / "new").mkdir(parents=True)
    mark(upper / "new", "redirect", b"/old")
    os.mknod(upper / "old", 0o20000, 0)
    with pytest.raises(BadMark):
        convert(upper, tmp_path / "a", "trusted")
    convert(upper, tmp_path / "b", "trusted", [lower])
    assert (tmp_path / "b/new/f").read_bytes() == b"content"
    assert os.getxattr(tmp_path / "b/new", RootForm.marks.opaque) == b"y"
    assert RootForm.marks.redirect not in os.listxattr(tmp_path / "b/new")
