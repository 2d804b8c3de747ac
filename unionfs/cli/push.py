"""Push an image to a registry, under its own name or another one.

Layers the registry already has, in this repository or another one of it, are not sent. The image
keeps its digest. Mirrors are never pushed to. Of an image for many platforms all are sent if all are
here, with their index, else the one that the name means; --platform sends one alone.
"""

import argparse
from typing import TYPE_CHECKING, Any

from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import as_json
from unionfs.errors import ConfigError, ImageError, NoSuchImage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from unionfs.cli.transfer import Watch
    from unionfs.oci.digest import Digest
    from unionfs.oci.images import Image, Images
    from unionfs.oci.model import Descriptor
    from unionfs.oci.reference import Reference
    from unionfs.oci.registry.push import Pushed

__all__ = ["configure", "run"]

EPILOG = """examples:
  unionfs push registry.example/team/app:v1
  unionfs push 0123456789ab registry.example/team/app:v1
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.epilog = EPILOG
    parser.add_argument("-a", "--all-tags", action="store_true", help="every tag of the repository IMAGE")
    parser.add_argument("--platform", metavar="OS/ARCH[/VARIANT]", help="only the image for this one, without an index")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument("-v", "--verbose", action="store_true", help="print each step that was not plain")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with --all-tags an array")
    parser.add_argument("image", metavar="IMAGE", help="a name, or the beginning of an id")
    parser.add_argument("name", nargs="?", metavar="NAME[:TAG]", help="where to, if it is not the image's own name")


def run(args: argparse.Namespace) -> Exit:
    from unionfs.cli.transfer import Watch
    from unionfs.oci.images import Images

    images = Images()
    results = []
    with images.using(), Watch(verbose=args.verbose, bars=not args.quiet) as watch:
        for text, name in _wanted(images, args):
            image = images.find(text)
            root = _root(image, text)
            if args.platform:
                image = _of_platform(images, image, root, args.platform)
                root = image.descriptor
            pushed = _push(images, image, root, name, watch)
            results.append(_values(pushed, image))
            if not args.json and not args.quiet:
                print(f"{name.tag}: digest: {pushed.descriptor.digest} size: {pushed.descriptor.size}")
    if args.json:
        print(as_json(results if args.all_tags else results[0]), end="")
    return Exit.OK


def _wanted(images: "Images", args: argparse.Namespace) -> "list[tuple[str, Reference]]":
    """Return what is pushed, as it is called here, and under which name it goes."""
    from unionfs.oci.reference import Reference

    if not args.all_tags:
        return [(args.image, Reference.parse(args.name or args.image))]
    if args.name:
        raise ConfigError("--all-tags pushes to the names that the images have; leave the second one out")
    repository = Reference.parse(args.image).name
    names = sorted(name for image in images.all() for name in image.names if name.name == repository and name.tag)
    if not names:
        raise NoSuchImage(f"no image of the repository {args.image!r}; try: unionfs images")
    return [(str(name), name) for name in names]


def _of_platform(images: "Images", image: "Image", root: "Descriptor", text: str) -> "Image":
    """Return the one of *root*'s images that fits a platform."""
    from msgspec.structs import replace

    from unionfs.oci.model import INDEX_TYPES, parse_index
    from unionfs.oci.platforms import Platform, choose, parse_platform

    config = image.config
    own = Platform(os=config.os, architecture=config.architecture, variant=config.variant)
    there: Sequence[Descriptor] = [replace(image.descriptor, platform=own)]
    if root.media_type in INDEX_TYPES:
        there = parse_index(images.blobs.get(root.digest)).manifests
    chosen = choose(there, parse_platform(text))
    try:
        return images.by_manifest(chosen.digest)
    except NoSuchImage:
        raise NoSuchImage(f"the image for {text} is not here; try: unionfs pull --platform {text}") from None


def _push(images: "Images", image: "Image", root: "Descriptor", name: "Reference", watch: "Watch") -> "Pushed":
    import trio

    from unionfs.oci.registry import config
    from unionfs.oci.registry.credentials import DockerConfig
    from unionfs.oci.registry.push import Push

    push = Push(
        reference=name,
        root=root,
        descriptor=image.descriptor,
        store=images.blobs,
        registries=config.load(),
        docker=DockerConfig.load(),
        observer=watch,
        elsewhere=_elsewhere(images, name),
    )
    return trio.run(push.run)


def _root(image: "Image", text: str) -> "Descriptor":
    """Return what the name means, an index perhaps; an id means its image alone."""
    from unionfs.oci.reference import Reference

    try:
        named = dict(zip(image.names, image.roots, strict=True))
        return named.get(Reference.parse(text), image.descriptor)
    except ImageError:
        return image.descriptor


def _elsewhere(images: "Images", reference: "Reference") -> "Callable[[Digest], Sequence[str]]":
    """Return a function from a blob to the repositories of this registry that should hold it."""
    held: dict[Digest, list[str]] = {}
    for image in images.all():
        repositories = {name.repository for name in image.names if name.registry == reference.registry}
        for digest in (image.manifest.config.digest, *(layer.blob.digest for layer in image.layers)):
            held.setdefault(digest, []).extend(sorted(repositories - {reference.repository}))
    return lambda digest: held.get(digest, ())


def _values(pushed: "Pushed", image: "Image") -> dict[str, Any]:
    return {
        "name": str(pushed.reference),
        "digest": str(pushed.descriptor.digest),
        "id": str(image.id),
        "media_type": pushed.descriptor.media_type,
        "size": pushed.descriptor.size,
        "sent": pushed.sent,
    }
