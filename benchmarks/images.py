"""How long does it take to bring an image in, to send it out, and to ask about it?

An image of 20,000 files and 500 MB in four layers lies in a docker-registry on loopback. unionfs pulls it (which
unpacks it), and so do skopeo and umoci, next to each other in each round, on one filesystem; then each pushes it to
an empty registry. A question is a whole command, from exec to exit. Beside the time stands the CPU that the commands
used: on a busy machine it is the steadier figure.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.bases import base
from benchmarks.command import RESULTS, common_options, pin, progress, stoppable
from benchmarks.measure import settled
from benchmarks.results import Results, Sample, machine
from benchmarks.table import duration, grid, notes, times

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    Commands = Callable[["Place"], list[list[str]]]

__all__ = ["ROWS", "Row", "main"]

OURS, THEIRS = "unionfs", "skopeo + umoci"

LAYERS = ((12_000, 250), (5_000, 120), (2_900, 100), (100, 30))
"""Files and MB of each layer, bottom first."""

COMMAND_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Place:
    """Where one round of one contender works: a directory of its own, and the registries."""

    directory: Path
    full: str
    """``HOST:PORT`` of the registry that has the image."""
    empty: str
    """``HOST:PORT`` of one that has nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: what each contender runs, and what it has run before, untimed."""

    name: str
    ours: Commands
    theirs: Commands | None = None
    before_ours: Commands = lambda _place: []
    before_theirs: Commands = lambda _place: []


def unionfs(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "unionfs", *arguments]


def skopeo_pull(place: Place) -> list[str]:
    source = f"docker://{place.full}/image:v1"
    return ["skopeo", "copy", "-q", "--src-tls-verify=false", source, f"oci:{place.directory}/layout:v1"]


def skopeo_push(place: Place) -> list[str]:
    target = f"docker://{place.empty}/image:v1"
    return ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{place.directory}/layout:v1", target]


def umoci_unpack(place: Place) -> list[str]:
    return ["umoci", "unpack", "--image", f"{place.directory}/layout:v1", f"{place.directory}/bundle"]


def pull(place: Place) -> list[list[str]]:
    return [unionfs("pull", "-q", f"{place.full}/image:v1")]


def asking(*arguments: str) -> Row:
    """Make the row of one question about the image."""

    def commands(place: Place) -> list[list[str]]:
        return [unionfs(*(text.format(image=f"{place.full}/image:v1") for text in arguments))]

    return Row(name=arguments[0], ours=commands, before_ours=pull)


ROWS: tuple[Row, ...] = (
    Row(name="pull and unpack", ours=pull, theirs=lambda place: [skopeo_pull(place), umoci_unpack(place)]),
    Row(
        name="pull again",
        ours=pull,
        theirs=lambda place: [skopeo_pull(place)],
        before_ours=pull,
        before_theirs=lambda place: [skopeo_pull(place)],
    ),
    Row(
        name="push",
        ours=lambda place: [unionfs("push", "-q", f"{place.full}/image:v1", f"{place.empty}/image:v1")],
        theirs=lambda place: [skopeo_push(place)],
        before_ours=pull,
        before_theirs=lambda place: [skopeo_pull(place)],
    ),
    asking("images"),
    asking("ls", "{image}:/layer0"),
    asking("which", "{image}:/layer0/d0/f0"),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write the samples beside it."""
    parser = common_options("images")
    parser.add_argument("--rows", metavar="TEXT,...", help="only rows whose names contain one of these")
    options = parser.parse_args(argv)
    pin(options.pin)
    rows = [row for row in ROWS if not options.rows or any(text in row.name for text in options.rows.split(","))]
    missing = {name: "not installed" for name in ("docker-registry", "skopeo", "umoci") if not shutil.which(name)}
    results = Results({**machine(), "base": options.base, "rounds": options.rounds}, missing=missing)
    if "docker-registry" not in missing:
        with base(options.base) as top, stoppable(), registry(top / "full") as full:
            publish(top / "image", full, options.scale)
            for number in range(options.rounds):
                take_turns(results, rows, (top, full), number)
    print(render(results, rows))
    path = options.json or RESULTS / f"images-{options.base}-{results.about['commit']}.json"
    results.write(path)
    print(f"samples: {path}")


def take_turns(results: Results, rows: Sequence[Row], where: tuple[Path, str], number: int) -> None:
    """Let both do every row once, another one first in each round."""
    top, full = where
    for row in rows:
        for contender in (OURS, THEIRS) if number % 2 == 0 else (THEIRS, OURS):
            before, commands = (row.before_ours, row.ours) if contender == OURS else (row.before_theirs, row.theirs)
            if commands is None or (contender == THEIRS and {"skopeo", "umoci"} & results.missing.keys()):
                continue
            progress(f"round {number + 1}  {row.name}  {contender}")
            try:
                results.add(row.name, contender, number, measured(top, full, before, commands))
            except subprocess.SubprocessError as error:
                output = getattr(error, "stderr", None) or b""
                results.fail(row.name, contender, output.decode(errors="replace").strip() or str(error))
    progress("")


