"""Every error unionfs raises on purpose.

* UnionFSError              the user asked for something we refuse; the CLI prints one line
  - FSError                 also an OSError: a filesystem call failed, ``errno`` is the reply
    + ReadOnlyUnion         EROFS   there is no upper layer to write to
    + CrossesLayers         EXDEV   rename would have to copy a whole directory
    + BadMark               EIO     a mark in a layer cannot be believed
      . BadRedirect         EINVAL  a redirect that no union would have written
    + RefusedMark           EPERM   a mark that this union was told not to follow
    + StaleLayer            ESTALE  a layer is not the one the upper was written over
  - ConfigError             mount options that are malformed or contradict each other
  - StackError              the layers cannot be stacked: missing, unreadable, nested in each other
    + LayerInUse            another union that lives has the upper layer or the work directory
  - MountError              the stack is good, but the mount could not be made
  - ImageError              an image that is not what its digest or its schema says
    + MalformedName           what should name an image or a platform cannot
    + NoSuchImage           the store has no image, layer or container of that name
    + NoSuchPath            an image has no file of that name
  - RegistryError           a registry refused, failed, or could not be reached

A plain POSIX outcome (no such file, not empty, no permission) is Python's own OSError subclass:
``FileNotFoundError`` already says ENOENT and needs no second name here.
"""

import errno
import os
from typing import ClassVar

__all__ = [
    "BadMark",
    "BadRedirect",
    "ConfigError",
    "CrossesLayers",
    "FSError",
    "ImageError",
    "LayerInUse",
    "MalformedName",
    "MountError",
    "NoSuchImage",
    "NoSuchPath",
    "ReadOnlyUnion",
    "RefusedMark",
    "RegistryError",
    "StackError",
    "StaleLayer",
    "UnionFSError",
]


class UnionFSError(Exception):
    """The user asked for something unionfs refuses; the message names the cause and the cure."""


class FSError(UnionFSError, OSError):
    """A filesystem call failed. Subclasses fix the errno, call sites say why."""

    code: ClassVar[int] = errno.EIO

    def __init__(self, why: str = "") -> None:
        message = os.strerror(self.code)
        super().__init__(self.code, f"{message}: {why}" if why else message)


class ReadOnlyUnion(FSError):
    """A change was asked of a union without an upper layer, or of one mounted read-only."""

    code = errno.EROFS


class CrossesLayers(FSError):
    """A directory of a lower layer cannot move: redirects are off, or this one would be too long."""

    code = errno.EXDEV


class BadMark(FSError):
    """A whiteout, opaque, redirect or metacopy mark that no union would have written."""

    code = errno.EIO


class BadRedirect(BadMark):
    """A redirect that no union would have written: relative with slashes, or with empty components."""

    code = errno.EINVAL


class RefusedMark(FSError):
    """A redirect under ``redirect_dir=nofollow``, or a metacopy file under ``metacopy=off``."""

    code = errno.EPERM


class StaleLayer(FSError):
    """The upper layer remembers a lower file that is no longer there."""

    code = errno.ESTALE


class ConfigError(UnionFSError):
    """Options that are malformed, unknown in a strict form, or contradict each other."""


class StackError(UnionFSError):
    """Layers that cannot be stacked; the message says which one and what to do."""


class LayerInUse(StackError):
    """The upper layer or the work directory belongs to a union that is still open; it may be closing."""


class MountError(UnionFSError):
    """The mount could not be made, or unmade."""


class ImageError(UnionFSError):
    """An image that is not what its digest or its schema says, or that something stands in the way of."""


class MalformedName(ImageError):
    """A text that can be no image's name, or no platform; the message says which part is wrong."""


class NoSuchImage(ImageError):
    """The store has no image, layer or container of that name."""


class NoSuchPath(ImageError):
    """An image has no file of that name."""

    def __init__(self, path: bytes, why: str = "no such file in the image") -> None:
        super().__init__(f"/{os.fsdecode(path).lstrip('/')}: {why}")


class RegistryError(UnionFSError):
    """A registry or mirror refused, failed, or could not be reached; the message names it."""
