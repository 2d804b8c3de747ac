"""Cases about names: renames, deletions, whiteouts, directories. Numbers are the list of known bug classes.

The classes of this table: 1 to 8, 31, 40 to 42, 50.
"""

import os
from typing import Final

from unionfs.testing.literal import (
    PAST,
    WHITEOUT,
    XWHITEOUT,
    Dir,
    File,
    Symlink,
    Tree,
    fifo,
    opaque,
    redirected,
    xwhiteouts,
)
from unionfs.testing.trial import Case

__all__ = ["CASES"]

NOREPLACE, EXCHANGE = 1, 2

LOWER_DIR: Final[Tree] = {"d": {"a": "1", "sub": {"x": "2"}}, "other": {"o": "3"}, "f": "4"}

RENAMES: Final = [
    Case(
        "01 rename a lower directory", [LOWER_DIR], [("rename", "d", "e"), ("create", "e/sub/new"), ("unlink", "e/a")]
    ),
    Case("01 rename a merged directory", [LOWER_DIR], [("rename", "d", "e"), ("rename", "e", "d")], {"d": {"up": "5"}}),
    Case("01 rename into another directory", [LOWER_DIR], [("rename", "d", "other/d"), ("rename", "other", "moved")]),
    Case("01 rename below a renamed directory", [LOWER_DIR], [("rename", "d", "e"), ("rename", "e/sub", "sub")]),
    Case(
        "01 rename inside a renamed directory, then out of it",
        [LOWER_DIR],
        [
            ("rename", "d", "e"),
            ("rename", "e/sub", "e/bus"),
            ("rename", "e/bus", "f2"),
            ("mkdir", "e/sub"),
            ("rmdir", "e/sub"),
        ],
    ),
    Case(
        "01 rename through middle layers",
        [{"d": {"m": "1"}}, LOWER_DIR],
        [("rename", "d", "e"), ("rename", "e/m", "e/a")],
    ),
    Case(
        "01 rename what a middle layer had renamed",
        [{"e": redirected({"m": "1"}, "d"), "d": WHITEOUT}, LOWER_DIR],
        [("rename", "e", "g"), ("rename", "g/sub", "sub"), ("mkdir", "d"), ("rename", "sub", "d/sub")],
    ),
    Case(
        "01 a new directory at the old name",
        [LOWER_DIR],
        [("rename", "d", "e"), ("mkdir", "d"), ("create", "d/a", b"n")],
    ),
    Case("01 rename there and back", [LOWER_DIR], [("rename", "d", "e"), ("rename", "e", "d"), ("create", "d/n")]),
    Case("01 exchange two directories", [LOWER_DIR], [("rename", "d", "other", EXCHANGE), ("unlink", "d/o")]),
    Case("01 exchange a directory and a file", [LOWER_DIR], [("rename", "d", "f", EXCHANGE), ("write", "d", b"xx")]),
    Case("01 exchange over directories", [LOWER_DIR], [("rename", "d/sub", "other", EXCHANGE), ("rename", "d", "z")]),
    Case(
        "01 rename into itself",
        [LOWER_DIR],
        [("rename", "d", "d/sub/e"), ("rename", "d/sub", "d"), ("rename", "d", "d")],
    ),
    Case("01 rename onto a file, a file onto a directory", [LOWER_DIR], [("rename", "d", "f"), ("rename", "f", "d")]),
    Case(
        "01 rename onto a full directory",
        [LOWER_DIR],
        [("rename", "d", "other"), ("unlink", "other/o"), ("rename", "d", "other")],
    ),
    Case(
        "01 a redirect that would be too long",
        [{"n" * 80: {"n" * 80: {"n" * 80: {"n" * 80: {"deep": {"x": "1"}}}}}}],
        [("rename", "/".join(["n" * 80] * 4) + "/deep", "d"), ("rename", "/".join(["n" * 80] * 4), "up")],
        same_marks=False,
        kernel_merges=["/".join(["n" * 80] * count) for count in range(1, 5)] + ["/".join(["n" * 80] * 4) + "/deep"],
    ),
    Case(
        "02 a new directory moved where a lower one was",
        [{"m": {"t": {"low": "1"}}}],
        [("unlink", "m/t/low"), ("rmdir", "m/t"), ("mkdir", "n"), ("create", "n/f"), ("rename", "n", "m/t")],
    ),
    Case(
        "02 a new directory moved over an empty lower one",
        [{"m": {"t": {}}}],
        [("mkdir", "n"), ("create", "n/f"), ("rename", "n", "m/t"), ("create", "m/t/g")],
    ),
    Case(
        "02 a new directory moved into a merged one",
        [LOWER_DIR],
        [("mkdir", "n"), ("mkdir", "n/sub"), ("rename", "n/sub", "d/n")],
    ),
    Case(
        "02 a new directory below a new one", [LOWER_DIR], [("mkdir", "n"), ("mkdir", "n/q"), ("rename", "n/q", "n/r")]
    ),
    Case("03 rename over a whiteout", [LOWER_DIR], [("unlink", "f"), ("create", "n", b"n"), ("rename", "n", "f")]),
    Case(
        "03 rename over a lower file",
        [LOWER_DIR],
        [("create", "n", b"n"), ("rename", "n", "f"), ("rename", "f", "d/a")],
    ),
    Case("03 rename a lower file", [LOWER_DIR], [("rename", "f", "g"), ("rename", "g", "f"), ("rename", "f", "d/f")]),
    Case(
        "03 rename leaves no needless whiteout",
        [LOWER_DIR],
        [("create", "n"), ("rename", "n", "n2"), ("rename", "n2", "d/n")],
    ),
    Case(
        "03 noreplace",
        [LOWER_DIR],
        [("rename", "f", "d", NOREPLACE), ("unlink", "f"), ("create", "n"), ("rename", "n", "f", NOREPLACE)],
    ),
    Case(
        "03 exchange with a deleted name",
        [LOWER_DIR],
        [("unlink", "f"), ("create", "n"), ("rename", "n", "f", EXCHANGE)],
    ),
    Case(
        "03 exchange two files",
        [LOWER_DIR],
        [("rename", "f", "d/a", EXCHANGE), ("create", "n"), ("rename", "n", "f", EXCHANGE)],
    ),
    Case(
        "03 exchange of new and old directories",
        [LOWER_DIR],
        [("mkdir", "n"), ("create", "n/y"), ("rename", "n", "d", EXCHANGE), ("rename", "n", "d/n")],
    ),
    Case(
        "03 rename a symlink, a fifo", [{"s": Symlink("f"), "p": fifo()}], [("rename", "s", "t"), ("rename", "p", "s")]
    ),
    Case(
        "03 flags that nobody knows",
        [LOWER_DIR],
        [("create", "n"), ("rename", "n", "m", 8), ("rename", "n", "m", NOREPLACE | EXCHANGE)],
    ),
    Case(
        "04 rename onto a directory of whiteouts",
        [LOWER_DIR],
        [("mkdir", "n"), ("unlink", "other/o"), ("rename", "n", "other")],
    ),
    Case(
        "04 rename a lower directory onto a directory of whiteouts",
        [LOWER_DIR],
        [("unlink", "other/o"), ("rename", "d", "other"), ("create", "other/o")],
    ),
    Case(
        "04 a directory of whiteouts in the upper",
        [{"d": {"a": "1"}}],
        [("mkdir", "n"), ("rename", "n", "d")],
        {"d": {"a": WHITEOUT}},
    ),
]

