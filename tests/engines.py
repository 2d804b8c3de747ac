"""What tests of real mounts share: a zygote for quick daemons, and every engine as a parameter.

What the pyfuse3 engine cannot do is known by name, with the reason, and looked for nowhere else.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from tests.zygote import Zygote
from unionfs.testing.served import fuse
from unionfs.testing.stack import Backend

__all__ = ["ENGINES", "PYFUSE3_LACKS", "backends"]

ENGINES: Final = ("direct", "pyfuse3")

PYFUSE3_LACKS: Final = {
    "fallocate": "the library has no handler for it",
    "tmpfile": "the library has no handler for it",
    "link_open": "needs tmpfile",
    "copy_range": "the library has no handler for it; the kernel copies by itself",
    "lseek": "the library has no handler for it; the kernel takes every file for full",
    "set-id": "the library does not say who writes, so set-id bits go even where root writes",
    "umask": "the library lets the kernel apply it before a default ACL could replace it",
    "damaged": "the library can list only what can be looked up",
    "same number": "the library shows the node's id as st_ino, and names of a lower hard link are nodes of their own",
}


@contextmanager
def backends() -> Iterator[dict[str, Backend]]:
    """Start a zygote, and give a `Backend` for each engine, supervised if it can be, as mounts are by default."""
    zygote = Zygote()
    more = {"direct": "supervise=on"}
    try:
        yield {name: partial(fuse, engine=name, more=more.get(name, ""), launch=zygote.launch) for name in ENGINES}
    finally:
        zygote.close()
