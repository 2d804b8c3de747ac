"""What a user gets wrong with images: one line with the cause and the cure, a documented status, nothing half done."""

import io
import os
from pathlib import Path

import pytest

from tests.cli.commands import Command
from unionfs.cli.exitcodes import Exit
from unionfs.oci.images import Images

CASES: dict[str, tuple[Exit, str, str]] = {
    "pull": (Exit.USAGE, "arguments are required: NAME", "try: unionfs pull --help"),
    "pull app:1@sha256:12": (Exit.USAGE, "not a sha256 digest", "with 64 hex digits"),
    "pull Upper": (Exit.USAGE, "not a repository", "must be lower case"),
    "pull --platform a/b/c/d x": (Exit.USAGE, "not a platform", "write os/architecture"),
    "push nothing": (Exit.NOT_FOUND, "no image 'nothing'", "try: unionfs images"),
    "push app:1 -a app:2": (Exit.USAGE, "--all-tags", "leave the second one out"),
    "load": (Exit.IMAGE, "neither index.json (OCI) nor manifest.json", "try what save wrote"),
    "load -i {tmp}/nothing": (Exit.FAILED, "{tmp}/nothing", "No such file"),
    "load -i {tmp}": (Exit.IMAGE, "neither index.json (OCI) nor manifest.json", "try what save wrote"),
    "load -i {tmp}/text": (Exit.IMAGE, "{tmp}/text: not a sound tar archive", "cut short"),
    "load -i {tmp}/root.tar": (Exit.IMAGE, "{tmp}/root.tar: not an archive of images", "try: unionfs import"),
    "load -i {tmp}/saved.tar Upper": (Exit.USAGE, "not a repository", "must be lower case"),
    "save": (Exit.USAGE, "arguments are required: IMAGE", "try: unionfs save --help"),
    "save nothing": (Exit.NOT_FOUND, "no image 'nothing'", "try: unionfs images"),
    "save -o {tmp}/no/a.tar app:1": (Exit.FAILED, "{tmp}/no/a.tar", "No such file or directory"),
    "save --format zip app:1": (Exit.USAGE, "invalid choice: 'zip'", "'docker-archive'"),
    "save --format oci-dir app:1": (Exit.USAGE, "oci-dir is a directory", "try: -o DIRECTORY"),
    "save --format oci-dir -o {tmp} app:1": (Exit.USAGE, "{tmp} is not empty", "try: another name"),
    "import {tmp}": (Exit.USAGE, "{tmp} is a directory", "try: tar -C {tmp} -c . | unionfs import - NAME"),
    "import {tmp}/text x": (Exit.IMAGE, "not a sound tar archive", "cut short"),
    "import {tmp}/root.tar x:": (Exit.USAGE, "not a tag", "use letters"),
    "import -c RUN {tmp}/root.tar": (Exit.USAGE, "--change 'RUN'", "known are CMD"),
    "import -c ENV=1 {tmp}/root.tar": (Exit.USAGE, "--change 'ENV=1'", "known are CMD"),
    "export -o {tmp}/no/a.tar app:1": (Exit.FAILED, "{tmp}/no/a.tar", "No such file or directory"),
    "commit nothing": (Exit.NOT_FOUND, "no container 'nothing'", "try: unionfs df -v"),
    "tag app:1": (Exit.USAGE, "arguments are required: NAME", "try: unionfs tag --help"),
    "tag app:1 a@sha256:12": (Exit.USAGE, "not a sha256 digest", "with 64 hex digits"),
    "rmi nothing": (Exit.NOT_FOUND, "no image 'nothing'", "try: unionfs images"),
    "rm nothing": (Exit.NOT_FOUND, "no container 'nothing'", "try: unionfs df -v"),
    "inspect app:2": (Exit.NOT_FOUND, "no image 'app:2'", "unionfs pull app:2"),
    "images --jsn": (Exit.USAGE, "unrecognized arguments: --jsn", "try: unionfs images --help"),
    "mount app:1 {tmp}/no": (Exit.FAILED, "there is no such directory", "try: mkdir {tmp}/no"),
    "mount app:1 --rw ../x": (Exit.USAGE, "'../x' cannot be the name of a container", "letters, digits"),
    "mount app:1 {tmp} --json": (Exit.USAGE, "prints its path alone", "try: unionfs mount --json"),
    "ls app:1:/no": (Exit.NOT_FOUND, "/no", "no such file in the image"),
    "ls app:1:etc": (Exit.NOT_FOUND, "no image 'app:1:etc'", "write app:1:/etc"),
    "cat app:1:/etc": (Exit.NOT_FOUND, "/etc: is a dir", "not a file"),
    "cat --layer 9 app:1:/etc/passwd": (Exit.USAGE, "no layer 9", "it has 2, and 0 is the bottom"),
    "cp {tmp}/text app:1:/etc": (Exit.USAGE, "an image never changes", "try: unionfs mount --rw"),
    "cp app:1:/etc {tmp}/text": (Exit.USAGE, "{tmp}/text is there already", "something else"),
    "find app:1 -size 1q": (Exit.USAGE, "-size '1q'", "write +10M"),
    "which app:1:/no": (Exit.NOT_FOUND, "/no", "no layer has it"),
    "diff app:1": (Exit.USAGE, "app:1 is no container", "name what to compare it with"),
    "diff app:1 --ignore colour app:1": (Exit.USAGE, "--ignore colour", "known are type"),
    "tree --json {tmp}/deep": (Exit.USAGE, "more levels than readers of JSON take", "try: --depth"),
    "du --ci --max-wasted x app:1": (Exit.USAGE, "--max-wasted 'x'", "write 20M"),
    "du --ci --min-efficiency 90 app:1": (Exit.USAGE, "90 is no part of a whole", "write 0.9"),
    "du --max-wasted 1M app:1": (Exit.USAGE, "judge nothing without --ci", "try: unionfs du --ci"),
    "fsck {tmp}/text": (Exit.FAILED, "{tmp}/text", "Not a directory"),
    "convert {tmp}/deep {tmp}/deep": (Exit.USAGE, "{tmp}/deep exists", "try: another name"),
    "login https://": (Exit.USAGE, "not a registry", "write HOST or HOST:PORT"),
    "check now": (Exit.USAGE, "unrecognized arguments: now", "try: unionfs check --help"),
}


