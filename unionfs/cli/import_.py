"""Make an image of one layer out of a tar of a root file system; ``-`` reads it from stdin.

--change takes the instructions CMD, ENTRYPOINT, ENV, LABEL, USER and WORKDIR.
"""

import argparse
import json
import os
import shlex
from collections.abc import Sequence

from msgspec.structs import replace

from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import as_json
from unionfs.cli.store import opened, reading, row_of
from unionfs.errors import ConfigError
from unionfs.oci.make import Note, import_root
from unionfs.oci.model import RunConfig
from unionfs.oci.reference import Reference

__all__ = ["add_changes", "changed", "configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    add = parser.add_argument
    add_changes(parser)
    add("file", help="a tar, plain or compressed with gzip, zstd, xz or bzip2")
    add("name", nargs="?", metavar="NAME[:TAG]", help="what to call the image")


def add_changes(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-c", "--change", action="append", default=[], metavar="INSTRUCTION", help="such as 'CMD [\"sh\"]'")
    add("-m", "--message", metavar="TEXT", help="a comment for the history")
    add("-a", "--author", metavar="NAME")
    add("--json", action="store_true", help="print one JSON object, the image as `unionfs images` has it")


def run(args: argparse.Namespace) -> Exit:
    images, _ = opened()
    name = Reference.parse(args.name) if args.name else None
    if os.path.isdir(args.file):
        raise ConfigError(f"{args.file} is a directory; try: tar -C {args.file} -c . | unionfs import - NAME")
    note = Note(created_by=f"unionfs import {args.file}", comment=args.message, author=args.author)
    config = changed(RunConfig(), args.change)
    with images.using(), reading(args.file) as source:
        image = import_root(images, source, name, note, config)
    print(as_json(row_of(image)) if args.json else f"{image.id}\n", end="")
    return Exit.OK


def changed(config: RunConfig, instructions: Sequence[str]) -> RunConfig:
    """Return *config* after instructions of a Dockerfile.

    >>> changed(RunConfig(), ['CMD ["a", "b"]', "ENV A=1", "USER me"]).cmd
    ('a', 'b')
    """
    for text in instructions:
        verb, _, rest = text.strip().partition(" ")
        rest = rest.strip()
        match verb.upper():
            case "CMD":
                config = replace(config, cmd=_argv(rest))
            case "ENTRYPOINT":
                config = replace(config, entrypoint=_argv(rest))
            case "USER":
                config = replace(config, user=rest)
            case "WORKDIR":
                config = replace(config, working_dir=rest)
            case "ENV":
                kept = {entry.partition("=")[0]: entry for entry in config.env or ()} | _pairs(rest)
                config = replace(config, env=tuple(kept.values()))
            case "LABEL":
                labels = {key: pair.partition("=")[2] for key, pair in _pairs(rest).items()}
                config = replace(config, labels={**(config.labels or {}), **labels})
            case _:
                raise ConfigError(f"--change {text!r}: known are CMD, ENTRYPOINT, ENV, LABEL, USER, WORKDIR")
    return config


def _argv(text: str) -> tuple[str, ...]:
    if not text.startswith("["):
        return ("/bin/sh", "-c", text)
    try:
        parts = json.loads(text)
    except ValueError:
        parts = None
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise ConfigError(f"{text!r} is not a JSON array of strings")
    return tuple(parts)


def _pairs(text: str) -> dict[str, str]:
    pairs = {}
    for part in shlex.split(text):
        key, equals, _ = part.partition("=")
        if not equals or not key:
            raise ConfigError(f"{part!r} is not KEY=VALUE")
        pairs[key] = part
    return pairs
