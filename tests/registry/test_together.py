"""Pulls that meet, pulls that die, and pulls that are large."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.registry.conftest import Lab
from tests.registry.hostile import Hostile, Reply, Request
from tests.registry.images import Made, layer_of, make_image, stored
from unionfs.oci.digest import CHUNK
from unionfs.oci.images import Images
from unionfs.oci.model import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Descriptor, ImageConfig, Manifest, RootFS, encode
from unionfs.oci.platforms import host_platform
from unionfs.oci.registry.pull import _abandoned
from unionfs.oci.store import BlobStore
from unionfs.oci.verify import check

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server(lab: Lab, made: Made) -> Iterator[Hostile]:
    with Hostile(lab.store).running() as registry:
        registry.tags["v1"] = made.descriptor.digest
        yield registry


def started(root: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a command on the store at *root*."""
    return subprocess.Popen(
        [sys.executable, "-m", "unionfs", *arguments],
        cwd=ROOT,
        env={**os.environ, "UNIONFS_ROOT": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_pulls_of_one_image_download_each_layer_once(server: Hostile, made: Made, tmp_path: Path) -> None:
    both = threading.Barrier(2)

    def meet(request: Request) -> Reply | None:
        if request.kind == "manifests" and request.name == "v1":
            both.wait(30)  # neither goes on before the other has asked
        return None

    server.tricks.append(meet)
    pulls = [started(tmp_path / "images", "pull", "-q", f"{server.host}/app:v1") for _ in range(2)]
    for pull in pulls:
        out, err = pull.communicate(timeout=60)
        assert (pull.returncode, out, err) == (0, f"{server.host}/app:v1\n", "")
    asked = sorted(each.name for each in server.asked("GET", "blobs"))
    assert asked == sorted(str(blob.digest) for blob in made.blobs)


class Stalled:
    """A pull that has a part of the big layer and waits for the rest."""

    def __init__(self, server: Hostile, layer: Descriptor, root: Path) -> None:
        self._server, self._layer = server, layer
        self._over = threading.Event()
        self.partial = root / "partial" / layer.digest.hex
        server.tricks.append(self._stall)
        self.process = started(root, "pull", "-q", f"{server.host}/app:v1")

    def _stall(self, request: Request) -> Reply | None:
        if request.name != str(self._layer.digest) or "range" in request.headers:
            return None
        whole = self._server.store.path(self._layer.digest).read_bytes()
        return Reply(body=self._most_of(whole), length=len(whole))

    def _most_of(self, whole: bytes) -> Iterator[bytes]:
        yield whole[: 3 * len(whole) // 4]
        self._over.wait(60)

    def end_by(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal once a part has arrived; return exit status and stderr."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (self.partial.exists() and self.partial.stat().st_size >= CHUNK):
            time.sleep(0.01)
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=60)
        self._over.set()
        return self.process.returncode, err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_pull_that_was_ended_goes_on_where_it_stopped(
    server: Hostile, made: Made, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    root, big = tmp_path / "images", made.manifest.layers[1]
    stalled = Stalled(server, big, root)
    assert stalled.end_by(number) == (status, "")
    assert Images(root).all() == []
    held = stalled.partial.stat().st_size

    again = started(root, "pull", "-q", f"{server.host}/app:v1")
    assert (again.communicate(timeout=60), again.returncode) == ((f"{server.host}/app:v1\n", ""), 0)
    ranges = [each.headers.get("range") for each in server.asked("GET", "blobs") if each.name == str(big.digest)]
    assert ranges == [None, f"bytes={held}-"]


def test_a_push_killed_at_every_request_changes_nothing_here_and_no_tag_there(
    server: Hostile, made: Made, tmp_path: Path
) -> None:
    root, name = tmp_path / "images", f"{server.host}/app:v1"
    assert started(root, "pull", "-q", name).communicate(timeout=60) == (f"{name}\n", "")
    before = Images(root).all()
    with Hostile(BlobStore(tmp_path / "empty")).running() as empty:
        last, step = Request("", "", {}, {}, b""), 0
        while "manifests/v1" not in last.path:
            step += 1
            empty.received.clear()  # or this push has less to do than those before, and is done too soon
            push = started(root, "push", "-q", name, f"{empty.host}/app:v1")
            number = len(empty.requests) + step

            def kill(_request: Request, push: "subprocess.Popen[str]" = push, number: int = number) -> Reply | None:
                if len(empty.requests) >= number:  # two may come at once
                    push.kill()
                    return Reply.status_only(503)
                return None

            empty.tricks[:] = [kill]
            push.communicate(timeout=60)
            assert push.returncode == -signal.SIGKILL
            last = empty.requests[-1]
            assert "v1" not in empty.received, "the tag is the last thing to be sent"
            assert Images(root).all() == before
            assert check(Images(root)) == []
        empty.tricks.clear()
        again = started(root, "push", "-q", name, f"{empty.host}/app:v1")
        assert (again.communicate(timeout=60), again.returncode) == (("", ""), 0)
        assert {"v1", *(str(blob.digest) for blob in made.blobs)} <= empty.received.keys()
    assert step > 5


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """Return the root of a store on a disk of its own, which is as large as a remount says."""
    root = tmp_path / "small"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", root], check=True)
    yield root
    subprocess.run(["umount", root], check=True)


@pytest.mark.root
@pytest.mark.parametrize("room", [0.05, 0.3, 1.05, 1.5, 1.9])
def test_a_pull_onto_a_full_disk_leaves_no_image_and_succeeds_with_room(
    server: Hostile, made: Made, full: Path, room: float
) -> None:
    """Room for so many times the blobs: for not even the database, a part of a blob, all blobs, a part of a layer."""
    size, name = int(room * sum(blob.size for blob in made.blobs)), f"{server.host}/app:v1"
    subprocess.run(["mount", "-o", f"remount,size={size}", full], check=True)
    pull = started(full, "pull", name)
    out, err = pull.communicate(timeout=60)
    assert (pull.returncode, out) == (1, ""), err
    assert err.startswith("unionfs: error: ")
    assert "No space left on device; " in err
    assert err.count("\n") == 1
    subprocess.run(["mount", "-o", "remount,size=32m", full], check=True)
    assert Images(full).all() == []
    assert os.listdir(full / "staging") == []
    assert all(problem.harmless for problem in check(Images(full))), "what has arrived is kept for the next pull"
    again = started(full, "pull", "-q", name)
    assert (again.communicate(timeout=60), again.returncode) == ((f"{name}\n", ""), 0)
    assert check(Images(full)) == []


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """Return a directory that costs no waiting for a disk, where there is one."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as path:  # noqa: S108  a fresh directory in it
        yield Path(path)


@pytest.mark.slow
def test_a_pull_killed_at_any_step_leaves_a_sound_store_and_the_next_one_succeeds(lab: Lab, in_memory: Path) -> None:
    made = make_image(lab.store, layer_of({"a": b"1"}), layer_of({"b/c": b"2"}))
    with Hostile(lab.store).running() as server:
        server.tags["v1"] = made.descriptor.digest
        command = [sys.executable, "-m", "tests.registry.killed", str(in_memory / "images"), f"{server.host}/app:v1"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert [run["status"] for run in runs] == [signal.SIGKILL] * (len(runs) - 1) + [0]
    assert len(runs) > 30, "steps were counted"
    for run in runs:
        assert run["after"].get("repaired", []) == [], f"before step {run['step']}"
        assert run["after"].get("whole", []) in ([], [True])
        assert (run["again"], run["then"]) == (0, {"wrong": [], "whole": [True]}), f"before step {run['step']}"


MEASURED = """
import resource, sys
from unionfs.cli.main import main
status = main(["pull", "-q", sys.argv[1]])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(status)
"""


def memory_of_a_pull(name: str, root: Path) -> int:
    """Return the bytes that a pull had in memory at most."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, name],
        cwd=ROOT,
        env={**os.environ, "UNIONFS_ROOT": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return int(done.stderr) << 10


def of_size(lab: Lab, size: int) -> Descriptor:
    """Return an image of one uncompressed layer with one file of zeros."""
    path = lab.directory / f"{size}.tar"
    platform = host_platform()
    header = layer_of({"zeros": b""})[:512]
    blank = bytearray(header)
    blank[124:136] = f"{size:011o}\0".encode()
    blank[148:156] = b" " * 8
    blank[148:156] = f"{sum(blank):06o}\0 ".encode()
    with path.open("wb") as out:
        out.write(blank)
        out.truncate(512 + size + 1024)
    with path.open("rb") as content:
        digest = lab.store.put_stream(content)
    layer = Descriptor(media_type=OCI_LAYER, digest=digest, size=512 + size + 1024)
    config = ImageConfig(
        architecture=platform.architecture, os=platform.os, rootfs=RootFS(type="layers", diff_ids=(digest,))
    )
    manifest = Manifest(schema_version=2, config=stored(lab.store, encode(config), OCI_CONFIG), layers=(layer,))
    return stored(lab.store, encode(manifest), OCI_MANIFEST)


def test_memory_does_not_depend_on_the_size_of_a_layer(lab: Lab, tmp_path: Path) -> None:
    with Hostile(lab.store).running() as server:
        used = []
        for size in (1 << 20, 192 << 20):
            server.tags["v1"] = of_size(lab, size).digest
            used.append(memory_of_a_pull(f"{server.host}/app{size}:v1", tmp_path / str(size)))
    assert used[1] - used[0] < 16 << 20


@pytest.mark.parametrize(("patience_s", "waits"), [(30.0, True), (0.0, False)])
async def test_a_thread_is_left_at_once_or_waited_for(patience_s: float, waits: bool) -> None:
    may_end, over = threading.Event(), threading.Event()

    def work() -> None:
        may_end.wait(30)
        over.set()

    with trio.move_on_after(0.05) as scope:
        threading.Timer(0.3, may_end.set).start()
        await _abandoned(work, after=lambda: patience_s)
    assert scope.cancelled_caught
    assert over.is_set() is waits
    may_end.set()
