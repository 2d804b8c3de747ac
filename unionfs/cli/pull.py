"""Pull images from their registries, or from the mirrors that registries.toml names.

Progress is on stderr, and only on a terminal. --verbose prints each host that is asked, what came
of it, and why it went on to the next. What is stored already is not fetched again, and a blob that
broke off, even days ago, goes on where it stopped.
"""

import argparse
from typing import TYPE_CHECKING, Any

from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import as_json
from unionfs.errors import ConfigError, NoSuchImage

if TYPE_CHECKING:
    from unionfs.cli.transfer import Watch
    from unionfs.oci.images import Image, Images
    from unionfs.oci.registry.pull import Pulled

__all__ = ["configure", "run"]

EPILOG = """examples:
  unionfs pull debian:12
  unionfs pull --platform linux/arm64 quay.io/team/app@sha256:...
  unionfs pull --verbose localhost:5000/app
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.epilog = EPILOG
    parser.add_argument("--platform", metavar="OS/ARCH[/VARIANT]", help="another one than this machine's")
    parser.add_argument("-a", "--all-tags", action="store_true", help="every tag of the repository NAME")
    parser.add_argument("-q", "--quiet", action="store_true", help="print the names alone, no progress")
    parser.add_argument("-v", "--verbose", action="store_true", help="print each attempt, and why it went on")
    parser.add_argument("--json", action="store_true", help="print one JSON array, an object for each image")
    parser.add_argument("names", nargs="+", metavar="NAME[:TAG|@DIGEST]")


def run(args: argparse.Namespace) -> Exit:
    from unionfs.cli.transfer import Watch
    from unionfs.oci.images import Images

    images = Images()
    results = []
    with Watch(verbose=args.verbose, bars=not args.quiet) as watch:
        for name in _every_tag(args.names, watch) if args.all_tags else args.names:
            pulled, image, news = _pull(images, name, args.platform, watch)
            results.append(_values(pulled, image, watch))
            if args.quiet and not args.json:
                print(pulled.reference)
            elif not args.json:
                print(f"Digest: {pulled.root.digest}\nStatus: {news} for {pulled.reference.familiar}")
                print(pulled.reference)
    if args.json:
        print(as_json(results), end="")
    return Exit.OK


def _every_tag(names: list[str], watch: "Watch") -> list[str]:
    """Return the full name of every tag of these repositories."""
    import trio

    from unionfs.oci.reference import Reference
    from unionfs.oci.registry import config
    from unionfs.oci.registry.credentials import DockerConfig
    from unionfs.oci.registry.tags import all_tags

    found: list[str] = []
    for name in names:
        reference = Reference.parse(name)
        if reference != Reference(reference.registry, reference.repository) or name.endswith(":latest"):
            raise ConfigError(f"{name}: --all-tags goes with a name that has no tag and no digest")
        found += map(str, trio.run(all_tags, reference, config.load(), DockerConfig.load(), watch))
    return found


def _pull(images: "Images", name: str, platform: str | None, watch: "Watch") -> tuple["Pulled", "Image", str]:
    """Pull and name one image; also say whether that changed anything."""
    import trio

    from unionfs.oci.platforms import parse_platform
    from unionfs.oci.reference import Reference
    from unionfs.oci.registry import config
    from unionfs.oci.registry.credentials import DockerConfig
    from unionfs.oci.registry.pull import Pull
    from unionfs.oci.snapshots import Snapshots

    reference = Reference.parse(name)
    pull = Pull(
        reference=reference,
        store=images.blobs,
        registries=config.load(),
        docker=DockerConfig.load(),
        platform=parse_platform(platform) if platform else None,
        observer=watch,
        snapshots=Snapshots(images.root, images.blobs, images.database),
    )
    with images.using():
        before = _named(images, reference)
        pulled = trio.run(pull.run)
        image = images.add(pulled.descriptor, reference, pulled.root)
    same = before is not None and before.descriptor == image.descriptor
    return pulled, image, "Image is up to date" if same else "Downloaded newer image"


def _named(images: "Images", reference: object) -> "Image | None":
    try:
        return images.find(str(reference))
    except NoSuchImage:
        return None


def _values(pulled: "Pulled", image: "Image", watch: "Watch") -> dict[str, Any]:
    return {
        "name": str(pulled.reference),
        "digest": str(pulled.root.digest),
        "manifest": str(pulled.descriptor.digest),
        "id": str(image.id),
        "platform": f"{image.config.os}/{image.config.architecture}",
        "size": image.size,
        "received": pulled.received,
        "layers": [
            {"digest": str(layer.blob.digest), "size": layer.blob.size, "outcome": watch.outcomes[layer.blob.digest]}
            for layer in image.layers
        ],
    }