DELETIONS: Final = [
    Case("05 rmdir of a directory with only whiteouts", [{"d": {"a": "1"}}], [("rmdir", "d")], {"d": {"a": WHITEOUT}}),
    Case(
        "05 rmdir after the last unlink", [LOWER_DIR], [("rmdir", "other"), ("unlink", "other/o"), ("rmdir", "other")]
    ),
    Case(
        "05 whiteouts of a middle layer",
        [{"d": {"a": WHITEOUT}}, {"d": {"a": "1"}}],
        [("listdir", "d"), ("rmdir", "d")],
    ),
    Case("05 rmdir of an empty lower directory", [{"d": {}}], [("rmdir", "d"), ("mkdir", "d"), ("rmdir", "d")]),
    Case(
        "05 rmdir of an upper directory over a lower file", [{"d": "file"}], [("rmdir", "d"), ("lstat", "d")], {"d": {}}
    ),
    Case(
        "05 a directory that is gone but open",
        [{"d": Dir({}, mode=0o750), "e": {}}],
        [
            ("open", "d", "d", os.O_RDONLY),
            ("chmod", "e", 0o700),
            ("open", "e", "e", os.O_RDONLY),
            ("rmdir", "d"),
            ("rmdir", "e"),
            ("fchmod", "e", 0o711),
            ("fstat", "d"),
            ("fstat", "e"),
        ],
    ),
    Case("05 whiteouts in an opaque directory", [{"d": {"a": "1"}}], [("rmdir", "d")], {"d": opaque({"a": WHITEOUT})}),
    Case(
        "06 rm -r, then mkdir of the same name",
        [LOWER_DIR],
        [
            ("unlink", "d/a"),
            ("unlink", "d/sub/x"),
            ("rmdir", "d/sub"),
            ("rmdir", "d"),
            ("mkdir", "d"),
            ("mkdir", "d/sub"),
        ],
    ),
    Case(
        "06 the same below a merged directory",
        [{"d": {"e": {"f": {}}}}],
        [("rmdir", "d/e/f"), ("mkdir", "d/e/f"), ("create", "d/e/f/g")],
    ),
    Case(
        "06 a file where a directory was",
        [{"d": {}}],
        [("rmdir", "d"), ("create", "d"), ("unlink", "d"), ("mkdir", "d")],
    ),
    Case(
        "06 a directory where a file was",
        [LOWER_DIR],
        [("unlink", "f"), ("mkdir", "f"), ("create", "f/a"), ("rename", "f", "f2")],
    ),
    Case(
        "07 unlink of a new file", [LOWER_DIR], [("create", "n"), ("unlink", "n"), ("create", "d/n"), ("unlink", "d/n")]
    ),
    Case(
        "07 unlink of a new file over a lower one",
        [LOWER_DIR],
        [("unlink", "f"), ("create", "f"), ("unlink", "f"), ("unlink", "f")],
    ),
    Case("07 unlink of a copied-up file", [LOWER_DIR], [("write", "f", b"zz"), ("unlink", "f"), ("lstat", "f")]),
    Case(
        "08 create over a whiteout, all kinds",
        [{"a": "1", "b": "2", "c": "3", "e": "4"}],
        [
            ("unlink", "a"),
            ("unlink", "b"),
            ("unlink", "c"),
            ("unlink", "e"),
            ("create", "a", b"new"),
            ("symlink", "b", "a"),
            ("mknod", "c", 0o010644),
            ("mkdir", "e"),
        ],
    ),
    Case("08 link over a whiteout", [LOWER_DIR], [("unlink", "f"), ("link", "d/a", "f"), ("write", "f", b"both")]),
    Case(
        "08 a device 0:0 is nobody's to make",
        [LOWER_DIR],
        [("mknod", "n", 0o020644, 0), ("mknod", "n", 0o020644, os.makedev(1, 3))],
    ),
    Case(
        "40 whiteouts in a new directory's lower namesake",
        [LOWER_DIR],
        [("rename", "d", "e"), ("listdir", "e"), ("lstat", "d")],
        {"d": {"a": WHITEOUT}},
    ),
    Case(
        "40 a whiteout over nothing",
        [{"d": {}}],
        [("listdir", ""), ("create", "w"), ("create", "d/w")],
        {"w": WHITEOUT, "d": {"w": WHITEOUT}},
    ),
    Case(
        "40 a whiteout in the lowest layer",
        [{"w": WHITEOUT, "d": {"w": WHITEOUT, "f": "1"}}],
        [("lstat", "d/w"), ("lstat", "w"), ("unlink", "d/f"), ("rmdir", "d")],
    ),
    Case(
        "40 whiteouts move with a directory",
        [{"d": {"a": "1", "b": "2"}}],
        [
            ("unlink", "d/a"),
            ("rename", "d", "e"),
            ("create", "e/a"),
            ("unlink", "e/a"),
            ("unlink", "e/b"),
            ("rmdir", "e"),
        ],
    ),
    Case(
        "unlink and rmdir of what they are not for",
        [LOWER_DIR],
        [("unlink", "d"), ("rmdir", "f"), ("unlink", "none"), ("rmdir", "f/none")],
    ),
]

