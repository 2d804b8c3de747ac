"""Cases about data: hard links, open files, reads and writes, holes, truncation. Numbers as in `names`.

The classes of this table: 9, 10, 13, 15, 27, 29, 30, 32, 33.
"""

import os
from typing import Final

from tests.differential.featuresets import ALL, BOTH_WAYS, INDEX, ON
from unionfs.testing.literal import PAST, File, HardLink, Symlink, Tree, fifo
from unionfs.testing.trial import Case

__all__ = ["CASES"]

KEEP_SIZE, PUNCH_HOLE = 1, 2

LINKS: Final[Tree] = {"a": File(b"data"), "b": HardLink("a"), "d": {"c": HardLink("a")}, "x": "alone"}

HARD_LINKS: Final = [
    Case("09 write through one name", [LINKS], [("write", "a", b"DATA"), ("read", "b"), ("read", "d/c")], features=ALL),
    Case(
        "09 chmod one name, then write another",
        [LINKS],
        [("chmod", "a", 0o600), ("write", "b", b"Q"), ("lstat", "a")],
        features=ALL,
    ),
    Case(
        "09 link a lower file",
        [LINKS],
        [("link", "x", "y"), ("write", "x", b"both"), ("link", "a", "e"), ("write", "b", b"B")],
        features=ALL,
    ),
    Case(
        "09 names in two layers",
        [{"a": "top", "n": HardLink("a")}, {"a": File(b"low"), "m": HardLink("a")}],
        [("write", "n", b"N"), ("write", "m", b"M")],
        features=ALL,
    ),
    Case(
        "10 unlink names one by one",
        [LINKS],
        [("unlink", "a"), ("lstat", "b"), ("unlink", "b"), ("lstat", "d/c"), ("unlink", "d/c")],
        features=ALL,
    ),
    Case(
        "10 unlink after copy-up",
        [LINKS],
        [("chmod", "a", 0o640), ("unlink", "a"), ("lstat", "b"), ("link", "b", "z"), ("unlink", "b"), ("lstat", "z")],
        features=ALL,
    ),
    Case(
        "10 rename over a hard link of itself",
        [LINKS],
        [("rename", "a", "b"), ("lstat", "a"), ("write", "a", b"n"), ("rename", "a", "b"), ("lstat", "b")],
        features=ALL,
    ),
    Case(
        "10 rename over another hard link",
        [LINKS],
        [("rename", "x", "a"), ("lstat", "b"), ("rename", "b", "d/c"), ("lstat", "d/c")],
        features=ALL,
    ),
    Case(
        "10 links of an open file",
        [LINKS],
        [
            ("open", "h", "a", os.O_RDONLY),
            ("unlink", "a"),
            ("fstat", "h"),
            ("unlink", "b"),
            ("unlink", "d/c"),
            ("fstat", "h"),
        ],
        features=INDEX,
    ),
    Case(
        "10 links of a new file",
        [LINKS],
        [
            ("create", "n"),
            ("link", "n", "m"),
            ("link", "n", "d/m"),
            ("unlink", "n"),
            ("lstat", "m"),
            ("rename", "m", "d/m"),
        ],
        features=BOTH_WAYS,
    ),
    Case(
        "10 link to a symlink, a fifo, a directory",
        [{"s": Symlink("x"), "p": fifo(), "d": {}}],
        [("link", "s", "t"), ("link", "p", "q"), ("link", "d", "e"), ("lstat", "t")],
        features=ALL,
    ),
]

