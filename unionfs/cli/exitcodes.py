"""Exit statuses, and which error leads to which. The README lists them."""

import enum
import errno
from typing import Final

from unionfs.errors import ConfigError, ImageError, MalformedName, NoSuchImage, NoSuchPath, UnionFSError

__all__ = ["REPORTED", "Exit", "describe", "status_of"]


class Exit(enum.IntEnum):
    """What a command ends with."""

    OK = 0
    FAILED = 1
    """It was refused or went wrong; one line on stderr says why."""
    USAGE = 2
    """The options make no sense, alone or together, or a name is none."""
    IMAGE = 3
    """An image is not what its digest or its schema says, or it or a container is in use."""
    NOT_FOUND = 4
    """What was asked about does not exist."""


REPORTED: Final[dict[type[Exception], Exit]] = {
    ConfigError: Exit.USAGE,
    MalformedName: Exit.USAGE,
    NoSuchImage: Exit.NOT_FOUND,
    NoSuchPath: Exit.NOT_FOUND,
    ImageError: Exit.IMAGE,
    UnionFSError: Exit.FAILED,
    OSError: Exit.FAILED,
}
"""Errors shown as one line; the first match counts. Any other error is a bug: a traceback."""


_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def status_of(exc: Exception) -> Exit | None:
    """Return the status for an error, or None for a bug."""
    return next((status for kind, status in REPORTED.items() if isinstance(exc, kind)), None)


def describe(exc: Exception) -> tuple[int, str]:
    """Return the exit status for *exc* and the text for stderr: one line, or a traceback for a bug."""
    status = status_of(exc)
    if status is None:
        import traceback

        return Exit.FAILED, "".join(traceback.format_exception(exc))
    return status, f"unionfs: error: {one_line(exc)}\n"


def one_line(exc: Exception) -> str:
    r"""Return what *exc* says, on one line and without Python's own decoration.

    >>> one_line(PermissionError(13, "Permission denied", "/root/x"))
    '/root/x: Permission denied'
    """
    text = str(exc)
    if isinstance(exc, OSError) and exc.strerror:
        name = exc.filename.decode("utf-8", "replace") if isinstance(exc.filename, bytes) else exc.filename
        text = f"{name}: {exc.strerror}" if name else exc.strerror
        if exc.errno in _FULL and "; try: " not in text:
            text += "; make room and try again"
    return text.replace("\n", "\\n")