LAYERS: Final = [
    Case(
        "41 opaque in the middle",
        [{"d": {"a": "1"}}, {"d": opaque({"b": "2"})}, {"d": {"c": "3"}}],
        [("listdir", "d"), ("create", "d/c"), ("unlink", "d/c")],
    ),
    Case(
        "41 redirect in the middle",
        [
            {"d": {"a": "1"}},
            {"d": redirected({"b": "2"}, "/x/y"), "x": {"y": WHITEOUT}},
            {"x": {"y": {"c": "3"}}, "d": {"no": "4"}},
        ],
        [("rename", "d", "e"), ("write", "e/c", b"5")],
    ),
    Case(
        "41 a relative redirect below a redirect",
        [{"d": redirected({"s": redirected({}, "t")}, "x")}, {"x": {"t": {"c": "3"}, "s": {"no": ""}}}],
        [("listdir", "d/s"), ("unlink", "d/s/c"), ("rename", "d/s", "s")],
    ),
    Case(
        "41 absolute redirect out of an opaque directory",
        [{"d": opaque({"e": redirected({}, "/x")})}, {"d": {"f": ""}, "x": {"in": "1"}}],
        [("listdir", "d/e"), ("create", "d/e/n")],
    ),
    Case(
        "41 redirect to nothing, to a file, to itself",
        [
            {"a": redirected({}, "none"), "b": redirected({}, "f"), "c": redirected({}, "c")},
            {"f": "1", "c": {"x": "2"}},
        ],
        [("listdir", "a"), ("listdir", "b"), ("listdir", "c")],
    ),
    Case(
        "42 a file over a directory",
        [{"d": {"a": "1"}}, {"d": "file"}, {"d": {"hidden": "2"}}],
        [("listdir", "d"), ("rename", "d", "e")],
    ),
    Case(
        "42 a directory over a file",
        [{"d": "file"}, {"d": {"hidden": "2"}}],
        [("read", "d"), ("unlink", "d"), ("mkdir", "d")],
    ),
    Case(
        "42 a symlink under a directory",
        [{"d": {"a": "1"}}, {"d": Symlink("x"), "x": {"b": "2"}}],
        [("listdir", "d"), ("unlink", "d/a"), ("rmdir", "d")],
    ),
    Case(
        "42 a symlink over a directory",
        [{"d": Symlink("x")}, {"d": {"a": "1"}, "x": {"b": "2"}}],
        [("listdir", "d"), ("create", "d/n"), ("unlink", "d"), ("mkdir", "d")],
    ),
    Case(
        "whiteouts as attributes",
        [
            {"d": xwhiteouts({"a": XWHITEOUT, "n": "0"})},
            {"d": {"a": "1", "b": "2"}},
        ],
        [("listdir", "d"), ("create", "d/a"), ("unlink", "d/b")],
    ),
    Case(
        "whiteouts as attributes in the root",
        [Dir({"a": XWHITEOUT}, xattrs={"trusted.overlay.opaque": b"x"}), {"a": "1", "b": "2"}],
        [("listdir", ""), ("create", "a")],
    ),
    Case(
        "opaque has one letter",
        [
            {
                "d": Dir({"a": "1"}, xattrs={"trusted.overlay.opaque": b"yes"}),
                "e": Dir({}, xattrs={"trusted.overlay.opaque": b"n"}),
            },
            {"d": {"b": "2"}, "e": {"c": "3"}},
        ],
        [("listdir", "d"), ("listdir", "e")],
    ),
    Case(
        "opaque on a file means nothing",
        [{"f": File(b"1", xattrs={"trusted.overlay.opaque": b"y"})}, {"f": "2"}],
        [("read", "f"), ("unlink", "f")],
    ),
    Case(
        "an empty layer in between",
        [{}, {"d": {"a": "1"}}, {}, {"d": {"b": "2"}}],
        [("rename", "d", "e"), ("rename", "e/b", "e/a")],
    ),
    Case(
        "50 names of all sorts",
        [{"a b": {"c:d": "1", "e,f": "2", "g\\h": "3", "\udcff\udcfe": "4", "n\nl": "5", "n" * 255: "6"}}],
        [
            ("rename", "a b", "x:y"),
            ("write", "x:y/\udcff\udcfe", b"7"),
            ("unlink", "x:y/c:d"),
            ("create", "x:y/" + "m" * 255),
        ],
    ),
    Case(
        "names that are too long",
        [LOWER_DIR],
        [
            ("create", "n" * 256),
            ("mkdir", "n" * 256),
            ("lstat", "n" * 256),
            ("rename", "f", "n" * 256),
            ("symlink", "n" * 256, "x"),
            ("link", "f", "n" * 256),
        ],
    ),
    Case(
        "a read-only union",
        [{"d": {"a": "1"}}, {"d": {"b": "2"}, "f": "3"}],
        [
            ("create", "n"),
            ("unlink", "f"),
            ("rename", "f", "g"),
            ("chmod", "f", 0),
            ("write", "f", b"x"),
            ("mkdir", "d"),
            ("mkdir", "m"),
            ("rmdir", "d"),
            ("setxattr", "f", "user.x", b"1"),
            ("truncate", "f", 0),
            ("link", "f", "g"),
            ("symlink", "s", "f"),
            ("utime", "f", PAST, PAST),
            ("chown", "f", 1, 1),
            ("create", "f", b"", 0o644, 0),
        ],
        read_only=True,
    ),
]

