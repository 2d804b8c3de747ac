"""Show what an image's layers waste.

That is files overwritten or deleted by later layers, copies that a chmod or chown made, and duplicates.
Efficiency is bytes that are shown / bytes that are stored.

--ci prints a verdict for each threshold and ends with status 1 where one is missed.
"""

import argparse
import os
from collections.abc import Sequence
from typing import Any, Final

from unionfs.analysis.usage import Usage, duplicates, usage
from unionfs.cli.entries import shown_path
from unionfs.cli.exitcodes import Exit
from unionfs.cli.find import UNITS
from unionfs.cli.render import as_json, as_table, printable, size
from unionfs.cli.target import view_of
from unionfs.errors import ConfigError
from unionfs.oci.view import View

__all__ = ["configure", "run"]

MIN_EFFICIENCY: Final = 0.9
"""What --ci wants where nobody says more or less."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    add = parser.add_argument
    add("-n", "--top", type=int, default=10, metavar="N", help="how many offenders and duplicates")
    add("--ci", action="store_true", help="judge by the thresholds, and show nothing else")
    add("--min-efficiency", type=_part, metavar="PART", help="of --ci: 0.9 without it")
    add("--max-wasted", metavar="N[kMG]", help="of --ci: bytes that may be wasted")
    add("--max-wasted-part", type=_part, metavar="PART", help="of --ci: part of all bytes that may be wasted")
    add("--platform", metavar="OS/ARCH[/VARIANT]", help="which image of an archive's index")
    add("--json", action="store_true", help="one JSON object")
    add("images", nargs="+", metavar="IMAGE", help="images, archives or containers; duplicates are sought in all")


def run(args: argparse.Namespace) -> Exit:
    thresholds = (args.min_efficiency, args.max_wasted, args.max_wasted_part)
    if not args.ci and thresholds != (None, None, None):
        raise ConfigError("thresholds judge nothing without --ci; try: unionfs du --ci ...")
    views = [view_of(text, args.platform) for text in args.images]
    accounts = [usage([layer.entries for layer in view.layers]) for view in views]
    found = duplicates((layer.name, layer.entries) for view in views for layer in view.layers)
    checks = [check for view, account in zip(views, accounts, strict=True) for check in _checks(view, account, args)]
    if args.json:
        values: dict[str, Any] = {
            "Images": [_values(view, account, args.top) for view, account in zip(views, accounts, strict=True)],
            "Duplicates": [
                {
                    "Digest": f"sha256:{each.digest.hex()}",
                    "Size": each.size,
                    "Wasted": each.wasted,
                    "Places": [{"Layer": layer, "Path": shown_path(path)} for layer, path in each.places],
                }
                for each in found[: args.top]
            ],
            "Checks": [{"Image": name, "Check": what, "Passed": passed} for name, what, passed in checks],
        }
        print(as_json(values), end="")
    elif not args.ci:
        for view, account in zip(views, accounts, strict=True):
            _print(view, account, args.top)
        if found:
            rows = [[size(each.wasted), len(each.places), printable(os.fsdecode(each.places[0][1]))] for each in found]
            print("duplicates:\n" + as_table(["WASTED", "COPIES", "FIRST"], rows[: args.top]))
    else:
        print("".join(f"{'pass' if passed else 'FAIL'}  {name}: {what}\n" for name, what, passed in checks), end="")
    return Exit.FAILED if args.ci and not all(passed for *_, passed in checks) else Exit.OK


def _checks(view: View, account: Usage, args: argparse.Namespace) -> Sequence[tuple[str, str, bool]]:
    least = MIN_EFFICIENCY if args.min_efficiency is None else args.min_efficiency
    told = f"efficiency {account.efficiency:.4f}, at least {least} wanted"
    checks = [(view.name, told, account.efficiency >= least)]
    if args.max_wasted is not None:
        most = _bytes(args.max_wasted)
        checks.append((view.name, f"{account.wasted} bytes wasted, at most {most} wanted", account.wasted <= most))
    if args.max_wasted_part is not None:
        part = account.wasted / account.total if account.total else 0.0
        checks.append(
            (
                view.name,
                f"{part:.4f} of all bytes wasted, at most {args.max_wasted_part} wanted",
                part <= args.max_wasted_part,
            )
        )
    return checks


def _part(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no part of a whole: write 0.9")
    return number


def _bytes(text: str) -> int:
    number, unit = (text[:-1], text[-1]) if text[-1:] in {"k", "M", "G"} else (text, "")
    if not number.isdigit():
        raise ConfigError(f"--max-wasted {text!r}: write 20M")
    return int(number) * UNITS[unit]


def _print(view: View, account: Usage, top: int) -> None:
    print(f"{view.name}: {size(account.total)} stored, {size(account.needed)} shown, {size(account.wasted)} wasted")
    print(
        f"efficiency {account.efficiency:.4f} = {account.needed} / {account.total}; "
        f"{size(account.touched)} copied only for their attributes\n"
    )
    rows = []
    for number, (layer, part) in enumerate(zip(view.layers, account.layers, strict=True)):
        made = " ".join((layer.made.created_by or "").split()) if layer.made else ""
        rows.append([number, layer.name, part.files, size(part.size), size(part.wasted), size(part.touched), made[:60]])
    print(as_table(["LAYER", "ID", "FILES", "SIZE", "HIDDEN ABOVE", "ONLY TOUCHED", "INSTRUCTION"], rows))
    if account.offenders:
        worst = [
            [size(each.wasted), each.versions, "deleted" if each.deleted else "overwritten", shown_path(each.path)]
            for each in account.offenders[:top]
        ]
        print(as_table(["WASTED", "VERSIONS", "WHY", "PATH"], worst))


def _values(view: View, account: Usage, top: int) -> dict[str, Any]:
    return {
        "Image": view.name,
        "Total": account.total,
        "Needed": account.needed,
        "Wasted": account.wasted,
        "Touched": account.touched,
        "Efficiency": account.efficiency,
        "Layers": [
            {"Id": layer.name, "Files": part.files, "Size": part.size, "Wasted": part.wasted, "Touched": part.touched}
            for layer, part in zip(view.layers, account.layers, strict=True)
        ],
        "Offenders": [
            {"Path": shown_path(each.path), "Wasted": each.wasted, "Versions": each.versions, "Deleted": each.deleted}
            for each in account.offenders[:top]
        ],
    }
