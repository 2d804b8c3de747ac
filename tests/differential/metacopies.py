"""Cases about files that have their data in another layer: metacopy and data-only layers."""

from typing import Final

from tests.differential.attributes import OWNED
from tests.differential.featuresets import META, ON, USER
from unionfs.core.config import RedirectDir
from unionfs.testing.driver import Op
from unionfs.testing.literal import File, Symlink, Tree
from unionfs.testing.stack import Features
from unionfs.testing.trial import Case

__all__ = ["CASES"]

LACKING: Final = File(b"", size=4, xattrs={"trusted.overlay.metacopy": b""})

METACOPY: Final = [
    Case(
        "a copy of attributes only, then data",
        [{"f": OWNED}],
        [("chmod", "f", 0o600), ("read", "f"), ("write", "f", b"NEW", 2), ("read", "f"), ("listxattr", "f")],
        features=META,
    ),
    Case(
        "a copy of attributes only, truncated",
        [{"f": File(b"1234567", xattrs={"user.a": b"1"})}],
        [("setxattr", "f", "user.b", b"2"), ("truncate", "f", 3), ("truncate", "f", 9)],
        features=META,
    ),
    Case(
        "a copy of attributes only, renamed and linked",
        [{"d": {"f": "data"}}],
        [("chown", "d/f", 1, 1), ("rename", "d/f", "g"), ("link", "g", "h"), ("write", "h", b"DA"), ("unlink", "g")],
        features=META,
    ),
    Case(
        "a copy of attributes only, its directory renamed",
        [{"d": {"f": "data"}}],
        [
            ("chmod", "d/f", 0o600),
            ("rename", "d", "e"),
            ("read", "e/f"),
            ("rename", "e/f", "e/g"),
            ("write", "e/g", b"x"),
        ],
        features=META,
    ),
    Case(
        "a lower file gets another name and leaves its data",
        [{"d": {"f": "data", "g": "other", "h": "third"}, "e": {}}, {"d": {"g": "hidden", "low": "lowest"}}],
        [
            ("rename", "d/f", "d/f2"),
            ("read", "d/f2"),
            ("rename", "d/f2", "d/f3"),
            ("rename", "d/f3", "e/f4"),
            ("rename", "e/f4", "e/f5"),
            ("rename", "d/low", "e/low"),
            ("link", "d/g", "d/g2"),
            ("link", "d/g2", "g3"),
            ("rename", "d/g", "g4"),
            ("rename", "d", "moved"),
            ("rename", "moved/h", "moved/h2"),
            ("link", "moved/h2", "e/h3"),
            ("read", "g3"),
            ("read", "moved/h2"),
            ("write", "e/f5", b"now"),
            ("write", "g3", b"now"),
        ],
        features=META,
    ),
    Case(
        "a lower file replaces another, and two change places, and leave their data",
        [{"d": {"f": "data", "g": "other"}, "e": {"x": "third", "y": "fourth"}}],
        [
            ("rename", "d/f", "d/g"),
            ("rename", "d/g", "e/y", 2),
            ("rename", "e/x", "d/f"),
            ("read", "e/y"),
            ("read", "d/g"),
        ],
        features=META,
    ),
    Case(
        "metacopy in a middle layer",
        [
            {
                "f": File(b"", size=4, mode=0o600, xattrs={"trusted.overlay.metacopy": b""}),
                "g": File(
                    b"", size=4, xattrs={"trusted.overlay.metacopy": b"", "trusted.overlay.redirect": b"/x/data"}
                ),
            },
            {"f": "DATA", "x": {"data": "MORE"}},
        ],
        [("read", "f"), ("read", "g"), ("chmod", "g", 0o640), ("write", "f", b"w")],
        features=META,
        same_marks=False,
    ),
    Case(
        "metacopy when the feature is off",
        [{"f": "data", "g": "data"}],
        [("read", "f")],
        {"f": File(b"", size=4, mode=0o600, xattrs={"trusted.overlay.metacopy": b""})},
        features=ON,
    ),
    Case(
        "metacopy without data below",
        [{"x": "data"}],
        [("read", "f"), ("lstat", "f"), ("write", "f", b"w"), ("unlink", "f")],
        {"f": File(b"", size=4, mode=0o600, xattrs={"trusted.overlay.metacopy": b""})},
        features=META,
    ),
    Case(
        "metacopy in the lowest layer",
        [{"f": "data"}, {"f": File(b"", size=4, xattrs={"trusted.overlay.metacopy": b""}), "g": LACKING}],
        [("read", "g"), ("lstat", "f"), ("unlink", "f"), ("listdir", "")],
        features=META,
    ),
    Case(
        "metacopy in the lowest layer, of a read-only union",
        [{}, {"g": LACKING}],
        [("read", "g"), ("listdir", "")],
        features=[*ON, *META],
        read_only=True,
    ),
    Case(
        "metacopy over a directory, over a whiteout",
        [
            {
                "f": File(b"", size=4, xattrs={"trusted.overlay.metacopy": b""}),
                "g": File(b"", size=4, xattrs={"trusted.overlay.metacopy": b""}),
            },
            {"f": {"x": "1"}, "g": "data"},
        ],
        [("read", "f"), ("read", "g"), ("lstat", "f")],
        features=META,
    ),
]


