"""``unionfs demo``: the whole idea on real files, in about a minute.

It types what a user would type, echoes each command, and checks what it shows: a demo that shows the wrong thing
exits non-zero. Layers are unpacked from the distribution's own packages, mounted as one, entered with chroot,
changed, explained, unmounted; then the same files become an image, which goes to a registry and comes back.
Everything happens in one temporary directory, which goes at the end, however it ends.

Needs root (for chroot and for whiteouts, which are device nodes); another user is asked for it through sudo.
"""

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from unionfs.cli.demo import images, layers
from unionfs.cli.demo.typist import PROGRAM, Typist
from unionfs.cli.exitcodes import Exit
from unionfs.errors import UnionFSError
from unionfs.linux import mount as kernel

__all__ = ["configure", "demo", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__


def run(_: argparse.Namespace) -> Exit:
    """Run the demo, as root: another user is asked for that right through sudo."""
    if os.geteuid() != 0:
        return Exit.FAILED if subprocess.call(sudo()) else Exit.OK
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    demo()
    return Exit.OK


def sudo() -> list[str]:
    """Return the command that runs the demo as root, echoed; UnionFSError without sudo."""
    if shutil.which("sudo") is None:
        raise UnionFSError("chroot and whiteouts are for root; try: run it as root, or install sudo")
    python, *program = PROGRAM
    command = ["sudo", python, "-B", *program, "demo"]  # -B: no file of root's in the user's checkout
    print(f"$ {shlex.join(command)}", flush=True)
    return command


def demo() -> None:
    with workplace() as here:
        typed = Typist(here)
        layers.show(typed)
        images.show(typed)


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A temporary directory, left with nothing mounted in it and then removed."""
    here = Path(tempfile.mkdtemp(prefix="unionfs-demo-"))
    try:
        yield here
    finally:
        for place in reversed(mounted_below(here)):
            kernel.umount(place, kernel.MNT_DETACH)
        if not mounted_below(here):
            shutil.rmtree(here)


def mounted_below(here: Path) -> list[str]:
    return [mount.mountpoint for mount in kernel.mounts() if Path(mount.mountpoint).is_relative_to(here)]
