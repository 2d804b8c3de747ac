"""What a layer may contain that was made by somebody who wants out, or wants the daemon dead.

Each attack is a directory of the hostile layer, with honest content of the same names in the layer below. ``HERE``
in a target or an attribute is the attack's own directory, from the root of the union; ``OUTSIDE`` is a directory
beside the layers that nothing may touch. Marks are written in both flavours, so that they count whatever the union
was told to believe.
"""

import dataclasses
import os
import stat
from collections.abc import Mapping
from typing import Any

from unionfs.testing.literal import WHITEOUT, Dir, File, HardLink, Special, Symlink, Tree, TreeNode, fifo, socket_file

__all__ = ["ATTACKS", "BELOW", "hostile"]

BELOW: Tree = {
    "d": {"x": "low", "sub": {"y": "low"}},
    "e": {"f": "low", "d": {"y": ""}},
    "f": "low" * 3000,
    "g": "low",
    "s": "low",
    "p": {"q": "low"},
}

LONG = "n" * 255
DEEP = "/".join(["p"] * 2000)


def marks(**values: bytes) -> dict[str, bytes]:
    return {f"{flavour}.overlay.{name}": value for flavour in ("trusted", "user") for name, value in values.items()}


def directory(entries: Tree | None = None, **values: bytes) -> Dir:
    return Dir(entries or {}, xattrs=marks(**values))


def file(data: bytes = b"", **values: bytes) -> File:
    return File(data=data, xattrs=marks(**values))


def owners(value: bytes) -> dict[str, bytes]:
    """The attributes that stand for owner, mode and type."""
    names = (
        "user.containers.override_stat",
        "user.fuseoverlayfs.override_stat",
        "security.fuseoverlayfs.override_stat",
    )
    return dict.fromkeys(names, value)


def device(major: int, minor: int, kind: int = stat.S_IFCHR) -> Special:
    return Special(kind, os.makedev(major, minor), mode=0o666)


JUNK = bytes(range(256)) * 255
"""Close to the 64 KiB that an attribute may have."""

ORIGIN = b"\x00\xfb\x1d\x00\x01" + bytes(16) + bytes(8)
"""An origin whose handle names nothing."""

COUNTS = (b"U+" + b"9" * 5000, b"L-99999999999", b"U+4294967296", b"U+-1", b"U+\xd9\xa3")

OWNERS = (
    *(b"", b"0", b"0:0", b"0:0:", b"-1:-1:755", b"4294967295:0:644", b"99999999999999:0:644", b"\xff" * 100, JUNK),
    *(b"0:0:7777777", b"0:0:4755", b"0:0:644:dir", b"0:0:755:symlink", b"0:0:644:pipe", b"0:0:644:socket"),
    *(b"0:0:644:file", b"0:0:666:char-0-0", b"0:0:666:block-9999-9999999", b"0:0:644:char-1-3-5"),
)

EVERY_MARK = ("opaque", "redirect", "metacopy", "origin", "impure", "nlink", "upper", "whiteout", "protattr", "uuid")


def every_mark(value: bytes) -> Tree:
    """A directory and a file for each mark, with this value."""
    found: dict[str, TreeNode] = {}
    for mark in EVERY_MARK:
        found[f"d{mark}"] = Dir({"x": ""}, xattrs=marks(**{mark: value}))
        found[f"f{mark}"] = File(data=b"x", xattrs=marks(**{mark: value}))
    return found