TARGETS: Final[Tree] = {
    "file": "old",
    "dir": {"x": "1"},
    "gone": "deleted",
    "to_file": Symlink("file"),
    "to_dir": Symlink("dir"),
    "dangling": Symlink("nothing"),
    "loop": Symlink("loop"),
    "fifo": fifo(),
    "chain": Symlink("to_file"),
    "up": "lower",
}
FLAGS: Final = [
    os.O_RDONLY,
    os.O_WRONLY,
    os.O_RDWR,
    os.O_WRONLY | os.O_TRUNC,
    os.O_RDWR | os.O_APPEND,
    os.O_RDONLY | os.O_NOFOLLOW,
    os.O_RDONLY | os.O_DIRECTORY,
    os.O_WRONLY | os.O_CREAT,
    os.O_WRONLY | os.O_CREAT | os.O_EXCL,
    os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    os.O_RDONLY | os.O_CREAT,
    os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW,
]


def _opens(target: str) -> list[tuple[object, ...]]:
    """Open one target with each of the flags, write where allowed, and delete what came of it in between."""
    return [step for flags in FLAGS for step in (("open", "h", target, flags), ("unlink", "nothing"))]


OPENS: Final = [
    Case(
        f"31 open {target} in every way",
        [TARGETS],
        [("unlink", "gone"), *_opens(target)],
        {"up": "upper"},
        same_marks=False,
    )
    for target in (*TARGETS, "none", "none/none", "file/none")
]

CASES: Final = [*RENAMES, *DELETIONS, *LAYERS, *OPENS]