DATA: Final = [
    Case(
        "13 a reader that was there first",
        [{"f": "old"}],
        [("open", "r", "f", os.O_RDONLY), ("write", "f", b"new"), ("pread", "r", 9), ("fstat", "r")],
        features=ALL,
    ),
    Case(
        "13 writers through two handles",
        [{"f": "old"}],
        [
            ("open", "a", "f", os.O_RDWR),
            ("open", "b", "f", os.O_RDWR),
            ("pwrite", "a", b"A"),
            ("pwrite", "b", b"B", 5),
            ("pread", "a", 9),
        ],
        features=ALL,
    ),
    Case(
        "15 grow and shrink",
        [{"f": "12345"}],
        [
            ("write", "f", b"x", 10),
            ("truncate", "f", 3),
            ("truncate", "f", 8),
            ("write", "f", b"end", 6),
            ("truncate", "f", 0),
        ],
        features=ALL,
    ),
    Case(
        "27 holes",
        [{"f": File(b"head", holes={1 << 20: b"mid"}, size=(3 << 20) + 1)}],
        [
            ("open", "h", "f", os.O_RDWR),
            ("pwrite", "h", b"!", 5),
            ("lseek", "h", 4 << 20, os.SEEK_HOLE),
            ("lseek", "h", 4 << 20, os.SEEK_DATA),
            ("lseek", "h", -7, os.SEEK_DATA),
            ("lseek", "h", -7, os.SEEK_HOLE),
        ],
        features=ON,
    ),
    Case(
        "29 truncating open of a lower file",
        [{"f": File(b"old", mode=0o4755, xattrs={"user.k": b"v"}), "g": "gg"}],
        [
            ("open", "h", "f", os.O_WRONLY | os.O_TRUNC),
            ("lstat", "f"),
            ("pwrite", "h", b"n"),
            ("create", "g", b"", 0o600, os.O_TRUNC),
        ],
        features=ALL,
    ),
    Case(
        "29 a truncating open that only reads",
        [{"f": "old"}],
        [("open", "h", "f", os.O_RDONLY | os.O_TRUNC), ("lstat", "f")],
        features=ON,
    ),
    Case(
        "30 append",
        [{"f": "old"}],
        [
            ("write", "f", b"+1", 0, os.O_APPEND),
            ("open", "a", "f", os.O_WRONLY | os.O_APPEND),
            ("open", "b", "f", os.O_WRONLY | os.O_APPEND),
            ("pwrite", "a", b"+2"),
            ("pwrite", "b", b"+3"),
            ("read", "f"),
        ],
        features=ALL,
    ),
    Case(
        "32 truncate a file, a directory, a symlink",
        [{"f": "12345", "d": {}, "s": Symlink("f")}],
        [("truncate", "f", 2), ("truncate", "d", 0), ("truncate", "s", 1), ("truncate", "none", 0)],
        features=ALL,
    ),
    Case(
        "32 truncate to the size that it has",
        [{"f": "12345", "same": File(data=b"12345", mtime_ns=PAST), "empty": "", "long": "123456789"}],
        [
            ("truncate", "same", 5),
            ("truncate", "f", 5),
            ("utime", "f", PAST, PAST + 1),
            ("truncate", "f", 5),
            ("open", "h", "f", os.O_RDWR),
            ("ftruncate", "h", 5),
            ("chmod", "empty", 0o600),
            ("utime", "empty", PAST, PAST + 1),
            ("truncate", "empty", 0),
            ("truncate", "long", 3),
            ("open", "h", "empty", os.O_WRONLY | os.O_TRUNC),
        ],
        features=BOTH_WAYS,
    ),
    Case(
        "32 ftruncate",
        [{"f": "12345"}],
        [
            ("open", "h", "f", os.O_RDWR),
            ("ftruncate", "h", 3),
            ("unlink", "f"),
            ("ftruncate", "h", 7),
            ("pread", "h", 9),
            ("fstat", "h"),
        ],
        features=ALL,
    ),
    Case(
        "32 ftruncate needs a writer",
        [{"f": "12345"}],
        [("open", "h", "f", os.O_RDONLY), ("ftruncate", "h", 3)],
        features=ON,
    ),
    Case(
        "33 an unlinked lower file",
        [{"f": "old"}],
        [
            ("open", "h", "f", os.O_RDONLY),
            ("unlink", "f"),
            ("pread", "h", 9),
            ("create", "f", b"new"),
            ("pread", "h", 9),
        ],
        features=ALL,
    ),
    Case(
        "33 an unlinked upper file",
        [{"f": "old"}],
        [
            ("open", "h", "f", os.O_RDWR),
            ("unlink", "f"),
            ("pwrite", "h", b"NEW!"),
            ("pread", "h", 9),
            ("fstat", "h"),
            ("fchmod", "h", 0o600),
        ],
        features=ON,
    ),
    Case(
        "33 a file replaced by a rename",
        [{"f": "old", "g": "gee"}],
        [
            ("open", "h", "f", os.O_RDONLY),
            ("rename", "g", "f"),
            ("pread", "h", 9),
            ("write", "f", b"x"),
            ("pread", "h", 9),
        ],
        features=ALL,
    ),
    Case(
        "33 open files follow a renamed directory",
        [{"d": {"f": "old"}}],
        [("open", "h", "d/f", os.O_RDONLY), ("rename", "d", "e"), ("write", "e/f", b"new"), ("pread", "h", 9)],
        features=ON,
    ),
    Case(
        "fallocate and its modes",
        [{"f": "0123456789"}],
        [
            ("open", "h", "f", os.O_RDWR),
            ("fallocate", "h", 0, 8, 8),
            ("fallocate", "h", KEEP_SIZE, 0, 99),
            ("fallocate", "h", PUNCH_HOLE | KEEP_SIZE, 2, 3),
            ("read", "f"),
            ("lstat", "f"),
        ],
        features=ON,
    ),
    Case(
        "copy_file_range from a lower file to another",
        [{"f": "0123456789", "g": "abc"}],
        [
            ("open", "f", "f", os.O_RDONLY),
            ("open", "g", "g", os.O_RDWR),
            ("copy_range", "f", "g", (2, 1), 5),
            ("read", "g"),
            ("copy_range", "f", "g", (99, 0), 5),
        ],
        features=ON,
    ),
    Case(
        "a file without a name",
        [{"d": {"x": "1"}}],
        [
            ("tmpfile", "t", "d", os.O_RDWR, 0o640),
            ("pwrite", "t", b"data"),
            ("fstat", "t"),
            ("link_open", "t", "d/x"),
            ("link_open", "t", "d/y"),
            ("pwrite", "t", b"DATA"),
            ("rename", "d/y", "z"),
            ("lstat", "z"),
            ("listdir", "d"),
        ],
        features=ON,
    ),
    Case(
        "a file without a name goes",
        [{"d": {"x": "1"}}],
        [("tmpfile", "t", "d", os.O_WRONLY), ("pwrite", "t", b"data"), ("close", "t"), ("listdir", "d")],
        features=ON,
    ),
]

CASES: Final = [*HARD_LINKS, *DATA]
