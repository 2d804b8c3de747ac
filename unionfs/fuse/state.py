"""What the daemons leave for other commands to find: one record a mount, in a runtime directory.

``/run/unionfs`` for root, ``$XDG_RUNTIME_DIR/unionfs`` for a user, else ``unionfs-UID`` in the
directory for temporary files. A record is a file named after the daemon's pid, or its supervisor's. It is
written whole or not at all, and it is believed only while that very process lives: the time at which the process
started is in it, so a pid that was given to somebody else later is noticed. A mount does not depend
on its record: where none can be written there is a mount all the same, which only knows less about
itself.
"""

import contextlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Record", "directories", "own_directory", "read_all", "remove", "started", "statistics_file"]


class Record(NamedTuple):
    """One mount, as its daemon describes it. Paths are absolute."""

    pid: int
    started: int
    """When the daemon started, in clock ticks since boot; tells it from a later process with its pid."""
    mountpoint: str
    device: str
    """``MAJOR:MINOR`` of the mount's st_dev."""
    engine: str
    lower: list[str]
    data_only: Sequence[str] = ()
    upper: str | None = None
    work: str | None = None
    read_only: bool = False
    supervisor: int | None = None
    """The process that keeps the mount if the daemon dies; None if nobody does."""
    supervisor_started: int = 0
    restarts: int = 0
    """How often another daemon took over."""
    log: str | None = None
    """Where the daemon reports errors; None if it is in the foreground."""

    def is_alive(self) -> bool:
        """Return whether the daemon still runs, or will again."""
        return self.owner is not None

    @property
    def owner(self) -> int | None:
        """The process that the mount lives by: the supervisor, or the daemon if there is none; None if it is dead."""
        for pid, when in ((self.supervisor, self.supervisor_started), (self.pid, self.started)):
            if pid is not None and started(pid) == when:
                return pid
        return None

    def write(self, directory: Path) -> Path:
        """Write the record, replacing an older one of the same mount."""
        path = directory / f"{self.supervisor or self.pid}.json"
        replace(path, json.dumps(self._asdict(), indent=1))
        return path


def replace(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    Nobody else may ever write it, though the process has the umask of whoever last made a file in the mount.
    """
    temporary = path.with_suffix(".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    temporary.replace(path)


def statistics_file(directory: Path, pid: int) -> Path:
    """Return where the daemon writes its counts each time it gets SIGUSR1."""
    return directory / f"{pid}.stats"


def remove(directory: Path, *pids: int | None) -> None:
    """Remove what processes left in *directory*, and what others left that are gone: they were killed."""
    for path in directory.iterdir():
        owner = path.name.partition(".")[0]
        if owner.isdigit() and (int(owner) in pids or started(int(owner)) is None):
            with contextlib.suppress(OSError):
                path.unlink()


def own_directory() -> Path | None:
    """Return the directory for our own records, made if it is missing; None if there is no safe one."""
    for path in _candidates():
        with contextlib.suppress(OSError):
            path.mkdir(mode=0o755 if os.geteuid() == 0 else 0o700, exist_ok=True)
            found = path.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and os.access(path, os.W_OK):
                return path
    return None


def _candidates() -> Iterator[Path]:
    if os.geteuid() == 0:
        yield Path("/run/unionfs")
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime, "unionfs")
    import tempfile

    yield Path(tempfile.gettempdir(), f"unionfs-{os.geteuid()}")


def directories() -> list[Path]:
    """Return every directory that may hold records which we can read: ours, and for root the users' ones."""
    found = [*_candidates(), Path("/run/unionfs"), *Path("/run/user").glob("*/unionfs")]
    return [path for path in dict.fromkeys(found) if path.is_dir()]


def read_all() -> Iterator[tuple[Path, Record]]:
    """Yield the records of mounts that live; one that is malformed or left over is passed by."""
    for directory in directories():
        for path in sorted(directory.glob("*.json")):
            record = _read(path)
            owner = record.owner if record is not None else None
            if record is not None and owner is not None and _is_by_its_daemon(path, owner):
                yield directory, record


def _is_by_its_daemon(path: Path, pid: int) -> bool:
    """Return whether a record is by the process it names, so that no user can make root signal another's."""
    try:
        return path.lstat().st_uid == os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return False


def _read(path: Path) -> Record | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
        return Record(**content)
    except (OSError, ValueError, TypeError):
        return None


def started(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None if there is none (or only its zombie)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return None if fields[0] == "Z" else int(fields[19])
