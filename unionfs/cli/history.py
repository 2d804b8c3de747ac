"""Show how an image was made, the last instruction first."""

import argparse
from typing import Any

from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import as_json, as_table, size
from unionfs.cli.store import created, opened, unpacked_sizes
from unionfs.oci.images import Image
from unionfs.oci.model import History

__all__ = ["configure", "run"]

WIDTH = 45


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    add = parser.add_argument
    add("--no-trunc", action="store_true", help="whole instructions and digests")
    add("-q", "--quiet", action="store_true", help="ids alone")
    add("--json", action="store_true", help="one JSON array, an object for each instruction")
    add("image", help="a name, an id, or the beginning of an id")


def run(args: argparse.Namespace) -> Exit:
    images, _ = opened()
    image = images.find(args.image)
    steps = _steps(image, unpacked_sizes(images))
    if args.json:
        print(as_json(steps), end="")
    elif args.quiet:
        for step in steps:
            print(step["Id"])
    else:
        rows = [
            [
                step["Id"] if args.no_trunc else step["Id"].removeprefix("sha256:")[:12],
                created(step["Created"]),
                step["CreatedBy"] if args.no_trunc else _cut(step["CreatedBy"]),
                size(step["Size"]),
                step["Comment"],
            ]
            for step in steps
        ]
        print(as_table(["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"], rows), end="")
    return Exit.OK


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"


def _steps(image: Image, sizes: dict[str, int]) -> list[dict[str, Any]]:
    """Return the instructions, newest first; sizes are of the content where the layer is unpacked, else of the blob."""
    layers = list(reversed(image.layers))
    steps: list[dict[str, Any]] = []
    for entry in reversed(image.config.history or tuple(History() for _ in layers)):
        layer = layers.pop(0) if not entry.empty_layer and layers else None
        steps.append(
            {
                "Id": "<missing>" if steps else str(image.id),
                "Created": entry.created or "",
                "CreatedBy": entry.created_by or "",
                "Size": sizes.get(layer.chain_id, layer.blob.size) if layer else 0,
                "Comment": entry.comment or "",
                "Layer": str(layer.diff_id) if layer else None,
                "EmptyLayer": layer is None,
            }
        )
    return steps
