"""Read a tree back as a value, and say how two trees differ.

What is compared: names, types, modes, owners, device numbers, sizes, contents, link targets, extended
attributes, which names are one inode, and times as far as they can be equal: an mtime of years ago must
be the same to the nanosecond, a recent one only counts as "now", because the two trees did not do their
work in the same nanosecond.

Left out: access times (mount options decide), change times (nobody can set them), inode numbers
(two filesystems may count as they like; that they are stable and unique is tested by itself), labels
of security modules that the host, not the tree, adds, and names that a listing shows but nobody finds:
the kernel does not filter the whiteouts of a directory that it passes through unmerged.
"""

import errno
import stat
from typing import Final, NamedTuple, TypeAlias

from unionfs.testing.driver import Driver, Status, status_of

__all__ = ["PRIVATE", "Seen", "Snapshot", "differences", "snapshot", "without_directory_links"]

PRIVATE: Final = ("trusted.overlay.", "user.overlay.")
"""Prefixes to pass as *hide* when the tree is a layer, read from behind."""

_RECENT_NS: Final = 1_500_000_000_000_000_000
_HOST_LABELS: Final = frozenset({"security.selinux", "security.SMACK64"})


class Seen(NamedTuple):
    """What one name shows."""

    status: Status
    mtime_ns: int
    """0 when it is recent: changed by the test itself."""
    content: bytes | str | None
    """A file's bytes, a symlink's target; the name of the errno where looking failed."""
    xattrs: tuple[tuple[str, bytes], ...]
    same_as: str
    """The first name, in order, of the same inode: its own when it has no others."""


Snapshot: TypeAlias = dict[str, Seen]
"""Path from the root (``""``) to what it shows."""


def snapshot(driver: Driver, *, hide: tuple[str, ...] = ()) -> Snapshot:
    """Walk the whole tree. Attributes whose names start with one of *hide* are left out."""
    seen: Snapshot = {}
    first_names: dict[int, str] = {}
    waiting = [""]
    while waiting:
        path = waiting.pop()
        found = _try_to_see(driver, path, first_names, hide)
        if found is None:
            continue
        seen[path] = found
        if stat.S_ISDIR(found.status.mode):
            names = sorted((name for name, _ in driver.listdir(path)), reverse=True)
            waiting.extend(f"{path}/{name}" if path else name for name in names)
    return seen


def _try_to_see(driver: Driver, path: str, first_names: dict[int, str], hide: tuple[str, ...]) -> Seen | None:
    try:
        return _see(driver, path, first_names, hide)
    except FileNotFoundError:
        return None
    except OSError as exc:
        return Seen(Status(0, 0, 0, 0, 0, 0), 0, errno.errorcode[exc.errno or 0], (), path)


def _see(driver: Driver, path: str, first_names: dict[int, str], hide: tuple[str, ...]) -> Seen:
    st = driver.lstat(path)
    content: bytes | str | None = None
    if stat.S_ISREG(st.st_mode):
        content = driver.read(path)
    elif stat.S_ISLNK(st.st_mode):
        content = driver.readlink(path)
    names = [name for name in driver.listxattr(path) if name not in _HOST_LABELS and not name.startswith(hide or "\0")]
    return Seen(
        status=status_of(st),
        mtime_ns=st.st_mtime_ns if st.st_mtime_ns < _RECENT_NS else 0,
        content=content,
        xattrs=tuple((name, driver.getxattr(path, name)) for name in sorted(names)),
        same_as=first_names.setdefault(driver.inode(path), path),
    )


def without_directory_links(tree: Snapshot) -> Snapshot:
    """Return *tree* with one link for each directory, to compare a union with what is none, or with itself earlier.

    A directory that becomes merged, as by a copy-up that comes to nothing, has one link from then on.
    """
    return {
        path: found._replace(status=found.status._replace(nlink=1)) if stat.S_ISDIR(found.status.mode) else found
        for path, found in tree.items()
    }


def differences(ours: Snapshot, theirs: Snapshot, *, names: tuple[str, str] = ("ours", "theirs")) -> list[str]:
    """Return one line for each fact that differs; none when the trees are alike."""
    lines = []
    for path in sorted(ours.keys() | theirs.keys()):
        left, right = ours.get(path), theirs.get(path)
        if left is None or right is None:
            lines.append(f"{path or '/'}: only in {names[0] if right is None else names[1]}: {left or right}")
            continue
        for field, mine, other in zip(Seen._fields, left, right, strict=True):
            if mine != other:
                lines.append(f"{path or '/'}: {field}: {names[0]} {mine!r}, {names[1]} {other!r}")
    return lines