def measured(top: Path, full: str, before: Commands, commands: Commands) -> Sample:
    """Run commands in a fresh directory beside an empty registry; return their time and CPU."""
    with registry(top / "empty") as empty:
        place = Place(top / "work", full, empty)
        place.directory.mkdir()
        environment = {**os.environ, "UNIONFS_ROOT": str(place.directory / "store")}
        try:
            for command in before(place):
                run(command, environment)
            settled(top)
            used, start = cpu_of_children(), time.perf_counter_ns()
            for command in commands(place):
                run(command, environment)
            elapsed = time.perf_counter_ns() - start
            return Sample(elapsed, 1, cpu_of_children() - used)
        finally:
            shutil.rmtree(place.directory)


def run(command: list[str], environment: dict[str, str]) -> None:
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=COMMAND_SECONDS)


def cpu_of_children() -> float:
    """Return the seconds of CPU that ended children used; a registry that runs is not among them."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@contextlib.contextmanager
def registry(directory: Path) -> Iterator[str]:
    """Run docker-registry on a free port of loopback, and remove its data in the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    host = f"127.0.0.1:{port}"
    directory.mkdir()
    config = directory / "config.yml"
    storage = f"{{filesystem: {{rootdirectory: {directory}/data}}}}"
    config.write_text(f"version: 0.1\nlog: {{level: error}}\nstorage: {storage}\nhttp: {{addr: {host}}}\n")
    with subprocess.Popen(
        ["docker-registry", "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            while server.poll() is None:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.02)
            yield host
        finally:
            server.kill()
    shutil.rmtree(directory)


def publish(directory: Path, host: str, scale: float) -> None:
    """Make the image and push it; what it was made of is removed."""
    directory.mkdir()
    environment = {**os.environ, "UNIONFS_ROOT": str(directory / "store")}
    layout = f"{directory}/layout"
    run(["umoci", "init", "--layout", layout], environment)
    run(["umoci", "new", "--image", f"{layout}:v1"], environment)
    for number, (files, megabytes) in enumerate(LAYERS):
        tar = make_layer(directory, number, max(1, round(files * scale)), max(1, round(megabytes * scale)))
        run(["umoci", "raw", "add-layer", "--image", f"{layout}:v1", "--tag", "v1", str(tar)], environment)
        tar.unlink()
    target = f"docker://{host}/image:v1"
    run(["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:v1", target], environment)
    shutil.rmtree(directory)


def make_layer(directory: Path, number: int, files: int, megabytes: int) -> Path:
    """Write a layer's tar: two files of three hold words, the third what does not compress."""
    chance = random.Random(number)
    words = [bytes(chance.choices(range(97, 123), k=chance.randint(2, 9))) for _ in range(3000)]
    pools = (b" ".join(chance.choices(words, k=700_000)), chance.randbytes(8 << 20))
    tree = directory / f"tree{number}"
    for at in range(files):
        path = tree / f"layer{number}" / f"d{at // 60}" / f"f{at}"
        path.parent.mkdir(parents=True, exist_ok=True)
        left = max(16, round(chance.expovariate(files / (megabytes << 20))))
        with path.open("wb") as out:
            while left > 0:
                pool, size = pools[at % 3 == 0], min(left, 1 << 20)
                start = chance.randrange(len(pool) - size)
                out.write(pool[start : start + size])
                left -= size
    tar = directory / f"{number}.tar"
    subprocess.run(["tar", "-C", str(tree), "--owner=0", "--group=0", "-cf", str(tar), "."], check=True)
    shutil.rmtree(tree)
    return tar


def render(results: Results, rows: Sequence[Row]) -> str:
    lines = [["", OURS, "its CPU", THEIRS, "its CPU", f"{OURS}, x the other's"]]
    for row in rows:
        ratio = results.ratio(row.name, OURS, THEIRS)
        both = [cell for name in (OURS, THEIRS) for cell in cells(results, row.name, name)]
        lines.append([row.name, *both, times(ratio) if ratio else "-"])
    return "\n".join([grid(lines), "", *notes(results)])


def cells(results: Results, row: str, contender: str) -> list[str]:
    """Return a contender's time and CPU."""
    if contender in results.failures.get(row, {}):
        return ["failed", "-"]
    took = results.time(row, contender)
    if took is None:
        return ["-", "-"]
    used = sorted(sample.cpu_s for sample in results.samples[row][contender].values())
    return [duration(took.median), duration(used[len(used) // 2] * 1e9)]


if __name__ == "__main__":
    main()
