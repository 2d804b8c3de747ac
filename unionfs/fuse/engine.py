"""What an engine is: one mount of one union, spoken of in the kernel's FUSE protocol.

Two engines have this interface over the same `core.Union`: ``direct`` speaks the protocol itself,
``pyfuse3`` leaves that to a maintained library. An engine is made once, mounted once and served
once; the session (session.py) owns it and everything around it.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from unionfs.core.mountoptions import MountOptions
from unionfs.errors import MountError

if TYPE_CHECKING:
    from unionfs.core.union import Union
    from unionfs.fuse.state import Record
    from unionfs.fuse.supervisor import Link

__all__ = ["ENGINES", "Engine", "EngineClass", "choose"]


class Engine(Protocol):
    """One mount, from mounting to unmounting."""

    name: str

    def mount(self) -> None:
        """Make the mount. Nobody answers its requests yet.

        Raises:
            MountError: it could not be made, and nothing is left mounted.
        """

    @property
    def number(self) -> str | None:
        """``MAJOR:MINOR`` of the mount's st_dev; None if there is no telling without asking it."""

    def hand_over(self, link: "Link", record: "Record") -> str | None:
        """Leave with a supervisor what another process needs to go on after us; return why not, if it cannot.

        Between `mount` and `start`.
        """

    def finish(self) -> None:
        """Answer what was asked, and then nothing any more: another process is about to go on."""

    def start(self) -> bool:
        """Begin to answer requests, if that needs no trio; return whether it did.

        Importing trio takes longer than everything else between the command and its mount.
        """

    async def serve(self) -> None:
        """Answer requests, under trio, until the mount is gone; when cancelled, `unmount` first."""

    def unmount(self) -> None:
        """Take the mount out of the tree if it is still there, open files or not.

        While `serve` runs it is called in another thread: the kernel may want something written first.
        """

    def statistics(self) -> dict[str, int]:
        """Return counts since the mount was made, by a name for people."""


class EngineClass(Protocol):
    """How an engine is made, and whether this machine lets it run."""

    def __call__(self, union: "Union", mountpoint: Path, options: MountOptions) -> Engine:
        """Make the engine; mounts nothing."""

    def unfit(self) -> str | None:
        """Return why this engine cannot run here, or None if it can."""


ENGINES: Final = {
    "direct": ("unionfs.fuse.direct", "DirectEngine"),
    "pyfuse3": ("unionfs.fuse.pyfuse3_engine", "Pyfuse3Engine"),
}
"""Engines by name, the preferred one first: module and class, imported only when they are used."""


def choose(name: str) -> EngineClass:
    """Return the engine that was asked for, or for ``auto`` the first one that is fit.

    Raises:
        MountError: it cannot run on this machine.
    """
    reasons = []
    for candidate in ENGINES if name == "auto" else [name]:
        module, attribute = ENGINES[candidate]
        engine: EngineClass = getattr(importlib.import_module(module), attribute)
        reason = engine.unfit()
        if reason is None:
            return engine
        reasons.append(f"the {candidate} engine cannot run here; because {reason}")
    raise MountError("; ".join(reasons))