STORE: Final[list[Tree]] = [
    {"one": "DATA", "s": {"two": "2222"}, "dir": {}, "link": Symlink("one")},
    {"one": "hidden", "three": "3333", "dir": "dddd"},
]
"""Data-only layers."""


def _pointing(redirect: bytes, prefix: str = "trusted.overlay.") -> File:
    return File(
        b"", size=4, mode=0o640, uid=5, xattrs={f"{prefix}metacopy": b"", f"{prefix}redirect": redirect, "user.k": b"v"}
    )


def _image(prefix: str) -> Tree:
    """Files of every kind that may, or may not, be in a layer that leaves its data to others."""
    redirects = {
        "a": b"/one",
        "b": b"/s/two",
        "c": b"/three",
        "d": b"/dir",
        "link": b"/link",
        "absent": b"/none",
        "deep": b"/none/at/all",
        "through": b"/link/x",
    }
    return {
        **{name: _pointing(redirect, prefix) for name, redirect in redirects.items()},
        "one": "an ordinary file of that name",
        "dir": {"f": _pointing(b"/one", prefix)},
    }


USE_IMAGE: Final[list[Op]] = [
    *(("lstat", name) for name in ("a", "absent", "deep", "link")),
    *(("read", name) for name in ("a", "b", "c", "d", "absent", "deep", "link", "through")),
    ("chmod", "a", 0o600),
    ("read", "a"),
    ("write", "b", b"B", 1),
    ("rename", "c", "c2"),
    ("link", "a", "a2"),
    ("write", "a2", b"x", 3),
    ("rename", "dir", "dir2"),
    ("truncate", "dir2/f", 2),
    ("write", "absent", b"x"),
    ("unlink", "absent"),
    ("unlink", "deep"),
    ("create", "deep", b"new"),
]

DATA_ONLY: Final = [
    Case(
        "data-only layers",
        [_image("trusted.overlay.")],
        USE_IMAGE,
        features=[*META, *ON, Features(redirect_dir=RedirectDir.FOLLOW), Features(redirect_dir=RedirectDir.NOFOLLOW)],
        data_only=STORE,
        same_marks=False,
    ),
    Case(
        "data-only layers with marks of users",
        [_image("user.overlay.")],
        [op for op in USE_IMAGE if op[0] != "rename"],
        features=USER,
        data_only=STORE,
        same_marks=False,
    ),
    Case(
        "data-only layers of a read-only union",
        [{}, _image("trusted.overlay.")],
        USE_IMAGE[:12],
        features=[*META, *ON],
        data_only=STORE,
        read_only=True,
    ),
    Case(
        "a middle layer points into data-only ones",
        [{"f": _pointing(b"/m"), "g": _pointing(b"/one")}, {"m": _pointing(b"/one"), "x": ""}],
        [("read", "f"), ("read", "g"), ("write", "m", b"s"), ("chmod", "f", 0o600), ("read", "f")],
        features=META,
        data_only=STORE,
        same_marks=False,
    ),
]

CASES: Final = [*METACOPY, *DATA_ONLY]
