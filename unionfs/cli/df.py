"""Show what the store's disk space is used for: every byte below its root is in one of the rows.

RECLAIMABLE is what prune would give back; with -v, each layer and container is shown.
"""

import argparse
from typing import Any

from unionfs.cli.entries import when_ns
from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import as_json, as_table, size
from unionfs.cli.store import created, opened
from unionfs.oci import gc
from unionfs.oci.accounting import Row, account, layers
from unionfs.oci.containers import Containers
from unionfs.oci.images import Images

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    add = parser.add_argument
    add("-v", "--verbose", action="store_true", help="each layer, with the images that share it, and each container")
    add("--json", action="store_true", help="one JSON object: Rows, Layers, Containers, Total")


def run(args: argparse.Namespace) -> Exit:
    images, _ = opened()
    rows = account(images)
    total = sum(row.size for row in rows)
    if args.json:
        values = {
            "Root": str(images.root),
            "Rows": [_values(row) for row in rows],
            "Layers": [
                {"ChainId": layer.chain_id, "Size": layer.size, "Files": layer.files, "Images": layer.images}
                for layer in layers(images)
            ],
            "Containers": _containers(images),
            "Total": total,
            "OnDisk": gc.tree_size(images.root),
        }
        print(as_json(values), end="")
        return Exit.OK
    shown = [[row.kind, row.count, row.active, size(row.size), size(row.reclaimable)] for row in rows]
    shown.append(["Total", "", "", size(total), size(sum(row.reclaimable for row in rows))])
    print(as_table(["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"], shown), end="")
    if args.verbose:
        print()
        found = [[layer.chain_id[7:19], layer.images, layer.files, size(layer.size)] for layer in layers(images)]
        print(as_table(["LAYER", "IMAGES", "FILES", "SIZE"], found), end="")
        print()
        kept = [
            [it["Name"], it["Image"][7:19], it["Mountpoint"] or "-", created(it["Created"]), size(it["Size"])]
            for it in _containers(images)
        ]
        print(as_table(["CONTAINER", "IMAGE ID", "MOUNTED ON", "CREATED", "SIZE"], kept), end="")
    return Exit.OK


def _containers(images: Images) -> list[dict[str, Any]]:
    containers = Containers(images)
    places = {mount.container: mount.mountpoint for mount in containers.mounted()}
    return [
        {
            "Name": container.name,
            "Image": str(images.by_manifest(container.image).id),
            "Created": when_ns(container.created_ns),
            "Mountpoint": places.get(container.name),
            "Size": gc.tree_size(container.directory) if container.directory.exists() else 0,
        }
        for container in containers.all()
    ]


def _values(row: Row) -> dict[str, Any]:
    return {
        "Type": row.kind,
        "TotalCount": row.count,
        "Active": row.active,
        "Size": row.size,
        "Reclaimable": row.reclaimable,
    }
