"""Remove containers, with everything that was changed in them. Their images stay."""

import argparse
import sys

from unionfs.cli.exitcodes import Exit, describe
from unionfs.cli.render import as_json
from unionfs.cli.store import opened
from unionfs.errors import ImageError, NoSuchImage
from unionfs.oci.containers import Containers

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.epilog = "`unionfs df -v` lists them."
    parser.add_argument("-f", "--force", action="store_true", help="missing ones are fine")
    parser.add_argument("--json", action="store_true", help="one JSON object: Removed")
    parser.add_argument("containers", nargs="+", metavar="NAME", help="as it was given to mount --rw")


def run(args: argparse.Namespace) -> Exit:
    images, _ = opened()
    containers = Containers(images)
    status, removed = Exit.OK, list[str]()
    for name in args.containers:
        try:
            with images.using():  # as in rmi
                containers.remove(containers.find(name))
        except ImageError as error:
            if not (args.force and isinstance(error, NoSuchImage)):
                code, message = describe(error)
                status = Exit(code)
                print(message, end="", file=sys.stderr)
        else:
            removed.append(name)
    print(as_json({"Removed": removed}) if args.json else "".join(f"{name}\n" for name in removed), end="")
    return status
