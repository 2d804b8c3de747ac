"""How a union is mounted, apart from what it shows: flags of mount(2), names, timeouts, the engine.

These options never reach the core: the same `Config` may be looked at without any mount. They live
on this floor because both engines and the command line speak of them.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Self

from unionfs.errors import ConfigError

__all__ = ["FLAG_GROUPS", "FOREVER_S", "MountOptions"]

FOREVER_S: Final = 1e9
"""Thirty years: the union is the only writer of its layers, so what the kernel knows stays true."""

FLAG_GROUPS: Final[tuple[Mapping[str, str], ...]] = (
    {"rw": "changes are allowed; the default with an upperdir", "ro": "no changes"},
    {"dev": "devices work; the default for root", "nodev": "devices are only names; the default for users"},
    {"suid": "set-id bits work; the default for root", "nosuid": "set-id bits do nothing; the default for users"},
    {"exec": "programs may run; the default", "noexec": "no program may run"},
    {"async": "writes need not reach the disk at once; the default", "sync": "every write is synced, and dirsync"},
    {"symfollow": "symlinks are followed; the default", "nosymfollow": "no symlink is followed"},
    {"dirsync": "changes to directories are on the disk when they are answered"},
    {
        "relatime": "in the upper layer, reading is noted after a change and once a day; the default",
        "atime": "as relatime",
        "noatime": "reading is not noted, of symlinks only where root mounts",
        "strictatime": "in the upper layer, reading is noted every time; only where root mounts",
        "norelatime": "as relatime",
        "nostrictatime": "as relatime",
    },
    {"diratime": "listing is reading; the default", "nodiratime": "listing a directory is not noted"},
)
"""Words of mount(8) and what they mean here; of each group the last one named counts."""


class _Fields(NamedTuple):
    flags: tuple[str, ...] = ()
    """Words of FLAG_GROUPS that were asked for, at most one of each group."""
    fsname: str = "unionfs"
    """The source in /proc/mounts."""
    subtype: str = "unionfs"
    """The type in /proc/mounts is ``fuse.`` and this."""
    allow_other: bool | None = None
    """Other users may enter; None leaves it to who mounts: yes for root, no for users."""
    engine: str = "auto"
    """``direct``, ``pyfuse3``, or ``auto``: direct where the kernel allows."""
    entry_timeout: float = FOREVER_S
    """Seconds for which the kernel need not ask again for a name."""
    attr_timeout: float = FOREVER_S
    """Seconds for which the kernel need not ask again for attributes."""
    negative_timeout: float = FOREVER_S
    """Seconds for which the kernel need not ask again for a name that does not exist."""
    follow: bool = True
    """The direct engine moves to the requester's CPU."""
    supervise: bool | None = None
    """A supervisor lets another daemon go on if this one dies; None: where that is possible."""
    auto_unmount: bool = False
    """Something outlives the daemon and unmounts when it dies."""
    remount: bool = False
    """Change the flags of a mount that exists instead of making one."""
    foreground: bool = False
    debug: bool = False


class MountOptions(_Fields):
    """How the kernel and the engine treat one mount; what may be asked for is in `_Fields`, given by name."""

    __slots__ = ()

    def __new__(cls, **asked: Any) -> Self:  # noqa: ANN401 - each as in `_Fields`
        self = super().__new__(cls, **asked)
        for name in (self.fsname, self.subtype):
            if not name or "\n" in name or "\0" in name:
                raise ConfigError(f"fsname, subtype: {name!r} is not a name")
        return self

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]:
        """Let copies be made: of an instance checked, but by name."""
        return (), self._asdict()

    def _replace(self, **changes: Any) -> Self:  # noqa: ANN401 - as above
        return type(self)(**(self._asdict() | changes))

    def flags_for(self, *, privileged: bool) -> tuple[str, ...]:
        """Return the flags of the mount; whether it honours devices and set-id bits is always said.

        As with the kernel's overlayfs a mount made by root honours both. A user never gets them: he
        could put whatever he likes into a layer.

        >>> MountOptions(flags=("noexec", "suid")).flags_for(privileged=False)
        ('noexec', 'nodev', 'nosuid')
        >>> MountOptions(flags=("nosuid", "ro")).flags_for(privileged=True)
        ('nosuid', 'ro', 'dev')
        """
        if privileged:
            said = {word.removeprefix("no") for word in self.flags}
            return (*self.flags, *(word for word in ("dev", "suid") if word not in said))
        return (*(word for word in self.flags if word.removeprefix("no") not in {"dev", "suid"}), "nodev", "nosuid")

    def allows_other(self, *, privileged: bool) -> bool:
        """Return whether users other than the mounter may enter."""
        return privileged if self.allow_other is None else self.allow_other
