"""Pull an image again and again, each time killed one step later, and look at what is left.

Run as a program of its own, because it forks: ``python -m tests.registry.killed ROOT NAME``. A step is
anything that changes the disk: a file made, renamed, removed or written to, a transaction, an fsync;
making directories and locks, which mean nothing by being there, is none. Before step K the child kills
itself as the kernel would. Prints a JSON object for each K.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import trio

from unionfs.oci.images import Images
from unionfs.oci.reference import Reference
from unionfs.oci.registry.credentials import DockerConfig
from unionfs.oci.registry.mirrors import Registries
from unionfs.oci.registry.pull import Pull
from unionfs.oci.snapshots import Snapshots
from unionfs.oci.store import BlobWriter
from unionfs.oci.verify import check

__all__ = ["main"]

EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "sqlite3.connect"}


def pull(root: Path, name: str) -> None:
    """Pull as the command does."""
    images = Images(root)
    reference = Reference.parse(name)
    pulling = Pull(
        reference=reference,
        store=images.blobs,
        registries=Registries(),
        docker=DockerConfig(root / "no-such-file"),
        snapshots=Snapshots(images.root, images.blobs, images.database),
    )
    with images.using():
        pulled = trio.run(pulling.run)
        images.add(pulled.descriptor, reference, pulled.root)


def die_before(step: int) -> None:
    """Count steps from here on, and die before number *step*."""
    left = step

    def count(*_args: object) -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event in EVENTS or (event == "open" and makes(args)):
            count()

    def makes(args: tuple[object, ...]) -> bool:
        path, _, flags = args
        return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR)) and "/locks/" not in str(path)

    write, fsync = BlobWriter.write, os.fsync

    def counted_write(self: BlobWriter, data: bytes) -> int:
        count()
        return write(self, data)

    def counted_fsync(fd: Any) -> None:
        count()
        fsync(fd)

    BlobWriter.write = counted_write  # type: ignore[method-assign]  # the fault
    os.fsync = counted_fsync
    sys.addaudithook(hook)


def forked(root: Path, name: str, step: int | None) -> int:
    """Pull in a child that dies before *step*; return what it ended with, as waitpid has it."""
    pid = os.fork()
    if pid == 0:
        try:
            if step is not None:
                die_before(step)
            pull(root, name)
        except BaseException as exc:  # noqa: BLE001 - the parent hears of it by the status
            print(f"{type(exc).__name__}: {exc}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def wrong(root: Path, *, repair: bool = False) -> list[str]:
    """Return what `unionfs check` would find wrong, or could not repair."""
    problems = check(Images(root), repair=repair)
    return [f"{each.name}: {each.what}" for each in problems if not each.harmless and not (repair and each.repaired)]


def repaired(root: Path) -> list[str]:
    """Return what is wrong with a copy of the store even after a repair."""
    copy = root.with_name("copy")
    shutil.copytree(root, copy)
    try:
        return wrong(copy, repair=True)
    finally:
        shutil.rmtree(copy)


def whole(root: Path) -> list[bool]:
    """Return for each image whether all its layers are there."""
    images = Images(root)
    snapshots = Snapshots(images.root, images.blobs, images.database)
    return [all(snapshots.has(layer.chain_id) for layer in image.layers) for image in images.all()]


def main() -> None:
    root, name = Path(sys.argv[1]), sys.argv[2]
    step, killed = 0, True
    while killed:
        status = forked(root, name, step)
        killed = os.WIFSIGNALED(status)
        after = {"repaired": repaired(root), "whole": whole(root)} if root.exists() else {}
        again = forked(root, name, None)
        then = {"wrong": wrong(root), "whole": whole(root)}
        print(json.dumps({"step": step, "status": status, "after": after, "again": again, "then": then}), flush=True)
        shutil.rmtree(root)
        step += 1


if __name__ == "__main__":
    main()
