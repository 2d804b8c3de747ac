"""Write one self-contained HTML page about an image: layers, a treemap, wasted space, every file."""

import argparse

from unionfs.analysis.report import LayerFacts, render
from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import size
from unionfs.cli.store import writing
from unionfs.cli.target import view_of

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    add = parser.add_argument
    add("-o", "--output", metavar="FILE", help="where to; stdout without it")
    add("--platform", metavar="OS/ARCH[/VARIANT]", help="which image of an archive's index")
    add("image", help="an image, archive, container or directory")


def run(args: argparse.Namespace) -> Exit:
    view = view_of(args.image, args.platform)
    layers = [
        LayerFacts(
            name=layer.name,
            entries=layer.entries,
            created=(layer.made.created if layer.made else None) or "",
            created_by=" ".join((layer.made.created_by or "").split()) if layer.made else "",
            packed_size=layer.packed_size,
        )
        for layer in view.layers
    ]
    packed = sum(layer.packed_size or 0 for layer in layers)
    facts = {"layers": str(len(layers)), "packed": size(packed)} if packed else {"layers": str(len(layers))}
    with writing(args.output) as target:
        target.write(render(view.name, facts, layers).encode())
    return Exit.OK
