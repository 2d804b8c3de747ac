"""A store for each test, and images to put there."""

import os
from pathlib import Path

import pytest

from tests.oci.archives import archive_of, directory, file, hard_link, symlink
from tests.oci.making import image_of
from unionfs.linux import fileops
from unionfs.oci import database
from unionfs.oci.images import Image, Images
from unionfs.oci.save import save

BASE = archive_of(
    directory("."),
    directory("etc"),
    file("etc/passwd", b"root:x:0:0\n"),
    file("etc/hosts", b"127.0.0.1 localhost\n"),
    directory("bin"),
    file("bin/sh", b"#!shell" * 200, mode=0o755),
    hard_link("bin/dash", "bin/sh"),
    symlink("lib", "usr/lib"),
    directory("usr"),
    directory("usr/lib"),
    file("usr/lib/libc", b"library" * 300),
    directory("var"),
    file("var/log", b"old"),
)
CHANGE = archive_of(
    file("etc/.wh.hosts"),
    directory("etc"),
    file("etc/passwd", b"root:x:0:0\nuser:x:1:1\n"),
    directory("var"),
    file("var/.wh..wh..opq"),
    file("var/new", b"new"),
)


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return Images(tmp_path / "store")


@pytest.fixture
def base(images: Images) -> Image:
    return image_of(images, [BASE], "base:1")


@pytest.fixture
def app(images: Images, base: Image) -> Image:
    return image_of(images, [BASE, CHANGE], "app:1")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    images = Images(tmp_path / "source")
    image = image_of(images, [BASE, CHANGE], "app:1")
    with (tmp_path / "app.tar").open("wb") as file:
        save(images.blobs, [(image, image.names)], "oci-archive", file)
    return tmp_path / "app.tar"


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave syncing out: it is for power cuts, and SIGKILL loses nothing that the kernel has."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    monkeypatch.setattr(fileops, "syncfs", lambda _fd: None)
    monkeypatch.setattr(database, "SYNCHRONOUS", "OFF")
