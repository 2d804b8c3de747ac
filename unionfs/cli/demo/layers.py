"""The first half: directories as layers of one filesystem."""

import os
import shlex
from pathlib import Path

from unionfs.cli.demo.packages import unpack, with_dependencies
from unionfs.cli.demo.typist import MOUNT, Tree, Typist, fingerprint, heading, is_whiteout, summary
from unionfs.errors import UnionFSError

__all__ = ["show"]

BASE = ("base-files", "dash", "coreutils")
"""The lowest layer: directories and a name for the system, a shell, and programs; with what they depend on."""

TOOLS = ("hello",)
"""The layer above it: one package more."""

STACK = ("site", "tools", "base")
"""The directories of the layers, top first."""

GREET = '#!/bin/sh\nhello --greeting="Greetings from $(head -n 1 /etc/issue)"\n'

DELETED = "usr/share/doc/hello/copyright"
"""A file of the tools layer that the demo deletes."""


def show(typed: Typist) -> None:
    here = typed.here
    heading("Three layers out of real packages")
    unpack(typed, "base", with_dependencies(typed, BASE))
    unpack(typed, "tools", TOOLS)
    change(typed)
    for layer in reversed(STACK):
        typed.note(f"{layer:6}{summary(here / layer)}")
    before = {layer: fingerprint(here / layer) for layer in STACK}

    heading("Mounted as one filesystem")
    lowers = [word for layer in STACK for word in ("--lower", layer)]
    typed.run("mkdir", "upper", "work", MOUNT)
    typed.run("unionfs", "mount", *lowers, "--upper", "upper", "--work", "work", MOUNT)
    typed.run("unionfs", "mounts")
    look_inside(typed)
    write_inside(typed)
    shown = fingerprint(here / MOUNT)

    heading("Unmounted")
    typed.run("unionfs", "umount", MOUNT)
    if before != {layer: fingerprint(here / layer) for layer in STACK}:
        raise UnionFSError("a lower layer was changed")
    count = sum(len(files) for files in before.values())
    typed.note(f"The three layers are what they were: {count} entries compared. All changes are in upper.")
    compare_with_the_kernel(typed, shown)


def change(typed: Typist) -> None:
    """Make the topmost layer by hand, as an image build would have: one new file, one changed, one deleted."""
    site = typed.here / "site"
    typed.run("mkdir", "-p", "site/usr/bin", "site/usr/local/bin", "site/etc")
    (site / "usr/local/bin/greet").write_text(GREET, encoding="utf-8")
    (site / "usr/local/bin/greet").chmod(0o755)
    typed.note("site/usr/local/bin/greet is a new program")
    (site / "etc/issue").write_text("the demo\n", encoding="utf-8")
    typed.note("site/etc/issue replaces the one of base")
    typed.run("mknod", "site/usr/bin/yes", "c", "0", "0")
    typed.note("site/usr/bin/yes is a whiteout: it deletes the one of base")


def look_inside(typed: Typist) -> None:
    heading("Programs run inside it")
    typed.inside("hello", "Hello, world!")
    typed.inside("greet", "Greetings from the demo")
    typed.inside("yes", "not found", fails=True)

    heading("Which layer each file comes from")
    for path in ("bin/sh", "usr/bin/hello", "etc/issue", "usr/local/bin/greet", "usr/bin/yes"):
        typed.note(f"/{path:22}{provenance(typed.here, path)}")


def write_inside(typed: Typist) -> None:
    heading("Files are changed and deleted inside it")
    typed.inside("echo and its reader >> /etc/issue")
    typed.inside("cat /etc/issue", "the demo\nand its reader\n")
    typed.inside("mv /usr/bin/hello /usr/bin/hi")
    typed.inside("hi", "Hello, world!")
    typed.inside(f"rm /{DELETED}")
    typed.inside(f"ls /{DELETED}", "No such file", fails=True)
    typed.inside("mkdir /home/new && echo something > /home/new/file")
    typed.inside("cat /home/new/file", "something")

    heading("What the upper layer holds now")
    upper = typed.here / "upper"
    for entry in sorted(upper.rglob("*")):
        path = str(entry.relative_to(upper))
        lower = next((layer for layer in STACK if os.path.lexists(typed.here / layer / path)), None)
        if is_whiteout(entry):
            typed.note(f"upper/{path:36}a whiteout: deletes the one of {lower}")
        elif lower is None:
            typed.note(f"upper/{path:36}new")
        elif not entry.is_dir():
            typed.note(f"upper/{path:36}copied up from {lower}, then changed")


def compare_with_the_kernel(typed: Typist, shown: Tree) -> None:
    """Let the kernel's overlayfs, where there is one, mount the same layers: it must show what we have *shown*."""
    heading("The same layers, mounted by the kernel's overlayfs")
    options = f"lowerdir={':'.join(STACK)},upperdir=upper,workdir=work"
    command = ("mount", "-t", "overlay", "overlay", "-o", options, MOUNT)
    if typed.quietly(*command, check=False).returncode:
        typed.note("(skipped: this kernel cannot mount an overlayfs here)")
        return
    print(f"$ {shlex.join(command)}", flush=True)
    if fingerprint(typed.here / MOUNT) != shown:
        raise UnionFSError("the kernel shows another tree")
    typed.note(f"It shows the same tree: {len(shown)} entries compared.")
    typed.run("umount", MOUNT)


def provenance(here: Path, path: str) -> str:
    """Say which layer *path* comes from, and what that one hides."""
    top, *hidden = (layer for layer in STACK if os.path.lexists(here / layer / path))
    verb = "deleted by" if is_whiteout(here / top / path) else "from"
    return f"{verb} {top}" + (f", hides the one of {' and '.join(hidden)}" if hidden else "")
