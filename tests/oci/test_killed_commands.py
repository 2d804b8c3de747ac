"""SIGKILL at every step of every command that writes: the store is sound, and the same command then does its work.

`test_crashes` has the life of an image below the commands, tests/registry what speaks with a registry.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.oci.crashing import run_until, unsound
from tests.oci.test_crashes import bring
from unionfs.cli.main import main
from unionfs.oci import gc
from unionfs.oci.containers import Containers
from unionfs.oci.images import Images
from unionfs.oci.load import load
from unionfs.oci.registry.credentials import Credential, DockerConfig

Check = Callable[[Path], bool]


def has(name: str) -> Check:
    return lambda root: any(each.familiar == name for image in Images(root).all() for each in image.names)


def holds(file: str) -> Check:
    """Tell whether a saved image is whole: another store takes it."""
    return lambda root: bool(load(Images(root.parent / "other"), root.parent / file))


COMMANDS: dict[str, Check] = {
    "import {tmp}/root.tar new:1": has("new:1"),
    "tag app:1 new:1 new:2": has("new:2"),
    "commit work new:1": has("new:1"),
    "load -q -i {tmp}/app.tar new:1": has("new:1"),
    "save -o {tmp}/saved.tar app:1": holds("saved.tar"),
    "save --format oci-archive -o {tmp}/saved.tar app:1": holds("saved.tar"),
    "export -o {tmp}/exported.tar work": lambda root: main(["import", str(root.parent / "exported.tar")]) == 0,
    "rm -f work": lambda root: Containers(Images(root)).all() == [],
    "rmi -f app:1": lambda root: Images(root).all() == [],
    "prune --all -f": lambda root: gc.garbage(Images(root)) == [],
}
"""A command, and what is so when it is done."""


BEFORE = {"prune --all -f": ["rm", "work"]}
"""What is done first, so that the command has something to do."""


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_killed_at_every_step(
    tmp_path: Path, archive: Path, fast: None, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    root, step, is_done = tmp_path / "store", 0, False
    monkeypatch.setenv("UNIONFS_ROOT", str(root))
    bring(root, archive)
    assert main(["export", "-o", str(tmp_path / "root.tar"), "app:1"]) == 0
    words, outputs = command.format(tmp=tmp_path).split(), (tmp_path / "saved.tar", tmp_path / "exported.tar")
    while not is_done:
        step += 1
        bring(root, archive)
        assert main(BEFORE.get(command, ["rm", "-f", "nothing"])) == 0
        for path in outputs:
            path.unlink(missing_ok=True)
        is_done = run_until(step, lambda: main(words))
        assert unsound(root) == [], f"after step {step}"
        if any(path.exists() for path in outputs):
            assert COMMANDS[command](root), f"after step {step}: a part of a file"
        assert main(["check", "--repair"]) == 0, f"after step {step}"
        assert main(words) == 0, f"after step {step} and again"
        assert COMMANDS[command](root), f"after step {step} and again"
        assert unsound(root) == [], f"after step {step} and again"
        assert main(["rmi", "-f", "new:1", "new:2"]) == 0
    assert step > 2


def test_a_login_killed_at_every_step_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    """What docker wrote there stays, and so do the other registries."""
    path, step = tmp_path / "config.json", 0
    entry = {"auth": "YTpi"}
    others = {"auths": {"other.example": entry}, "psFormat": "kept"}
    both = {"auths": {"other.example": entry, "registry.example": entry}, "psFormat": "kept"}
    credential = Credential("a", "b")
    for work, old, new in (
        (lambda: DockerConfig.load(path).store("registry.example", credential), others, both),
        (lambda: DockerConfig.load(path).erase("registry.example"), both, others),
    ):
        is_done, step = False, 0
        while not is_done:
            step += 1
            path.write_text(json.dumps(old))
            is_done = run_until(step, work)
            assert json.loads(path.read_bytes()) in (old, new)
        assert json.loads(path.read_bytes()) == new
        assert step > 2
