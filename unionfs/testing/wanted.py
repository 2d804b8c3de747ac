"""Where the links of a directory are wanted to differ from those that the kernel's overlayfs shows.

A directory of the lower layers shows its own count of links until it is merged, which is when it is copied up;
from then on it shows 1. So a difference tells who has copied what up, and that is not always the same.
"""

import stat
from collections.abc import Collection

from unionfs.testing.driver import Outcome, Status
from unionfs.testing.snapshot import Snapshot

__all__ = ["is_gone_directory", "with_links_of"]


def is_gone_directory(outcome: Outcome, expected: Outcome) -> bool:
    """Tell whether both saw the same directory, which is open and removed, and only we say that it has no names left.

    The kernel's overlayfs goes on showing the links that it had.
    """
    mine, other = outcome.value, expected.value
    if not isinstance(mine, Status) or not isinstance(other, Status) or not stat.S_ISDIR(mine.mode):
        return False
    return mine.nlink == 0 and mine == other._replace(nlink=0)


def with_links_of(ours: Snapshot, kernels: Snapshot, *, index: bool, kernel_merges: Collection[str] = ()) -> Snapshot:
    """Return *ours* with the kernel's links of those directories that one of the two alone was to copy up.

    Args:
        index: With an index, a change of one name of a hard link gives all the known ones a place in the upper layer
            here, and so the directories that they are in; under the kernel the index alone knows of them. Which
            those are cannot be seen any more when names have gone, so with an index any directory may be merged here.
        kernel_merges: The directories that the kernel's overlayfs copied up for an operation that it then refused.
    """
    found = dict(ours)
    for path in ours.keys() & kernels.keys():
        mine, other = ours[path].status, kernels[path].status
        copied_by_us = index and mine.nlink == 1
        copied_by_the_kernel = path in kernel_merges and other.nlink == 1
        if stat.S_ISDIR(mine.mode) and (copied_by_us or copied_by_the_kernel):
            found[path] = ours[path]._replace(status=mine._replace(nlink=other.nlink))
    return found
