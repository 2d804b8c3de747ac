"""Show which layer provides a file, the instruction that made that layer, and every version it hides.

Works on IMAGE:/PATH, on archives, containers and directories, and on a path below a mount. A hidden
version can be read: unionfs cat --layer N IMAGE:/PATH.
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unionfs.analysis.trace import Line, Verdict, trace
from unionfs.cli.entries import shown_path, values
from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import as_json, as_table, printable, size
from unionfs.cli.target import physical, split, view_of, view_of_mount
from unionfs.errors import NoSuchPath
from unionfs.oci.entry import Entry
from unionfs.oci.view import DirectoryLayer, LayerView, View

if TYPE_CHECKING:
    from unionfs.fuse.state import Record

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    add = parser.add_argument
    add("-L", "--dereference", action="store_true", help="follow a symlink at the end of the path")
    add("--no-trunc", action="store_true", help="whole instructions")
    add("--platform", metavar="OS/ARCH[/VARIANT]", help="which image of an archive's index")
    add("--json", action="store_true", help="one JSON object: Path, Layers")
    add("target", metavar="IMAGE:/PATH", help="an image, archive, container or directory and a path; or MOUNT/PATH")


class _Table:
    """One layer's entries, by path."""

    def __init__(self, layer: LayerView) -> None:
        self._entries = {entry.path: entry for entry in layer.entries}

    def find(self, path: bytes) -> Entry | None:
        return self._entries.get(path)


def run(args: argparse.Namespace) -> Exit:
    view, path = _target(args)
    real = physical(view, path, follow=args.dereference)
    lines = list(trace([_Table(layer) for layer in view.layers], real))
    if not lines:
        raise NoSuchPath(path, "no layer has it")
    if args.json:
        print(as_json({"Path": shown_path(real), "Layers": [_values(view, line) for line in lines]}), end="")
    else:
        rows = [_row(view, line, whole=args.no_trunc) for line in lines]
        print(printable(shown_path(real)))
        print(as_table(["LAYER", "ID", "VERDICT", "SIZE", "MODE", "INSTRUCTION"], rows), end="")
    return Exit.OK if lines[0].verdict is Verdict.SHOWN else Exit.NOT_FOUND


def _target(args: argparse.Namespace) -> tuple[View, bytes]:
    """Return the layers and the path in them; below a mount, the mount's own layers."""
    name, path = split(args.target)
    if path == b"/" and os.path.lexists(name):
        from unionfs.cli import mounts

        place = Path(os.path.realpath(Path(name).absolute().parent)) / Path(name).name
        for mount in reversed(mounts.find()):
            if mount.record is not None and place.is_relative_to(mount.mountpoint):
                view = view_of_mount(mount.mountpoint) or _directories(mount.record)
                return view, b"/" + os.fsencode(place.relative_to(mount.mountpoint))
    return view_of(name, args.platform), path


def _directories(record: "Record") -> View:
    layers = [*reversed(record.lower), *([record.upper] if record.upper else [])]
    return View(record.mountpoint, [DirectoryLayer(Path(layer)) for layer in layers])


def _row(view: View, line: Line, *, whole: bool) -> list[Any]:
    layer = view.layers[line.layer]
    made = " ".join((layer.made.created_by or "").split()) if layer.made else ""
    verdict = line.verdict.value
    if line.shadow is not None:
        verdict += f": layer {line.shadow} {line.why}"
    elif line.path != b"" and line.entry is not None and line.entry.path != line.path:
        verdict += f" {shown_path(line.path)}"
    entry = line.entry
    shown = [size(entry.size), f"{entry.mode:04o}"] if entry and entry.kind.value != "whiteout" else ["", ""]
    return [line.layer, layer.name, verdict, *shown, made if whole or len(made) <= 60 else made[:59] + "…"]


def _values(view: View, line: Line) -> dict[str, Any]:
    layer = view.layers[line.layer]
    return {
        "Layer": line.layer,
        "Id": layer.name,
        "Verdict": line.verdict.value,
        "HiddenBy": line.shadow,
        "Why": line.why or None,
        "At": shown_path(line.path),
        "Entry": values(line.entry, line.layer) if line.entry else None,
        "CreatedBy": layer.made.created_by if layer.made else None,
        "Created": layer.made.created if layer.made else None,
    }