ATTACKS: Mapping[str, Tree] = {
    # symlinks
    "a symlink for a directory": {"d": Symlink("OUTSIDE"), "e": {"d": Symlink("OUTSIDE/dir")}},
    "a symlink for a file": {"f": Symlink("OUTSIDE/secret"), "g": Symlink("../../../../outside/secret")},
    "a symlink to itself": {"d": Symlink("d"), "f": Symlink("s"), "s": Symlink("f")},
    "a symlink as long as one can be": {"s": Symlink("/".join(["x" * 200] * 20))},
    # whiteouts
    "whiteouts for everything": dict.fromkeys(BELOW, WHITEOUT),
    "image whiteouts of what is beside them": {".wh.d": "", "d": {"x": "1"}, ".wh.": "", ".wh..": "", ".wh...": ""},
    "an image whiteout that is a directory": {".wh.d": {"x": {"y": ""}}, ".wh..wh..opq": {"z": ""}, "d": {}},
    "an image whiteout that is a symlink": {".wh.f": Symlink("OUTSIDE"), ".wh..wh..opq": Symlink("OUTSIDE/new")},
    "a name as long as one can be, deleted": {LONG: "1", ".wh." + "n" * 251: ""},
    "an attribute whiteout with content": {"f": file(b"data", whiteout=b"y"), "g": file(whiteout=b"")},
    "an attribute whiteout that is a directory": {"d": directory({}, whiteout=b"y")},
    # redirects
    "redirects up": {"d": directory(redirect=b"../outside"), "e": directory(redirect=b"/../../outside")},
    "redirects out": {"d": directory(redirect=b"OUTSIDE"), "e": directory(redirect=b"/OUTSIDE/dir")},
    "redirects through a symlink": {"l": Symlink("OUTSIDE"), "d": directory(redirect=b"/HERE/l/dir")},
    "redirects onto a symlink": {
        "l": Symlink("OUTSIDE"),
        "d": directory(redirect=b"/HERE/l"),
        "e": directory(redirect=b"l"),
    },
    "redirects onto a file": {"d": directory(redirect=b"/HERE/f"), "e": directory(redirect=b"g")},
    "redirects onto a whiteout": {"s": WHITEOUT, "d": directory(redirect=b"/HERE/s"), "e": directory(redirect=b"s")},
    "redirects to themselves": {"d": directory({"x": ""}, redirect=b"d"), "e": directory(redirect=b"/HERE/e")},
    "redirects in a circle": {"d": directory(redirect=b"/HERE/e/d"), "e": directory({"d": {}}, redirect=b"/HERE/d")},
    "redirects into their own depth": {
        "d": directory({"d": directory(redirect=b"/HERE/d/d")}, redirect=b"/HERE/d/d"),
        "p": directory({"p": directory(redirect=b"/HERE/p")}, redirect=b"/HERE/p/p"),
    },
    "redirects to the root": {"d": directory(redirect=b"/"), "e": directory(redirect=b"")},
    "redirects that are none": {
        "d": directory(redirect=b"/a//b"),
        "e": directory(redirect=b"a/b"),
        "p": directory(redirect=b"p\0q"),
        "f": file(b"x", redirect=b"/HERE/g"),
    },
    "redirects longer than a path": {
        "d": directory(redirect=b"/" + DEEP.encode()),
        "e": directory(redirect=b"n" * 256),
        "p": directory(redirect=JUNK),
    },
    # metacopies
    "metacopies of nothing": {"f": file(metacopy=b""), "none": file(metacopy=b"", redirect=b"/HERE/nowhere")},
    "metacopies up": {"f": file(metacopy=b"", redirect=b"../../outside/secret")},
    "metacopies through a symlink": {"l": Symlink("OUTSIDE"), "f": file(metacopy=b"", redirect=b"/HERE/l/secret")},
    "metacopies onto a symlink": {
        "l": Symlink("OUTSIDE/secret"),
        "f": file(metacopy=b"", redirect=b"/HERE/l"),
        "g": file(metacopy=b"", redirect=b"l"),
    },
    "metacopies onto a fifo": {"l": fifo(), "f": file(metacopy=b"", redirect=b"/HERE/l")},
    "metacopies onto a directory": {
        "f": file(metacopy=b"", redirect=b"/HERE/d"),
        "g": file(metacopy=b"", redirect=b"d"),
    },
    "metacopies of themselves": {"f": file(metacopy=b"", redirect=b"/HERE/f"), "g": file(metacopy=b"", redirect=b"g")},
    "metacopies larger than their data": {"f": File(size=1 << 40, xattrs=marks(metacopy=b""))},
    "metacopies that are nonsense": {
        "f": file(metacopy=b"nonsense"),
        "g": file(metacopy=JUNK),
        "d": directory(metacopy=b""),
        "s": Symlink("x", xattrs={"trusted.overlay.metacopy": b""}),
    },
    # attributes
    "every mark, empty": every_mark(b""),
    "every mark, 64 KiB": every_mark(JUNK),
    "every mark, binary": every_mark(b"\xff\x00\n"),
    "origins that name nothing": {
        "f": file(b"x", origin=ORIGIN),
        "g": file(origin=ORIGIN[:4]),
        "d": directory(origin=ORIGIN),
    },
    "link counts that are nonsense": {
        **{f"n{number}": file(b"x", nlink=value) for number, value in enumerate(COUNTS)},
        **{f"n{number}b": HardLink(f"HERE/n{number}") for number in range(len(COUNTS))},
    },
    "opaque on what is no directory": {
        "f": file(b"x", opaque=b"y"),
        "s": Symlink("x", xattrs={"trusted.overlay.opaque": b"y"}),
        "p": Special(stat.S_IFIFO, xattrs={"trusted.overlay.opaque": b"y"}),
    },
    "flags that cannot be": {"f": file(b"x", protattr=b"iiaaZ"), "d": directory(protattr=b"ia")},
    "owners that cannot be": {
        **{f"f{number}": File(data=b"x", xattrs=owners(value)) for number, value in enumerate(OWNERS)},
        **{f"d{number}": Dir({}, xattrs=owners(value)) for number, value in enumerate(OWNERS)},
    },
    "names of attributes": {
        "f": File(
            xattrs={
                "user." + "n" * 250: b"1",
                "trusted.overlay." + "overlay." * 29: b"2",
                "user.overlay." + "overlay." * 30: b"3",
                "user.\udcff": b"4",
                "user.containers.override_security.capability": b"5",
                "security." + "n" * 246: b"6",
            }
        ),
    },
    # types and names
    "a fifo for everything": {name: fifo() for name in BELOW},
    "a socket for everything": {name: socket_file() for name in BELOW},
    "a device for everything": {name: device(1, 3) for name in BELOW},
    "devices that look like whiteouts": {"d": device(0, 1), "f": device(0, 0, stat.S_IFBLK), "e": device(1, 0)},
    "a directory for a file and the reverse": {"f": {"x": ""}, "d": "x", "g": {}, "e": "x", "s": {"t": {}}},
    "names": {
        LONG: {"m" * 255: {"o" * 255: ""}},
        "\udcff\udcfe": "",
        "\udc80": {"\udcc3": ""},
        " ": "",
        "\n": {"\n": ""},
        "..f": "",
        "...": {},
        "#0": "",
        "work": {},
        "-rf": "",
        "\x01\x7f": "",
        "%s%n": "",
    },
    "times": {
        f"t{number}": File(mtime_ns=value) for number, value in enumerate((-1, -(10**18), 9 * 10**18, -(9 * 10**18), 0))
    },
    "sizes": {"f": File(size=(1 << 63) - 4096), "g": File(size=1 << 45, holes={1 << 44: b"x"})},
    "a tree as deep as a path may be": {"d": {"a" * 200: {"a" * 200: {"a" * 200: {"a" * 200: {"x": ""}}}}}},
}


