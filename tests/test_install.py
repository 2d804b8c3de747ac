"""`make install` and `make uninstall` undo each other, and the packages that are built hold the program."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.debian]


def make(project: Path, *words: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--no-print-directory", *words]
    done = subprocess.run(command, cwd=project, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir())


@pytest.mark.timeout(1200)  # it compiles
def test_uninstall_removes_what_install_says_it_put_there(project: Path, tmp_path: Path) -> None:
    staged = ("PREFIX=/opt/u", f"DESTDIR={tmp_path}")
    said = make(project, "install", *staged)

    program = tmp_path / "opt/u/bin/unionfs"
    helper = tmp_path / "sbin/mount.fuse.unionfs"
    assert str(program.readlink()) == "/opt/u/lib/unionfs/bin/unionfs"
    assert 'exec "/opt/u/lib/unionfs/bin/unionfs-overlay" "$@"' in helper.read_text(encoding="utf-8")
    assert os.access(helper, os.X_OK)
    subprocess.run(
        [helper, "none", "/mnt", "-f", "-v", "-o", "rw"], check=True
    )  # mount --fake: the program is elsewhere
    for path in ("/opt/u/bin/unionfs", "/opt/u/bin/unionfs-overlay", "/opt/u/lib/unionfs", "/sbin/mount.fuse.unionfs"):
        assert path in said

    (site,) = (tmp_path / "opt/u/lib/unionfs").glob("lib/python*/site-packages")
    doctor = [sys.executable, "-m", "unionfs", "doctor", "--json", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    asked = subprocess.run(doctor, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert {"modules": "compiled"}.items() <= {each["name"]: each["what"] for each in json.loads(asked.stdout)}.items()

    make(project, "uninstall", *staged)
    assert files(tmp_path) == []


def test_uninstall_leaves_what_is_not_ours(project: Path, tmp_path: Path) -> None:
    program = tmp_path / "opt/u/bin/unionfs"
    program.parent.mkdir(parents=True)
    program.write_text("another program", encoding="utf-8")
    make(project, "uninstall", "PREFIX=/opt/u", f"DESTDIR={tmp_path}")
    assert files(tmp_path) == ["opt/u/bin/unionfs"]
