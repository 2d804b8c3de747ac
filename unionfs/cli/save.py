"""Write images to an archive, or to a directory, that docker, podman, skopeo and umoci load."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import as_json
from unionfs.cli.store import opened, require_output, writing
from unionfs.errors import ConfigError, ImageError
from unionfs.oci.reference import Reference
from unionfs.oci.save import FORMATS, save

if TYPE_CHECKING:
    from unionfs.oci.images import Image

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    add = parser.add_argument
    add("--format", choices=FORMATS, default="docker-archive", help="docker-archive without it")
    add("-o", "--output", metavar="FILE", help="where to; stdout without it")
    add("--json", action="store_true", help="one JSON object: Output, Format, Images; needs -o")
    add("images", nargs="+", metavar="IMAGE", help="a name, an id, or the beginning of an id")


def run(args: argparse.Namespace) -> Exit:
    require_output(args)
    images, _ = opened()
    with images.using():
        chosen: dict[str, tuple[Image, list[Reference]]] = {}
        for text in args.images:
            image = images.find(text)
            _, names = chosen.setdefault(image.id, (image, []))
            names += [name for name in image.names if _means(text, name) and name not in names]
        if args.format.endswith("-dir"):
            if args.output is None:
                raise ConfigError(f"{args.format} is a directory; try: -o DIRECTORY")
            save(images.blobs, list(chosen.values()), args.format, Path(args.output))
        else:
            with writing(args.output) as target:
                save(images.blobs, list(chosen.values()), args.format, target)
    if args.json:
        saved = [{"Id": key, "Names": [name.familiar for name in names]} for key, (_, names) in chosen.items()]
        print(as_json({"Output": args.output, "Format": args.format, "Images": saved}), end="")
    return Exit.OK


def _means(text: str, name: Reference) -> bool:
    try:
        return Reference.parse(text) == name
    except ImageError:
        return False