def hostile(outside: str) -> Dir:
    """Return the layer: each attack in a directory of its own."""
    return Dir(
        {name: _filled(attack, name, outside) for name, attack in ATTACKS.items()},
        xattrs={"user.containers.override_stat": b"0:0:0755:dir", **marks(opaque=b"y", metacopy=JUNK, nlink=b"U+9")},
    )


def _filled(node: Any, here: str, outside: str) -> Any:
    """Put the two places into targets and attributes."""
    match node:
        case Symlink():
            target = node.target.replace("OUTSIDE", outside).replace("HERE", here)
            return dataclasses.replace(node, target=target)
        case HardLink():
            return HardLink(node.to.replace("HERE", here))
        case Dir():
            entries = _filled(node.entries, here, outside)
            return dataclasses.replace(node, entries=entries, xattrs=_places(node.xattrs, here, outside))
        case File():
            return dataclasses.replace(node, xattrs=_places(node.xattrs, here, outside))
        case Mapping():
            return {name: _filled(each, here, outside) for name, each in node.items()}
    return node


def _places(xattrs: Mapping[str, bytes], here: str, outside: str) -> dict[str, bytes]:
    return {
        name: value.replace(b"OUTSIDE", outside.encode()).replace(b"HERE", here.encode())
        for name, value in xattrs.items()
    }
