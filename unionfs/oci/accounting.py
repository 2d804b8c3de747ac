"""Where the store's bytes are: a row for each kind of thing, and together they are all of its root."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from unionfs.oci.containers import Containers
from unionfs.oci.gc import Garbage, garbage, tree_size
from unionfs.oci.images import Images

__all__ = ["LayerRow", "Row", "account", "layers"]

_PARTS = ("blobs", "layers", "indexes", "containers", "partial", "staging")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Bytes on disk of one kind of thing."""

    kind: str
    count: int
    active: int
    """How many of them something leads to."""
    size: int
    reclaimable: int
    """Bytes of the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """One unpacked layer."""

    chain_id: str
    size: int
    """Bytes of content."""
    files: int
    images: int
    """How many images have it."""


def account(images: Images) -> list[Row]:
    """Return the rows; their sizes add up to what `gc.tree_size` says of the root."""
    doomed = garbage(images)
    rows = [
        _row("Blobs", images.root / "blobs/sha256", doomed, {"blob"}, images.root / "blobs"),
        _row("Layers", images.root / "layers", doomed, {"layer"}),
        _row("Layer indexes", images.root / "indexes", doomed, {"index"}),
        _containers(images),
        _row("Partial downloads", images.root / "partial", doomed, {"partial"}),
        _row("Left by crashes", images.root / "staging", doomed, {"staging"}),
    ]
    rest = [entry for entry in os.scandir(images.root) if entry.name not in _PARTS]
    size = sum(tree_size(Path(entry.path)) for entry in rest) + os.lstat(images.root).st_blocks * 512
    return [*rows, Row(kind="Metadata", count=len(rest), active=len(rest), size=size, reclaimable=0)]


def _row(kind: str, directory: Path, doomed: Iterable[Garbage], kinds: set[str], top: Path | None = None) -> Row:
    count = len(os.listdir(directory))
    gone = [item for item in doomed if item.kind in kinds]
    return Row(
        kind=kind,
        count=count,
        active=count - len(gone),
        size=tree_size(top or directory),
        reclaimable=sum(item.size for item in gone),
    )


def _containers(images: Images) -> Row:
    directory = images.root / "containers"
    mounted = {mount.container for mount in Containers(images).mounted() if mount.container}
    return Row(
        kind="Containers",
        count=len(os.listdir(directory)),
        active=len(mounted),
        size=tree_size(directory),
        reclaimable=0,
    )


def layers(images: Images) -> list[LayerRow]:
    """Return the unpacked layers, the largest first."""
    with images.database.reading() as db:
        rows = db.execute(
            "SELECT layers.chain_id, size, files, COALESCE(layer_uses.images, 0) AS images "
            "FROM layers LEFT JOIN layer_uses USING (chain_id) ORDER BY size DESC, layers.chain_id"
        ).fetchall()
    return [LayerRow(**dict(row)) for row in rows]
