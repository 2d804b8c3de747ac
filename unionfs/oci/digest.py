"""Digests: the names of content, and copies that cannot lie.

Only sha256 is known. The image specification also registers sha512, but no registry and no builder
in the field uses it; a name of another algorithm is refused with that algorithm in the message.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import Final, Protocol, Self

from unionfs.errors import ImageError

__all__ = ["CHUNK", "Digest", "DigestMismatch", "Reader", "Writer", "chain_ids", "copy_verified"]

CHUNK: Final = 1 << 20
"""Bytes moved at a time: memory never depends on the size of a layer."""

_SHA256: Final = re.compile(r"sha256:[0-9a-f]{64}")


class Reader(Protocol):
    """The part of a binary file that streams need."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most *size* bytes; nothing means the end."""


class Writer(Protocol):
    """The part of a binary file that sinks need."""

    def write(self, data: bytes, /) -> int:
        """Take all of *data*."""


class DigestMismatch(ImageError):
    """The content is not the one its digest names."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"content is {got}, but {expected} was promised")


class Digest(str):
    """A sha256 digest, checked when it is made: a Digest in hand is a well-formed one.

    It is its own text, ``sha256:`` and 64 digits, so that JSON and SQL take it as it is.

    >>> Digest.of(b"").short
    'e3b0c44298fc'
    >>> Digest("sha256:xyz")
    Traceback (most recent call last):
    ...
    unionfs.errors.ImageError: not a sha256 digest: 'sha256:xyz'
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Check *text*."""
        if not _SHA256.fullmatch(text):
            raise ImageError(f"not a sha256 digest: {text!r}")
        return super().__new__(cls, text)

    @classmethod
    def of(cls, content: bytes) -> Self:
        """Return the name of *content*."""
        return cls("sha256:" + hashlib.sha256(content).hexdigest())

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """Return the digest of 64 hex digits."""
        return cls("sha256:" + text)

    @property
    def hex(self) -> str:
        """The 64 digits, as file names in a layout use them."""
        return self.removeprefix("sha256:")

    @property
    def short(self) -> str:
        """The 12 digits that people see and type."""
        return self.hex[:12]


def copy_verified(source: Reader, target: Writer, expected: Digest) -> int:
    """Copy *source* to *target* and return its size in bytes.

    *target* holds all of the content when the check fails; the caller stages it and drops it.

    Raises:
        DigestMismatch: the content is not the one *expected* names.
    """
    hasher, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK):
        hasher.update(chunk)
        target.write(chunk)
        size += len(chunk)
    if hasher.hexdigest() != expected.hex:
        raise DigestMismatch(expected, f"sha256:{hasher.hexdigest()}")
    return size


def chain_ids(diff_ids: Iterable[Digest]) -> tuple[Digest, ...]:
    """Return the chain id of each layer, bottom first, as the diff ids are.

    A chain id names a layer *on top of* its parents, so two images share a directory only where
    everything below is equal too. Source: OCI image-spec config.md, "Layer ChainID".
    """
    chain: list[Digest] = []
    for diff_id in diff_ids:
        chain.append(Digest.of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return tuple(chain)
