"""Who types the commands of the demo, and what looks at the files that they leave."""

import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import unionfs
from unionfs.errors import UnionFSError

__all__ = ["MOUNT", "PROGRAM", "Tree", "Typist", "fingerprint", "heading", "is_whiteout", "summary"]

PROGRAM = (sys.executable, "-m", "unionfs")
"""What stands for the word ``unionfs`` in the commands that are shown."""

MOUNT = "merged"
"""The directory in which every union of the demo is mounted."""

Tree = dict[str, tuple[int, int, int]]
"""Mode, size (0 but for files) and modification time (ns) of every entry of a tree by its path."""


class Typist:
    """Runs commands as a user would: in one directory, with the command echoed and its output shown."""

    def __init__(self, here: Path) -> None:
        self.here = here
        self.environment = {
            **os.environ,
            "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(Path(unionfs.__file__).parents[1]),
            "UNIONFS_ROOT": str(here / "store"),
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


def is_whiteout(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def summary(layer: Path) -> str:
    entries = [path.lstat() for path in layer.rglob("*")]
    size = sum(entry.st_size for entry in entries if stat.S_ISREG(entry.st_mode))
    return f"{len(entries):6} entries, {size / 1e6:5.1f} MB"


def fingerprint(tree: Path) -> Tree:
    found = {str(path.relative_to(tree)): path.lstat() for path in tree.rglob("*")}
    return {
        path: (entry.st_mode, entry.st_size if stat.S_ISREG(entry.st_mode) else 0, entry.st_mtime_ns)
        for path, entry in found.items()
    }
