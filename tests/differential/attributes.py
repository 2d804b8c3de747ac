"""Cases about what files are: owners, modes, times, attributes, kinds. Numbers as in `names`.

The classes of this table: 8, 18 to 25, 51, 53.
"""

import os
import stat
from typing import Final

from tests.differential.featuresets import ALL, BOTH_WAYS, ON
from unionfs.testing.driver import Op
from unionfs.testing.literal import (
    ACL_ACCESS,
    ACL_DEFAULT,
    PAST,
    Dir,
    File,
    Special,
    Symlink,
    Tree,
    acl,
    capability,
    fifo,
    opaque,
    socket_file,
)
from unionfs.testing.trial import Case

__all__ = ["CASES", "OWNED"]


OWNED: Final = File(
    b"content", mode=0o6755, uid=1000, gid=1001, xattrs={"user.mine": b"1", "security.capability": capability()}
)
DEEP: Final[Tree] = {
    "p": Dir(
        {"q": Dir({"r": Dir({"f": "1"}, mode=0o500, uid=7, gid=8, mtime_ns=PAST + 3)}, mode=0o1777, mtime_ns=PAST + 2)},
        mode=0o2750,
        gid=9,
        xattrs={"user.p": b"yes", ACL_DEFAULT: acl("u::rwx,u:1000:rwx,g::r-x,m::rwx,o::---")},
    )
}

