"""What is saved here is loaded here, and by skopeo, podman and umoci; and what they write is loaded here."""

import gzip
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.oci.archives import archive_of, file, info_of, names, symlink
from tests.oci.conftest import BASE, CHANGE
from tests.oci.making import image_of
from unionfs.cli.exitcodes import Exit, status_of
from unionfs.errors import ImageError
from unionfs.oci.images import Image, Images
from unionfs.oci.load import load
from unionfs.oci.model import DOCKER_LAYER_GZIP, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD
from unionfs.oci.reference import Reference
from unionfs.oci.save import FORMATS, save
from unionfs.oci.snapshots import Snapshots

SHOWN = {
    "bin": "dir", "bin/dash": "file", "bin/sh": "hardlink", "etc": "dir", "etc/passwd": "file", "lib": "symlink",
    "usr": "dir", "usr/lib": "dir", "usr/lib/libc": "file", "var": "dir", "var/new": "file",
}  # fmt: skip


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not shutil.which(program), reason=f"needs {program}")


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def saved(images: Images, image: Image, form: str, place: Path) -> Path:
    target = place / form
    if form.endswith("archive"):
        with target.open("wb") as out:
            save(images.blobs, [(image, image.names)], form, out)
    else:
        save(images.blobs, [(image, image.names)], form, target)
    return target


def loaded(place: Path, source: Path | io.BytesIO) -> Image:
    """Load into a store of its own; the image must be whole, and show what it should."""
    images = Images(place)
    with images.using():
        ((image, _),) = load(images, source)
    snapshots = Snapshots.of(images)
    assert names(snapshots.merged(snapshots.ensure(image.layers)).flattened()) == SHOWN
    return image


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", [OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, DOCKER_LAYER_GZIP])
def test_what_is_saved_is_loaded(images: Images, tmp_path: Path, form: str, kind: str) -> None:
    image = image_of(images, [BASE, CHANGE], "quay.io/team/app:1", layer_type=kind)
    again = loaded(tmp_path / "again", saved(images, image, form, tmp_path))
    assert again.id == image.id
    assert again.names == (() if form == "docker-dir" else image.names)


@pytest.mark.parametrize("form", FORMATS)
def test_saving_twice_gives_equal_bytes(images: Images, app: Image, tmp_path: Path, form: str) -> None:
    def content(place: str) -> dict[str, bytes]:
        (tmp_path / place).mkdir()
        target = saved(images, app, form, tmp_path / place)
        files = [target] if target.is_file() else [path for path in target.rglob("*") if path.is_file()]
        return {str(path.relative_to(target)): path.read_bytes() for path in files}

    assert content("one") == content("two")


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_archive_may_be_a_pipe_and_compressed(
    images: Images, app: Image, tmp_path: Path, form: str, pack: Callable[[bytes], bytes]
) -> None:
    archive = io.BytesIO(pack(saved(images, app, form, tmp_path).read_bytes()))
    archive.seek = None  # type: ignore[method-assign, assignment]  # a pipe has none
    assert loaded(tmp_path / "again", archive).id == app.id


def test_several_images_share_their_layers(images: Images, base: Image, app: Image, tmp_path: Path) -> None:
    for form in ("docker-archive", "oci-archive"):
        with (tmp_path / form).open("wb") as out:
            save(images.blobs, [(base, base.names), (app, app.names)], form, out)
        other = Images(tmp_path / f"store-{form}")
        assert {image.id for image, _ in load(other, tmp_path / form)} == {base.id, app.id}
        assert len([blob for blob in other.blobs if other.blobs.size(blob) > 1000]) <= 4


