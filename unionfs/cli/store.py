"""What the commands about images share: the store, its values in docker's words, and how they look."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from unionfs.errors import ConfigError
from unionfs.oci.images import Image, Images
from unionfs.oci.snapshots import Snapshots

if TYPE_CHECKING:
    from unionfs.oci.images import LayerOf

__all__ = [
    "age",
    "created",
    "note_layer",
    "opened",
    "reading",
    "require_output",
    "row_of",
    "unpacked_sizes",
    "when",
    "writing",
]


def opened() -> tuple[Images, Snapshots]:
    """Open the store."""
    images = Images()
    return images, Snapshots.of(images)


def row_of(image: Image, *, mounted: bool = False) -> dict[str, Any]:
    """Return one image as listings and ``--json`` show it, with the keys of podman and docker."""
    return {
        "Id": str(image.id),
        "RepoTags": [name.familiar for name in image.names if name.tag],
        "RepoDigests": sorted({f"{n.familiar_name}@{r.digest}" for n, r in zip(image.names, image.roots, strict=True)}),
        "Digest": str(image.descriptor.digest),
        "Created": image.config.created or "",
        "Size": image.size,
        "Layers": len(image.layers),
        "Dangling": not image.names,
        "Mounted": mounted,
    }


def unpacked_sizes(images: Images) -> dict[str, int]:
    """Return the bytes that each unpacked layer's content has, by chain id."""
    with images.database.reading() as db:
        return {row["chain_id"]: row["size"] for row in db.execute("SELECT chain_id, size FROM layers")}


def when(text: str | None) -> datetime | None:
    """Read a time as images write it; None where it is missing or none.

    >>> when("2024-01-02T03:04:05.123456789Z").isoformat()
    '2024-01-02T03:04:05+00:00'
    """
    try:
        return datetime.fromisoformat(text[:19]).replace(tzinfo=UTC) if text else None
    except ValueError:
        return None


def created(text: str | None) -> str:
    """Return the age of something for people."""
    moment = when(text)
    return age((datetime.now(UTC) - moment).total_seconds()) + " ago" if moment else "unknown"


def age(seconds: float) -> str:
    """Return a span of time, roughly.

    >>> age(5), age(90), age(86400 * 3), age(86400 * 400)
    ('5 seconds', '1 minute', '3 days', '13 months')
    """
    for unit, length in (("year", 86400 * 730), ("month", 86400 * 30), ("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // (length if unit != "year" else 86400 * 365))
            return f"{count} {unit}{'s' if count != 1 else ''}"
    count = max(0, int(seconds))
    return f"{count} second{'s' if count != 1 else ''}"


def note_layer(layer: "LayerOf", what: str) -> None:
    """Say on a terminal's stderr what happens to a layer that takes a while."""
    if sys.stderr.isatty() and what == "unpacking":
        print(f"unpacking layer {layer.diff_id.short}", file=sys.stderr)


@contextmanager
def reading(path: str) -> Iterator[BinaryIO]:
    """Open an input: a file, or ``-`` for stdin."""
    if path == "-":
        yield sys.stdin.buffer
        return
    with Path(path).open("rb") as file:
        yield file


def require_output(args: argparse.Namespace) -> None:
    """Refuse to mix an archive and JSON on stdout."""
    if args.json and args.output in {None, "-"}:
        raise ConfigError("--json is printed where the archive would go; try: -o FILE")


@contextmanager
def writing(path: str | None) -> Iterator[BinaryIO]:
    """Open an output: a file that appears when the block ends well, or stdout, unless that is a terminal."""
    if path is None or path == "-":
        if sys.stdout.isatty():
            raise ConfigError("refusing to write an archive to a terminal; try: -o FILE")
        yield cast(BinaryIO, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    target = Path(path)
    if target.exists() and not target.is_file():  # a device or a pipe
        with target.open("wb") as file:
            yield file
        return
    staged = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with _created(staged, target) as file:
            yield file
        staged.rename(target)
    finally:
        staged.unlink(missing_ok=True)


def _created(staged: Path, target: Path) -> BinaryIO:
    try:
        return staged.open("xb")
    except OSError as error:
        raise OSError(error.errno, f"cannot be written: {error.strerror}", str(target)) from None