@pytest.fixture
def given(unionfs: Command, app: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no archive")
    (tmp_path / ("deep/" + "d/" * 300)).mkdir(parents=True)
    assert unionfs("save", "-o", tmp_path / "saved.tar", "app:1").status == 0
    assert unionfs("export", "-o", tmp_path / "root.tar", "app:1").status == 0


@pytest.mark.usefixtures("given")
@pytest.mark.parametrize("words", CASES)
def test_one_line(
    unionfs: Command, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    status, *said = CASES[words]
    before = images.all(), sorted(os.listdir(tmp_path))
    told = unionfs(*words.format(tmp=tmp_path).split())
    assert (told.status, told, told.errors.count("\n")) == (status, "", 1)
    assert told.errors.startswith("unionfs: error: ")
    for part in said:
        assert part.format(tmp=tmp_path) in told.errors
    assert (images.all(), sorted(os.listdir(tmp_path))) == before


@pytest.mark.parametrize("place", ["{tmp}/text", "{tmp}/text/store", "/proc/store"])
def test_a_store_that_cannot_be(unionfs: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    (tmp_path / "text").touch()
    root = place.format(tmp=tmp_path)
    monkeypatch.setenv("UNIONFS_ROOT", root)
    told = unionfs("images")
    assert (told.status, told, told.errors.count("\n")) == (Exit.FAILED, "", 1)
    assert told.errors.startswith(f"unionfs: error: {root}: no store of images can be made there: ")
    assert "try: UNIONFS_ROOT=" in told.errors