class TestHostile:
    """Archives of images that lie."""

    @pytest.mark.parametrize(
        ("members", "message"),
        [
            ([file("etc/passwd", b"x")], "not an archive of images.*import"),
            ([file("manifest.json", b"[{]")], "not a valid manifest.json"),
            ([file("manifest.json", b'[{"Config": "gone.json", "Layers": []}]')], "does not hold it"),
            ([file("manifest.json", b'[{"Config": "../../x.json", "Layers": []}]')], "does not hold it"),
            ([file("index.json", b'{"schemaVersion": 2, "manifests": []}')], "holds no image"),
            ([file("index.json", b"[]")], "not a valid image index"),
            ([file("oci-layout", b"{}")], "no image here"),
            ([file("blobs/sha256/" + "0" * 64, b"x")], "was promised"),
            ([symlink("manifest.json", "/etc/passwd")], "no image here"),
            ([(info_of("x", b"V"), b"")], "unknown type"),
        ],
    )
    def test_refused(self, tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]], message: str) -> None:
        images = Images(tmp_path / "store")
        with pytest.raises(ImageError, match=message):
            load(images, io.BytesIO(archive_of(*members)))
        assert images.all() == []

    @pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
    def test_a_name_that_is_none(self, images: Images, app: Image, tmp_path: Path, form: str) -> None:
        out = io.BytesIO()
        save(images.blobs, [(app, app.names)], form, out)
        told = (
            out.getvalue()
            .replace(b"docker.io/library/app:1", b"docker.io/library/APP:1")
            .replace(b'"app:1"', b'"APP:1"')
        )
        with pytest.raises(ImageError, match="a name that is none") as caught:
            load(Images(tmp_path / "other"), io.BytesIO(told))
        assert status_of(caught.value) is Exit.IMAGE

    def test_a_layer_that_is_not_the_configurations(self, images: Images, app: Image, tmp_path: Path) -> None:
        source = saved(images, app, "docker-archive", tmp_path)
        with tarfile.open(source) as tar:
            held = {m.name: (tar.extractfile(m) or io.BytesIO()).read() for m in tar.getmembers()}
        layer = next(name for name in held if name.endswith(".tar"))
        held[layer] = archive_of(file("etc/shadow", b"evil"))
        with pytest.raises(ImageError, match="the configuration promises"):
            load(Images(tmp_path / "again"), io.BytesIO(archive_of(*(file(n, c) for n, c in held.items()))))

    def test_old_archives_whose_layers_are_links(self, images: Images, app: Image, tmp_path: Path) -> None:
        source = saved(images, app, "docker-archive", tmp_path)
        with tarfile.open(source) as tar:
            held = {m.name: (tar.extractfile(m) or io.BytesIO()).read() for m in tar.getmembers()}
        (image,) = json.loads(held["manifest.json"])
        members = [file(name, content) for name, content in held.items() if name != "manifest.json"]
        for number, layer in enumerate(image["Layers"]):
            members.append(symlink(f"{number:064x}/layer.tar", f"../{layer}"))
        image["Layers"] = [f"{number:064x}/layer.tar" for number in range(len(image["Layers"]))]
        members.append(file("manifest.json", json.dumps([image]).encode()))
        assert loaded(tmp_path / "again", io.BytesIO(archive_of(*members))).id == app.id

    def test_a_bomb_is_not_written_to_the_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An archive that is compressed as a whole; what is in it would go to the disk as it comes."""
        monkeypatch.setattr("unionfs.oci.load.RATIO_FROM", 1 << 20)
        bomb = archive_of(file("big.tar", b"x" * (32 << 20)), file("manifest.json", b"[]"))
        other = Images(tmp_path / "other")
        with pytest.raises(ImageError, match="compression bomb; .*decompress it first"):
            load(other, io.BytesIO(gzip.compress(bomb)))
        assert os.listdir(other.root / "staging") == []
        with pytest.raises(ImageError, match="holds no image"):
            load(other, io.BytesIO(bomb))

    def test_documents_have_a_limit_together(self, tmp_path: Path) -> None:
        documents = [file(f"{number}.json", bytes(8 << 20)) for number in range(9)]
        with pytest.raises(ImageError, match="more than 64 MiB of documents"):
            load(Images(tmp_path / "store"), io.BytesIO(archive_of(*documents)))

    def test_what_is_no_image_directory(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(ImageError, match="no image here"):
            load(Images(tmp_path / "store"), tmp_path / "empty")


class TestOthers:
    """Both directions, with the real programs."""

    @needs("skopeo")
    @pytest.mark.parametrize("form", FORMATS)
    def test_skopeo_reads_what_we_write(self, images: Images, app: Image, tmp_path: Path, form: str) -> None:
        target = saved(images, app, form, tmp_path)
        source = {"oci-dir": f"oci:{target}:1", "docker-dir": f"dir:{target}"}.get(form, f"{form}:{target}")
        run("skopeo", "copy", "--quiet", source, f"oci:{tmp_path}/copy:1")
        assert loaded(tmp_path / "again", tmp_path / "copy").layers[-1].diff_id == app.layers[-1].diff_id

    @needs("skopeo")
    @pytest.mark.parametrize("kind", ["docker-archive", "oci-archive", "oci", "dir"])
    def test_we_read_what_skopeo_writes(self, images: Images, app: Image, tmp_path: Path, kind: str) -> None:
        source = saved(images, app, "oci-dir", tmp_path)
        target = f"{kind}:{tmp_path}/copy" + (":docker.io/library/app:1" if kind == "docker-archive" else "")
        run("skopeo", "copy", "--quiet", f"oci:{source}:1", target)
        image = loaded(tmp_path / "again", tmp_path / "copy")
        assert [layer.diff_id for layer in image.layers] == [layer.diff_id for layer in app.layers]

    @needs("podman")
    @pytest.mark.root
    @pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
    def test_podman_loads_and_saves(self, images: Images, app: Image, tmp_path: Path, form: str) -> None:
        with tempfile.TemporaryDirectory() as short:  # podman wants less than 50 characters
            podman = ["podman", "--root", f"{short}/p", "--runroot", f"{short}/r", "--storage-driver", "vfs"]
            self._through(podman, images, app, tmp_path, form)

    def _through(self, podman: list[str], images: Images, app: Image, tmp_path: Path, form: str) -> None:
        told = run(*podman, "load", "-q", "-i", saved(images, app, form, tmp_path))
        assert "docker.io/library/app:1" in told
        run(*podman, "save", "-q", "--format", form, "-o", tmp_path / "back", "docker.io/library/app:1")
        image = loaded(tmp_path / "again", tmp_path / "back")
        assert (image.id, image.names) == (app.id, (Reference.parse("app:1"),))
        run(*podman, "rmi", "-f", "-a")

    @needs("umoci")
    @pytest.mark.root
    def test_umoci_unpacks_and_repacks(self, images: Images, app: Image, tmp_path: Path) -> None:
        target = saved(images, app, "oci-dir", tmp_path)
        run("umoci", "unpack", "--image", f"{target}:1", tmp_path / "bundle")
        rootfs = tmp_path / "bundle/rootfs"
        there = {str(path.relative_to(rootfs)) for path in rootfs.rglob("*")}
        assert there == set(SHOWN)
        assert os.stat(rootfs / "bin/sh").st_ino == os.stat(rootfs / "bin/dash").st_ino
        (rootfs / "etc/added").write_text("by umoci")
        (rootfs / "var/new").unlink()
        run("umoci", "repack", "--image", f"{target}:1", tmp_path / "bundle")
        other = Images(tmp_path / "again")
        ((image, _),) = load(other, target)
        snapshots = Snapshots.of(other)
        merged = snapshots.merged(snapshots.ensure(image.layers))
        assert merged.find(b"etc/added") is not None
        assert merged.find(b"var/new") is None
