"""Show everything about images, with docker's keys."""

import argparse
from typing import Any

import msgspec

from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import as_json
from unionfs.cli.store import opened, row_of
from unionfs.oci.images import Image, Images
from unionfs.oci.snapshots import Snapshots

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    add = parser.add_argument
    add("--raw", choices=["manifest", "config"], help="print that document's own bytes instead")
    add("--json", action="store_true", help="accepted, and always so")
    add("images", nargs="+", metavar="IMAGE", help="a name, an id, or the beginning of an id")


def run(args: argparse.Namespace) -> Exit:
    images, snapshots = opened()
    found = [images.find(text) for text in args.images]
    if args.raw:
        for image in found:
            digest = image.descriptor.digest if args.raw == "manifest" else image.id
            print(images.blobs.get(digest).decode())
        return Exit.OK
    print(as_json([_values(images, snapshots, image) for image in found]), end="")
    return Exit.OK


def _values(images: Images, snapshots: Snapshots, image: Image) -> dict[str, Any]:
    row, config = row_of(image), image.config
    history = config.history or ()
    unpacked = [layer for layer in image.layers if snapshots.has(layer.chain_id)]
    directories = [str(snapshots.path(layer.chain_id)) for layer in reversed(unpacked)]
    whole = len(unpacked) == len(image.layers)
    return {
        **{key: row[key] for key in ("Id", "RepoTags", "RepoDigests")},
        "Parent": "",
        "Comment": history[-1].comment or "" if history else "",
        "Created": config.created or "",
        "Author": config.author or "",
        "Config": msgspec.to_builtins(config.config) if config.config else {},
        "Architecture": config.architecture,
        "Variant": config.variant or "",
        "Os": config.os,
        "Size": image.size,
        "GraphDriver": {"Name": "unionfs", "Data": {"LowerDir": ":".join(directories)} if whole else None},
        "RootFS": {"Type": "layers", "Layers": list(map(str, config.rootfs.diff_ids))},
        "Metadata": {"LastTagTime": None},
        "Digest": row["Digest"],
        "MediaType": image.descriptor.media_type,
        "Annotations": image.manifest.annotations or {},
        "LayersData": [_layer(images, snapshots, image, position) for position in range(len(image.layers))],
    }


def _layer(images: Images, snapshots: Snapshots, image: Image, position: int) -> dict[str, Any]:
    layer = image.layers[position]
    made = image.config.instructions()[position]
    return {
        "MediaType": layer.blob.media_type,
        "Digest": str(layer.blob.digest),
        "Size": layer.blob.size,
        "DiffId": str(layer.diff_id),
        "ChainId": str(layer.chain_id),
        "CreatedBy": made.created_by if made else None,
        "Unpacked": snapshots.has(layer.chain_id),
        "Annotations": layer.blob.annotations or {},
        "Present": images.blobs.has(layer.blob.digest),
    }
