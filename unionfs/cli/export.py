"""Write what an image or a container shows as one tar: all layers merged, whiteouts applied."""

import argparse

from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import as_json
from unionfs.cli.store import note_layer, opened, require_output, writing
from unionfs.errors import NoSuchImage
from unionfs.oci.containers import Container, Containers
from unionfs.oci.images import Image, Images
from unionfs.oci.make import export

__all__ = ["configure", "container_or_image", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.add_argument("-o", "--output", metavar="FILE", help="where to; stdout without it")
    parser.add_argument("--json", action="store_true", help="one JSON object: Output, Id, Container; needs -o")
    parser.add_argument("name", help="a container, or an image by name or id")


def run(args: argparse.Namespace) -> Exit:
    require_output(args)
    images, snapshots = opened()
    with images.using():
        container, image = container_or_image(images, args.name)
        chain = snapshots.ensure(image.layers, note_layer)
        with writing(args.output) as target:
            export(snapshots, chain, container.upper if container else None, target)
    if args.json:
        told = {"Output": args.output, "Id": image.id, "Container": container.name if container else None}
        print(as_json(told), end="")
    return Exit.OK


def container_or_image(images: Images, text: str) -> tuple[Container | None, Image]:
    """Return what *text* means; a container's name comes before an image's."""
    try:
        container = Containers(images).find(text)
    except NoSuchImage:
        return None, images.find(text)
    return container, images.by_manifest(container.image)
