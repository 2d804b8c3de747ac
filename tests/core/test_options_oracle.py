"""The kernel reads the same text: what it stacks we stack, and what it refuses we refuse."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from unionfs.core.options import Reading, read
from unionfs.errors import ConfigError
from unionfs.linux.mount import MNT_DETACH, mount, umount

pytestmark = [pytest.mark.root, pytest.mark.overlayfs]

NAMES = ["plain", "co:lon", "com,ma", "back\\slash", "ends\\", "\\start", "two  spaces", "new\nline", "\udcff", "a=b"]


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[Path]:
    """Return a directory with a layer of each name, which holds one file: its own name, made a plain one."""
    for at, name in enumerate(NAMES):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"layer-{at}").touch()
        (tmp_path / name / "same").write_text(str(at))
    (tmp_path / "merged").mkdir()
    before = os.getcwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)


def kernel_shows(text: str) -> tuple[set[str], str] | None:
    """Return the names of an overlay mounted with *text* and which layer is on top; None if it is refused."""
    try:
        mount("overlay", "merged", "overlay", 0, text)
    except OSError:
        return None
    try:
        return set(os.listdir("merged")), Path("merged/same").read_text()
    finally:
        umount("merged", MNT_DETACH)


def we_show(text: str) -> tuple[set[str], str] | None:
    reading = Reading()
    try:
        read(text, reading)
        config = reading.config()
        paths = [*([config.upper] if config.upper else []), *config.lower]
        top, *_ = found = [(set(os.listdir(path)), (path / "same").read_text()) for path in paths]
        [(path / "same").read_text() for path in config.data_only]
    except (ConfigError, OSError):
        return None
    return set().union(*(names for names, _ in found)), top[1]


def escaped(name: str) -> str:
    for character in "\\:,":
        name = name.replace(character, f"\\{character}")
    return name


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_of_this_name(layers: Path, name: str) -> None:
    text = f"lowerdir={escaped(name)}:plain"
    shown = kernel_shows(text) if name != "plain" else we_show(text)
    assert shown == ({"same", "layer-0", f"layer-{NAMES.index(name)}"}, str(NAMES.index(name)))
    assert we_show(text) == shown


WITH_AN_UPPER = [
    "metacopy=on,redirect_dir=off",
    "metacopy=on",
    "metacopy=on,redirect_dir=follow",
    "redirect_dir=nofollow,index=on",
    "userxattr",
    "userxattr,redirect_dir=follow",
    "volatile",
    "metacopy=on,metacopy=off,redirect_dir=off",
]

TEXTS = [
    "lowerdir=plain:",
    "lowerdir=:plain",
    "lowerdir=plain::a=b:co\\:lon",
    "lowerdir=plain:::a=b",
    "lowerdir=",
    "lowerdir=::plain",
    "lowerdir=plain:com,ma",
    "lowerdir=none",
    "lowerdir=plain:none",
    "lowerdir=a=b:plain,lowerdir=two  spaces:plain",
    ",,lowerdir=a=b:plain,",
    "lowerdir=a=b:plain,index=maybe",
    "lowerdir=a=b:plain,redirect_dir=auto",
    "lowerdir=a=b:plain,xino=yes",
    "lowerdir=a=b:plain,upperdir=co\\:lon",
    "lowerdir=a=b:plain,metacopy=on,redirect_dir=off",
    "lowerdir=a=b:plain,userxattr,metacopy=on",
    "lowerdir=a=b:plain,userxattr,redirect_dir=on",
    "lowerdir=a=b:plain,workdir=two  spaces",
    "upperdir=a=b,workdir=plain",
    "lowerdir+=plain,lowerdir+=co:lon",
    "lowerdir+=co\\:lon,lowerdir+=plain",
    "lowerdir+=back\\slash,lowerdir+=plain",
    "lowerdir+=back\\\\slash,lowerdir+=plain",
    "lowerdir+=plain,lowerdir+=a=b,datadir+=co:lon,metacopy=on",
    "lowerdir+=plain,datadir+=none,metacopy=on",
    *(f"lowerdir=plain,upperdir=two  spaces,workdir=a=b,{options}" for options in WITH_AN_UPPER),
]


@pytest.mark.parametrize("text", TEXTS)
def test_the_kernel_takes_it_as_we_do(layers: Path, text: str) -> None:
    assert we_show(text) == kernel_shows(text)


def test_a_layer_added_by_itself_may_have_a_comma_which_the_kernel_cannot_be_told(layers: Path) -> None:
    """There the backslash that keeps the comma from ending the option stays in the name."""
    text = r"lowerdir+=com\,ma,lowerdir+=plain"
    assert kernel_shows(text) is None
    assert we_show(text) == ({"same", "layer-0", "layer-2"}, "2")
