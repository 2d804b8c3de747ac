"""Marks that are wrong are found, and repaired only when asked; the layers are real directories."""

import os
from pathlib import Path

import pytest

from tests.analysis.layers import Literal, layer
from tests.oci.archives import opened, scanned
from unionfs.analysis.check import Finding, Repair, examine
from unionfs.analysis.repair import repair
from unionfs.core.ondisk import TRUSTED
from unionfs.oci.form import RootForm
from unionfs.oci.merged import Merged
from unionfs.oci.scan import found

pytestmark = pytest.mark.root

LOWER: Literal = {"d": {"x": b"1"}, "e": {"y": b"2"}, "f": b"3"}


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    (tmp_path / "upper").mkdir()
    return tmp_path / "upper"


def findings(upper: Path, lower: Literal | None = LOWER) -> list[Finding]:
    with opened(upper) as fd:
        return list(examine(found(fd), TRUSTED, Merged([layer(lower)]) if lower is not None else None))


def told(upper: Path, lower: Literal | None = LOWER) -> list[str]:
    return [f"{finding.kind} {finding.path.decode()}" for finding in findings(upper, lower)]


def mend(upper: Path) -> bool:
    with opened(upper) as fd:
        return all(repair(fd, finding, RootForm()) for finding in findings(upper))


def whiteout(path: Path) -> None:
    os.mknod(path, 0o20000, 0)


def test_a_sound_upper_has_nothing(upper: Path) -> None:
    whiteout(upper / "f")
    (upper / "d").mkdir()
    whiteout(upper / "d/x")
    (upper / "new").mkdir()
    os.setxattr(upper / "new", "trusted.overlay.opaque", b"y")
    (upper / "moved").mkdir()
    os.setxattr(upper / "moved", "trusted.overlay.redirect", b"/e")
    whiteout(upper / "moved/y")
    assert told(upper) == []


def test_a_whiteout_that_hides_nothing(upper: Path) -> None:
    whiteout(upper / "absent")
    (upper / "d").mkdir()
    whiteout(upper / "d/absent")
    assert told(upper) == ["whiteout absent", "whiteout d/absent"]
    assert told(upper, None) == []
    assert mend(upper)
    assert (told(upper), os.listdir(upper)) == ([], ["d"])


def test_a_whiteout_in_an_opaque_directory(upper: Path) -> None:
    (upper / "d").mkdir()
    os.setxattr(upper / "d", "trusted.overlay.opaque", b"y")
    whiteout(upper / "d/x")
    assert told(upper) == ["whiteout d/x"]
    assert mend(upper)
    assert told(upper) == []


@pytest.mark.parametrize("redirect", [b"/nowhere", b"nowhere", b"/f"])
def test_a_redirect_to_nothing(upper: Path, redirect: bytes) -> None:
    (upper / "m").mkdir()
    os.setxattr(upper / "m", "trusted.overlay.redirect", redirect)
    assert told(upper) == ["redirect m"]
    assert mend(upper)
    assert told(upper) == []


def test_a_redirect_that_no_union_writes(upper: Path) -> None:
    (upper / "m").mkdir()
    os.setxattr(upper / "m", "trusted.overlay.redirect", b"/../../etc")
    assert told(upper, None) == ["redirect m"]


@pytest.mark.parametrize("mark", ["user.overlay.opaque", "user.fuseoverlayfs.opaque"])
def test_an_opaque_mark_of_another_dialect(upper: Path, mark: str) -> None:
    (upper / "d").mkdir()
    os.setxattr(upper / "d", mark, b"y")
    assert told(upper) == ["dialect d"]
    assert mend(upper)
    assert (told(upper), os.listxattr(upper / "d")) == ([], ["trusted.overlay.opaque"])


def test_names_of_aufs(upper: Path) -> None:
    (upper / "d").mkdir()
    for name in (".wh.f", "d/.wh..wh..opq", ".wh..wh.aufs", "kept", ".wh.kept"):
        (upper / name).touch()
    assert told(upper) == ["leftover .wh..wh.aufs", "dialect .wh.f", "dialect .wh.kept", "dialect d/.wh..wh..opq"]
    assert mend(upper)
    assert told(upper) == []
    kinds = {entry.path: (entry.kind.value, entry.opaque) for entry in scanned(upper) if entry.path}
    assert kinds == {b"d": ("dir", True), b"f": ("whiteout", False), b"kept": ("file", False)}


def test_a_file_or_directory_that_is_called_like_a_mark_is_kept(upper: Path) -> None:
    (upper / ".wh.data").mkdir()
    (upper / ".wh.data/f").write_text("somebody's")
    (upper / ".wh.text").write_text("somebody's")
    (upper / "d").mkdir()
    (upper / "d/.wh..wh..opq").write_text("somebody's")
    found = [(finding.path, finding.repair) for finding in findings(upper)]
    assert found == [(path, Repair.KEEP) for path in (b".wh.data", b".wh.text", b"d/.wh..wh..opq")]
    assert not mend(upper)
    assert (upper / ".wh.data/f").read_text() == (upper / "d/.wh..wh..opq").read_text() == "somebody's"


def test_a_metacopy_file_without_content_cannot_be_repaired(upper: Path) -> None:
    (upper / "lost").touch()
    os.setxattr(upper / "lost", "trusted.overlay.metacopy", b"")
    (finding,) = findings(upper)
    assert (finding.kind, finding.repair) == ("metacopy", Repair.NONE)
    assert not mend(upper)
