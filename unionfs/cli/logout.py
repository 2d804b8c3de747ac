"""Log out of a registry: forget its credentials, in docker's config.json or the helper it names.

Without REGISTRY it is docker.io. Exit status 0 also where there was nothing to forget, as docker's.
"""

import argparse

from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import as_json

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("registry", nargs="?", metavar="REGISTRY")


def run(args: argparse.Namespace) -> Exit:
    from unionfs.oci.registry.credentials import DockerConfig
    from unionfs.oci.registry.login import log_out, registry_named

    registry = registry_named(args.registry)
    removed = log_out(registry, DockerConfig.load())
    if args.json:
        print(as_json({"registry": registry, "removed": removed}), end="")
    else:
        print(f"Removing login credentials for {registry}" if removed else f"Not logged in to {registry}")
    return Exit.OK
