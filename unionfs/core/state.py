"""What the verbs of the union share: the open stack and the three tables. No rule lives here."""

from typing import TYPE_CHECKING, final

from unionfs.core.accesstimes import Noting
from unionfs.core.config import Config
from unionfs.core.layer import Descriptors, Layer
from unionfs.core.lookup import Rules
from unionfs.core.nodes import Dir, File, Node, NodeTable
from unionfs.errors import ReadOnlyUnion

if TYPE_CHECKING:
    from collections.abc import Callable

    from unionfs.core.files import FileTable
    from unionfs.core.jobs import Job
    from unionfs.core.upper import Upper

__all__ = ["Counters", "State"]


@final
class Counters:
    """What the union did since it was opened."""

    def __init__(self) -> None:
        self.copy_ups = 0
        self.copied_bytes = 0
        self.whiteouts = 0


@final
class State:
    """One open union."""

    __slots__ = (
        "config", "counters", "defer", "descriptors", "files", "jobs", "layers", "nodes", "noting", "on_copy_up",
        "on_merging", "on_nameless_copy", "on_renumbering", "rules", "shows_acls", "upper",
    )  # fmt: skip

    def __init__(
        self,
        *,
        config: Config,
        rules: Rules,
        descriptors: Descriptors,
        nodes: NodeTable,
        files: "FileTable",
        noting: Noting,
    ) -> None:
        self.config = config
        self.layers: tuple[Layer, ...] = (*rules.layers, *rules.data_layers)
        """Top first, the upper included."""
        self.rules = rules
        self.descriptors = descriptors
        self.nodes = nodes
        self.files = files
        self.upper: Upper | None = None
        self.noting = noting
        self.shows_acls = not config.noacl and not any(layer.owners for layer in self.layers)
        """False if asked for, or if the owners in an ACL would not be those that users see."""
        self.defer = False
        """Raise Deferred for long work instead of doing it."""
        self.jobs: dict[Node, Job] = {}
        """Copy-ups under way."""
        self.counters = Counters()
        self.on_copy_up: Callable[[File], None] | None = None
        self.on_renumbering: Callable[[File], None] | None = None
        self.on_merging: Callable[[Dir], None] | None = None
        self.on_nameless_copy: Callable[[File], None] | None = None

    def writable(self) -> "Upper":
        """Return the upper layer.

        Raises:
            ReadOnlyUnion: there is none, or the union is read-only.
        """
        if self.upper is None or self.config.read_only:
            raise ReadOnlyUnion
        return self.upper
