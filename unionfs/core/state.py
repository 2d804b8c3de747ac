"""What the verbs of the union share: the open stack and the three tables. No rule lives here."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from unionfs.core.accesstimes import Noting
from unionfs.core.config import Config
from unionfs.core.layer import Descriptors, Layer
from unionfs.core.lookup import Rules
from unionfs.core.nodes import File, Node, NodeTable
from unionfs.errors import ReadOnlyUnion

if TYPE_CHECKING:
    from collections.abc import Callable

    from unionfs.core.files import FileTable
    from unionfs.core.jobs import Job
    from unionfs.core.upper import Upper
    from unionfs.core.volatile import Volatile

__all__ = ["Counters", "State"]


@dataclass(slots=True)
class Counters:
    """What the union did since it was opened."""

    copy_ups: int = 0
    copied_bytes: int = 0
    whiteouts: int = 0


@dataclass(slots=True, kw_only=True)
class State:
    """One open union."""

    config: Config
    layers: tuple[Layer, ...]
    """Top first, the upper included."""
    rules: Rules
    descriptors: Descriptors
    nodes: NodeTable
    files: "FileTable"
    upper: "Upper | None"
    noting: Noting
    shows_acls: bool = True
    """False if asked for, or if the owners in an ACL would not be those that users see."""
    defer: bool = False
    """Raise Deferred for long work instead of doing it."""
    volatile: "Volatile | None" = None
    jobs: "dict[Node, Job]" = field(default_factory=dict)
    """Copy-ups under way."""
    counters: Counters = field(default_factory=Counters)
    on_copy_up: "Callable[[File], None] | None" = None
    on_renumbering: "Callable[[File], None] | None" = None
    on_nameless_copy: "Callable[[File], None] | None" = None

    def writable(self) -> "Upper":
        """Return the upper layer.

        Raises:
            ReadOnlyUnion: there is none, or the union is read-only.
        """
        if self.upper is None or self.config.read_only:
            raise ReadOnlyUnion
        return self.upper
