"""Mounts of the kernel's own overlayfs, and whether one of them writes where a union is about to.

The kernel keeps its layers in use by a flag in memory that no program can read or set, so our locks say
nothing to it and its flag says nothing to us. What can be seen is the list of mounts of this mount
namespace. A mount in another namespace, or one made with relative paths, which the kernel shows as they
were typed, is not found. A path is shown with the backslashes that it was passed with, in octal then.

Source: Linux fs/overlayfs/params.c, ovl_show_options(), and fs/overlayfs/super.c, ovl_inuse_trylock().
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

from unionfs.core.options import unescape
from unionfs.linux.mount import Mount, mounts, plain

__all__ = ["Claim", "claims_by_identity", "find_claim"]

_Identity: TypeAlias = tuple[int, int]


class Claim(NamedTuple):
    """A directory that a live mount of the kernel writes in."""

    mountpoint: str
    option: str
    """``upperdir`` or ``workdir``, as that mount calls it."""
    path: str


def claims_by_identity() -> dict[_Identity, Claim]:
    """Return every directory in use by the kernel, by its st_dev and st_ino."""
    found = {}
    for claim in _claims(mounts()):
        with contextlib.suppress(OSError):
            st = os.stat(claim.path)
            found[st.st_dev, st.st_ino] = claim
    return found


def find_claim(directory: Path) -> Claim | None:
    """Return a directory in use by the kernel that is *directory*, lies in it, or has it inside."""
    ours = _line(directory)
    for claim in _claims(mounts()):
        with contextlib.suppress(OSError):  # a path of another root, or out of reach
            theirs = _line(Path(claim.path))
            if theirs[0] in ours or ours[0] in theirs:
                return claim
    return None


def _claims(found: list[Mount]) -> Iterator[Claim]:
    for mount in found:
        if mount.type != "overlay":
            continue
        for word in mount.super_options.split(","):
            option, _, value = word.partition("=")
            if option in {"upperdir", "workdir"} and value.startswith("/"):
                yield Claim(mount.mountpoint, option, unescape(plain(value)))


def _line(path: Path) -> list[_Identity]:
    """Return what *path* and its parents are, whatever names lead there, the directory itself first."""
    real = path.resolve(strict=True)
    stats = [os.stat(place) for place in (real, *real.parents)]
    return [(st.st_dev, st.st_ino) for st in stats]
