"""Check that the store is sound: every name leads to something whole, all is what its digest says.

With --repair, what is damaged is removed or made anew: blobs come back with the next pull, layers are
unpacked again when they are wanted. Garbage is reported and left to prune. Status 0: sound, or
repaired; 1: problems are left.
"""

import argparse

from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import as_json
from unionfs.cli.store import opened
from unionfs.linux.flock import Lock
from unionfs.oci.verify import check

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    add = parser.add_argument
    add("--repair", action="store_true", help="remove or make anew what is damaged")
    add("--quick", action="store_true", help="do not read the content of blobs and layers")
    add("--json", action="store_true", help="one JSON array, an object for each problem")


def run(args: argparse.Namespace) -> Exit:
    images, _ = opened()
    with Lock(images.root / "locks" / "store"):
        found = check(images, repair=args.repair, content=not args.quick)
    left = [problem for problem in found if not (problem.repaired or problem.harmless)]
    if args.json:
        values = [
            {
                "Kind": problem.kind,
                "Name": problem.name,
                "What": problem.what,
                "Repaired": problem.repaired,
                "Harmless": problem.harmless,
            }
            for problem in found
        ]
        print(as_json(values), end="")
        return Exit.FAILED if left else Exit.OK
    for problem in found:
        state = "repaired" if problem.repaired else "note" if problem.harmless else "PROBLEM"
        print(f"{state}: {problem.kind} {problem.name[:64]}: {problem.what}")
    print(f"{len(left)} problems" if left else "the store is sound")
    return Exit.FAILED if left else Exit.OK