OWNERS: Final = [
    Case(
        "19 a copy keeps capability and set-id bits",
        [{"f": OWNED}],
        [("utime", "f", PAST, PAST + 7), ("setxattr", "f", "user.new", b"2"), ("rename", "f", "g")],
        features=ALL,
    ),
    Case(
        "19 a write drops the capability",
        [{"f": OWNED}],
        [("write", "f", b"C"), ("listxattr", "f")],
        features=BOTH_WAYS,
    ),
    Case("19 truncation drops the capability", [{"f": OWNED}], [("truncate", "f", 3), ("listxattr", "f")], features=ON),
    Case(
        "20 chown drops set-id bits and capability",
        [{"f": OWNED}],
        [("chown", "f", 5, 6), ("lstat", "f"), ("listxattr", "f")],
        features=ALL,
    ),
    Case(
        "20 chown of a group only, of nothing",
        [{"f": OWNED, "d": Dir(mode=0o2755)}],
        [("chown", "f", -1, 6), ("chown", "d", 3, 4), ("lstat", "d")],
        features=ALL,
    ),
    Case(
        "21 private attributes stay behind",
        [{"d": opaque({"f": "1"})}, {"d": {"no": ""}}],
        [("create", "d/n"), ("rename", "d", "e"), ("listdir", "e")],
    ),
    Case(
        "21 nested marks are shown and kept",
        [
            {
                "f": File(b"", xattrs={"trusted.overlay.overlay.opaque": b"y"}),
                "d": Dir({"x": "1"}, xattrs={"trusted.overlay.overlay.redirect": b"/x"}),
            }
        ],
        [
            ("listxattr", "f"),
            ("getxattr", "d", "trusted.overlay.redirect"),
            ("chmod", "f", 0o600),
            ("create", "d/y"),
            ("listxattr", "d"),
        ],
        features=ON,
    ),
    Case(
        "21 private names",
        [{"f": "1", "d": {}}],
        [
            ("getxattr", "f", "trusted.overlay.origin"),
            ("setxattr", "f", "trusted.overlay.opaque", b"y"),
            ("listxattr", "f"),
            *((act, "f", f"trusted.overlay.{mark}") for mark in ("opaque", "") for act in ("getxattr", "removexattr")),
            ("setxattr", "f", "trusted.overlay.", b"y"),
            ("setxattr", "d", "trusted.overlay.whiteout", b""),
            ("setxattr", "f", "user.overlay.opaque", b"y"),
            ("listxattr", "f"),
        ],
        features=ON,
    ),
    Case(
        "22 attributes that are large or oddly named",
        [{"f": File(b"1", xattrs={"user.big": b"x" * 3000, "user.\udcff\udc80": b"\0\xff"})}],
        [
            ("chmod", "f", 0o600),
            ("setxattr", "f", "user.big", b"y" * 60000),
            ("getxattr", "f", "user.big"),
            ("setxattr", "f", "user." + "n" * 251, b""),
            ("setxattr", "f", "user.empty", b""),
        ],
        features=ALL,
    ),
    Case(
        "22 create and replace",
        [{"f": File(b"1", xattrs={"user.a": b"1"})}],
        [
            ("setxattr", "f", "user.a", b"2", os.XATTR_CREATE),
            ("setxattr", "f", "user.b", b"2", os.XATTR_REPLACE),
            ("setxattr", "f", "user.b", b"2", os.XATTR_CREATE),
            ("setxattr", "f", "user.a", b"3", os.XATTR_REPLACE),
            ("removexattr", "f", "user.c"),
            ("removexattr", "f", "user.a"),
        ],
        features=ALL,
    ),
    Case(
        "22 attributes of a symlink are its own",
        [{"f": File(b"1", xattrs={"user.f": b"1"}), "s": Symlink("f", xattrs={"trusted.s": b"own"})}],
        [
            ("listxattr", "s"),
            ("getxattr", "s", "trusted.s"),
            ("getxattr", "s", "user.f"),
            ("setxattr", "s", "user.n", b"x"),
            ("setxattr", "s", "trusted.n", b"x"),
            ("removexattr", "s", "trusted.s"),
            ("listxattr", "f"),
        ],
        features=ON,
    ),
    Case(
        "22 attributes of directories and special files",
        [{"d": Dir(xattrs={"user.d": b"1"}), "p": fifo()}],
        [
            ("setxattr", "d", "user.e", b"2"),
            ("removexattr", "d", "user.d"),
            ("setxattr", "p", "user.x", b"1"),
            ("setxattr", "p", "trusted.x", b"1"),
            ("setxattr", "", "user.root", b"1"),
            ("removexattr", "", "user.none"),
        ],
        features=ON,
    ),
    Case(
        "22 names no namespace has",
        [{"f": "1"}],
        [
            ("setxattr", "f", "what.ever", b"x"),
            ("setxattr", "f", "user." + "n" * 260, b"x"),
        ],
        features=ON,
    ),
    Case(
        "23 parents are copied up as they are",
        [DEEP],
        [("write", "p/q/r/f", b"2"), ("lstat", "p/q/r"), ("listxattr", "p")],
        features=ALL,
    ),
    Case(
        "23 a new name in a deep directory", [DEEP], [("create", "p/q/r/n"), ("mkdir", "p/q/r/m"), ("rmdir", "p/q/r/m")]
    ),
    Case(
        "24 directories that allow nothing",
        [{"d": Dir({"e": Dir({"f": "1"}, mode=0)}, mode=0o555)}],
        [("write", "d/e/f", b"2"), ("create", "d/n"), ("mkdir", "d/e/m", 0), ("unlink", "d/e/f")],
    ),
    Case(
        "25 modes and the umask",
        [{"d": {}}],
        [
            ("create", "d/f", b"", 0o777),
            ("mkdir", "d/g", 0o1777),
            ("mknod", "d/p", stat.S_IFIFO | 0o666),
            ("create", "d/s", b"", 0o6755),
            ("mkdir", "d/h", 0o2000),
        ],
        features=ON,
    ),
    Case(
        "25 a default ACL replaces the umask",
        [DEEP],
        [
            ("create", "p/f", b"", 0o666),
            ("mkdir", "p/d", 0o777),
            ("mknod", "p/pipe", stat.S_IFIFO | 0o666),
            ("create", "p/d/f", b"", 0o640),
            ("symlink", "p/s", "f"),
            ("listxattr", "p/d"),
        ],
        features=ON,
    ),
    Case(
        "08 a set-group-id directory gives its group",
        [{"d": Dir({"w": "1"}, mode=0o2775, gid=77)}],
        [
            ("unlink", "d/w"),
            ("create", "d/w"),
            ("mkdir", "d/sub"),
            ("symlink", "d/s", "w"),
            ("mkdir", "d/sub/sub"),
            ("create", "d/x", b"", 0o2775),
        ],
        features=ON,
    ),
    Case(
        "ACLs",
        [{"f": "1", "d": {"e": {}}}],
        [
            ("setxattr", "f", ACL_ACCESS, acl("u::rw-,u:5:r--,g::r--,m::rw-,o::---")),
            ("lstat", "f"),
            ("chmod", "f", 0o600),
            ("getxattr", "f", ACL_ACCESS),
            ("setxattr", "f", ACL_ACCESS, acl("u::rwx,g::r-x,o::r-x")),
            ("listxattr", "f"),
            ("removexattr", "f", ACL_ACCESS),
            ("setxattr", "d", ACL_DEFAULT, acl("u::rwx,g::r-x,o::---")),
            ("mkdir", "d/n", 0o777),
            ("create", "d/g", b"", 0o666),
            ("setxattr", "f", ACL_DEFAULT, acl("u::rwx,g::r-x,o::---")),
            ("removexattr", "d", ACL_DEFAULT),
            ("setxattr", "f", ACL_ACCESS, b"junk"),
        ],
        features=ALL,
    ),
    Case(
        "ACLs of a copied-up file",
        [{"f": File(b"1", xattrs={ACL_ACCESS: acl("u::rw-,u:5:rw-,g::r--,m::rw-,o::---")})}],
        [("write", "f", b"2"), ("chmod", "f", 0o640), ("rename", "f", "g")],
        features=ALL,
    ),
    Case(
        "51 times to the nanosecond",
        [{"f": "1", "d": {"x": "2"}, "s": Symlink("f")}],
        [
            ("utime", "f", PAST + 1, PAST + 2),
            ("utime", "d", PAST + 3, PAST + 4),
            ("utime", "s", PAST + 5, PAST + 6),
            ("utime", "", PAST, PAST + 8),
            ("unlink", "d/x"),
            ("utime", "d", PAST, 1),
        ],
        features=ALL,
    ),
    Case(
        "51 a change of attributes moves no mtime",
        [{"f": "1", "d": {}}],
        [("chmod", "f", 0o600), ("chown", "d", 1, 1), ("setxattr", "d", "user.a", b"1"), ("link", "f", "g")],
        features=ALL,
    ),
    Case(
        "53 special files",
        [
            {
                "c": Special(stat.S_IFCHR, os.makedev(1, 5), mode=0o640, uid=3),
                "b": Special(stat.S_IFBLK, os.makedev(7, 9)),
                "p": fifo(0o600),
                "k": socket_file(),
                "s": Symlink("p", uid=4, gid=5),
            }
        ],
        [
            ("chmod", "c", 0o600),
            ("utime", "b", PAST, PAST + 1),
            ("chown", "p", 8, 9),
            ("rename", "k", "k2"),
            ("chown", "s", 1, 2),
            ("setxattr", "s", "trusted.x", b"1"),
            ("mknod", "c2", stat.S_IFCHR | 0o600, os.makedev(240, 1)),
            ("mknod", "k3", stat.S_IFSOCK | 0o755),
            ("mknod", "plain", stat.S_IFREG | 0o600),
        ],
        features=ALL,
    ),
    Case(
        "the root directory",
        [Dir({"a": "1"}, mode=0o751, uid=3, gid=4)],
        [("lstat", ""), ("chmod", "", 0o700), ("chown", "", 1, 1), ("rmdir", ""), ("mkdir", "")],
        Dir(mode=0o711, uid=9),
        features=ON,
    ),
]


def _every_way_to_copy_up(name: str) -> list[Op]:
    return [
        ("chmod", name, 0o640),
        ("chown", name, 1, 2),
        ("utime", name, PAST, PAST + 1),
        ("setxattr", name, "user.z", b"z"),
        ("write", name, b"w"),
        ("truncate", name, 1),
        ("link", name, "linked"),
        ("rename", name, "renamed"),
        ("open", "h", name, os.O_RDWR),
        ("open", "h", name, os.O_WRONLY | os.O_APPEND),
        ("open", "h", name, os.O_RDONLY | os.O_TRUNC),
    ]


COPY_UPS: Final = [
    Case(
        f"18 copy-up by {op[0]} {op[3:] if op[0] == 'open' else ''}".strip(),
        [{"f": OWNED}],
        [op, ("lstat", "f")],
        features=ALL,
    )
    for op in _every_way_to_copy_up("f")
]

CASES: Final = [*OWNERS, *COPY_UPS]
