"""Do something as another user: in a child process that becomes him, and says what came of it."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["USER", "as_user", "outcome"]

USER = 54321
"""Nobody's: a number that no user of the machine has."""


def as_user(act: Callable[[], Any], *, uid: int = USER, groups: Sequence[int] = (), gid: int | None = None) -> Any:
    """Return what *act* returns (something JSON can say) in a process of that user."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups(groups)
            os.setgid(uid if gid is None else gid)
            os.setuid(uid)
            os.write(writing, json.dumps(act()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        said = file.read()
    os.waitpid(pid, 0)
    assert said, "the child died"
    return json.loads(said)


def outcome(act: Callable[[Path], object], root: Path) -> str:
    """Return what came of *act*: its value, or the name of its errno."""
    try:
        value = act(root)
    except OSError as exc:
        return os.strerror(exc.errno or 0)
    return "done" if value is None or not isinstance(value, bytes | str | int | list) else repr(value)
