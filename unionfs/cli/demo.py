"""``unionfs demo``: the whole idea on real files, in about a minute.

It types what a user would type, echoes each command, and checks what it shows: a demo that shows the wrong thing
exits non-zero. Three layers are unpacked from the distribution's own packages, mounted as one, entered with chroot,
changed, explained, unmounted. Everything happens in one temporary directory, which goes at the end, however it ends.

Needs root (for chroot and for whiteouts, which are device nodes); another user is asked for it through sudo.
"""

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import unionfs
from unionfs.cli.exitcodes import Exit
from unionfs.errors import UnionFSError

__all__ = ["configure", "demo", "run"]

PROGRAM = (sys.executable, "-m", "unionfs")
"""What stands for the word ``unionfs`` in the commands that are shown."""

BASE = ("base-files", "dash", "coreutils")
"""The lowest layer: directories and a name for the system, a shell, and programs; with what they depend on."""

TOOLS = ("hello",)
"""The layer above it: one package more."""

STACK = ("site", "tools", "base")
"""The directories of the layers, top first."""

MOUNT = "merged"
MERGED_USR = ("bin", "sbin", "lib", "lib64")
"""Directories that newer distributions have under /usr only, with a symlink at the root."""

GREET = '#!/bin/sh\nhello --greeting="Greetings from $(head -n 1 /etc/issue)"\n'

DELETED = "usr/share/doc/hello/copyright"
"""A file of the tools layer that the demo deletes."""


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
    command = ["sudo", *PROGRAM, "demo"]
    print(f"$ {shlex.join(command)}", flush=True)
    return command


def demo() -> None:
    with workplace() as here:
        typed = Typist(here)
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


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A temporary directory, left with nothing mounted in it and then removed."""
    here = Path(tempfile.mkdtemp(prefix="unionfs-demo-"))
    try:
        yield here
    finally:
        if os.path.ismount(here / MOUNT):
            subprocess.run(["umount", "--lazy", here / MOUNT], check=False)
        if not os.path.ismount(here / MOUNT):
            shutil.rmtree(here)


class Typist:
    """Runs commands as a user would: in one directory, with the command echoed and its output shown."""

    def __init__(self, here: Path) -> None:
        self.here = here
        self.environment = {
            **os.environ,
            "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": str(Path(unionfs.__file__).parents[1]),
            "LC_ALL": "C.UTF-8",
        }

    def note(self, text: str) -> None:
        print(f"  {text}", flush=True)

    def run(self, *command: str, fails: bool = False) -> str:
        """Echo *command*, run it, show and return what it prints; one that *fails* is expected to."""
        print(f"$ {shlex.join(command)}", flush=True)
        done = self.quietly(*command, check=False)
        for line in done.stdout.splitlines():
            self.note(line)
        if (done.returncode != 0) is not fails:
            raise UnionFSError(f"{shlex.join(command)} ended with status {done.returncode}")
        return done.stdout

    def inside(self, script: str, shows: str = "", *, fails: bool = False) -> None:
        """Run *script* by the shell in the union; its output must contain *shows*."""
        output = self.run("chroot", MOUNT, "/bin/sh", "-c", script, fails=fails)
        if shows not in output:
            raise UnionFSError(f"expected to see {shows!r}")

    def quietly(self, *command: str, cwd: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*PROGRAM, *command[1:]] if command[0] == "unionfs" else command,
            cwd=cwd or self.here,
            env=self.environment,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if check and done.returncode:
            raise UnionFSError(f"{shlex.join(command)}: {done.stdout.strip()}")
        return done


def heading(text: str) -> None:
    print(f"\n== {text}", flush=True)


def with_dependencies(typed: Typist, packages: tuple[str, ...]) -> tuple[str, ...]:
    """Return *packages* and what they depend on to run; base-files runs nothing, so nothing is asked for it."""
    kinds = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    command = ["apt-cache", "depends", "--recurse", *(f"--no-{kind}" for kind in kinds), *packages[1:]]
    lines = typed.quietly(*command).stdout.splitlines()
    return tuple(sorted({packages[0], *(line for line in lines if line[:1].isalnum())}))


def unpack(typed: Typist, layer: str, packages: tuple[str, ...]) -> None:
    """Unpack *packages* into the directory *layer*, downloading those that are not in the cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unionfs" / "demo"
    cache.mkdir(parents=True, exist_ok=True)
    files = archives(typed, packages)
    if missing := [package for package, file in files.items() if not (cache / file).exists()]:
        typed.note(f"(downloading {len(missing)} packages into {cache})")
        typed.quietly("apt-get", "-o", "APT::Sandbox::User=root", "download", *missing, cwd=cache)
    typed.run("mkdir", layer)
    print(f"$ for package in {' '.join(files)}; do dpkg-deb -x $package*.deb {layer}; done", flush=True)
    for file in files.values():
        typed.quietly("dpkg-deb", "-x", str(cache / file), layer)
    for name in MERGED_USR:
        merged, link = typed.here / layer / "usr" / name, typed.here / layer / name
        if layer == "base" and merged.is_dir() and not os.path.lexists(link):
            link.symlink_to(f"usr/{name}")


def archives(typed: Typist, packages: tuple[str, ...]) -> dict[str, str]:
    """Return the name of each package's file; a fresh machine is told to fetch its package lists first."""
    command = ("apt-get", "download", "--print-uris", *packages)
    listed = typed.quietly(*command, check=False)
    if listed.returncode:
        typed.quietly("apt-get", "update")
        listed = typed.quietly(*command)
    names = sorted(line.split()[1] for line in listed.stdout.splitlines() if line.startswith("'"))
    return {name.split("_")[0]: name for name in names}


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


def compare_with_the_kernel(typed: Typist, shown: dict[str, tuple[int, int, int]]) -> None:
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


def is_whiteout(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def summary(layer: Path) -> str:
    entries = [path.lstat() for path in layer.rglob("*")]
    size = sum(entry.st_size for entry in entries if stat.S_ISREG(entry.st_mode))
    return f"{len(entries):6} entries, {size / 1e6:5.1f} MB"


def fingerprint(tree: Path) -> dict[str, tuple[int, int, int]]:
    """Return mode, size (0 but for files) and modification time (ns) of every entry of *tree* by its path."""
    found = {str(path.relative_to(tree)): path.lstat() for path in tree.rglob("*")}
    return {
        path: (entry.st_mode, entry.st_size if stat.S_ISREG(entry.st_mode) else 0, entry.st_mtime_ns)
        for path, entry in found.items()
    }
