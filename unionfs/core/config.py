"""What a union is made of and how it behaves: values that make sense once they exist.

Construction is the check: a `Config` in hand has at least one layer, no contradiction, and no
option left for anybody to resolve. It says nothing about the disk: whether the directories exist,
are in use or lie inside each other is asked by ``core/stack.py`` when they are opened, and the text
forms that people type are read by ``core/options.py``.

The dependencies between options are the kernel's, so that a stack which the kernel would refuse is
refused here with the same reason. Source: Linux fs/overlayfs/params.c, ovl_fs_params_verify().
"""

import enum
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from unionfs.errors import ConfigError

__all__ = ["MAX_ID", "MAX_LAYERS", "AccessTimes", "Config", "Fsync", "IdMap", "RedirectDir", "Squash", "Xino"]

MAX_LAYERS: Final = 500
"""Lower layers of one union, data-only ones included. Source: OVL_MAX_STACK, fs/overlayfs/params.h."""

MAX_ID: Final = 2**32 - 2
"""The highest user or group number; the one above it means "no change" to chown(2)."""


class RedirectDir(enum.Enum):
    """What happens when a directory that exists in a lower layer is renamed."""

    AUTO = "auto"
    """ON, or NOFOLLOW with ``userxattr``; resolved by `Config`, never found in one."""
    ON = "on"
    """It moves: a redirect remembers the old place. Redirects are followed."""
    OFF = "off"
    """EXDEV; redirects that are already there are followed, as in a kernel built with
    OVERLAY_FS_REDIRECT_ALWAYS_FOLLOW, which is its default."""
    FOLLOW = "follow"
    """EXDEV; redirects that are already there are followed."""
    NOFOLLOW = "nofollow"
    """EXDEV; redirects that are already there are not followed."""

    @property
    def makes(self) -> bool:
        """True where a rename may write a redirect."""
        return self is RedirectDir.ON

    @property
    def follows(self) -> bool:
        """True where a redirect found in a layer is believed."""
        return self is not RedirectDir.NOFOLLOW


class Xino(enum.Enum):
    """The kernel's words for whether the file system's number is put into the high bits of st_ino: it always is."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class Fsync(enum.Enum):
    """What is written through to the disk, and when."""

    AUTO = "auto"
    """Data before a copy-up is published; an fsync of the user."""
    STRICT = "strict"
    """As AUTO, and attributes that are copied without data, and the directory of each copied-up name."""
    VOLATILE = "volatile"
    """Nothing, ever: an fsync of the user returns at once."""


class AccessTimes(enum.Enum):
    """When reading changes an access time, in the upper layer; in a lower one it never does. See `accesstimes`."""

    LAYERS = "layers"
    """As the mounts of the layers have it, for files; never for directories. For a union that is not mounted."""
    RELATIME = "relatime"
    """When the file was changed since, and once a day."""
    NOATIME = "noatime"
    """Never."""
    STRICTATIME = "strictatime"
    """Every time."""


class IdMap(NamedTuple):
    """A range of user or group numbers: *stored* on disk, *shown* in the mount, *length* of them."""

    stored: int
    shown: int
    length: int


class Squash(NamedTuple):
    """The one owner that every file shows, whatever the layers say; None leaves that half alone."""

    uid: int | None = None
    gid: int | None = None


class _Fields(NamedTuple):
    lower: tuple[Path, ...]
    """The read-only layers, top first."""
    data_only: tuple[Path, ...] = ()
    """Layers below all others that hold data for metacopy files and show no names of their own."""
    upper: Path | None = None
    """The writable layer; None makes the union read-only."""
    work: Path | None = None
    """An empty directory on the file system of *upper*, for what is not published yet."""
    redirect_dir: RedirectDir = RedirectDir.AUTO
    index: bool = False  # type: ignore[assignment] # tuple.index, which nobody asks of this
    """Keep hard links of a lower layer together when they are copied up."""
    metacopy: bool = False
    """Copy up only the attributes of a file while its data are not changed."""
    xino: Xino = Xino.AUTO
    """Makes no difference: see `inos`."""
    userxattr: bool = False
    """Marks are ``user.overlay.*`` instead of ``trusted.overlay.*``."""
    volatile: bool = False
    """As ``Fsync.VOLATILE``, with the kernel's marker: an upper that was not unmounted is refused."""
    fsync: Fsync = Fsync.AUTO
    dirsync: bool = False
    """A change of a directory is on the disk before it is answered, unless nothing is synced at all."""
    access_times: AccessTimes = AccessTimes.LAYERS
    nodiratime: bool = False
    """Listing a directory never changes its access time."""
    xattr_permissions: int = 0
    """Where owner and mode are kept if the upper cannot hold them: 0 nowhere, 1
    ``security.fuseoverlayfs.override_stat``, 2 ``user.containers.override_stat``."""
    uidmapping: tuple[IdMap, ...] = ()
    gidmapping: tuple[IdMap, ...] = ()
    squash: Squash | None = None
    static_nlink: bool = False
    """Every directory shows one link, as merged ones always do."""
    noacl: bool = False
    """No POSIX ACLs: they are neither shown nor inherited."""
    noxattrs: bool = False
    """No extended attributes are shown to users."""
    read_only: bool = False
    """No change is accepted, even though there may be an upper layer."""


class Config(_Fields):
    """One union, as asked for; what may be asked is in `_Fields`, given by name."""

    __slots__ = ()

    def __new__(cls, **asked: Any) -> Self:  # noqa: ANN401 - each as in `_Fields`
        self = super().__new__(cls, **(asked | _following(_Fields(**asked))))
        for check in (_check_layers, _check_dependencies, _check_ids):
            check(self)
        return self

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]:
        """Let copies be made: of an instance checked, but by name."""
        return (), self._asdict()

    def _replace(self, **changes: Any) -> Self:  # noqa: ANN401 - as above
        return type(self)(**(self._asdict() | changes))


def _following(asked: _Fields) -> dict[str, object]:
    """Return the value of every option that follows from another."""
    values: dict[str, object] = {}
    if asked.redirect_dir is RedirectDir.AUTO:
        safe = asked.userxattr  # anybody may write user.* attributes, so they are not followed
        values["redirect_dir"] = RedirectDir.NOFOLLOW if safe else RedirectDir.ON
    if asked.volatile:
        values["fsync"] = Fsync.VOLATILE
    if asked.upper is None:
        values |= {"index": False, "volatile": False, "read_only": True}
    return values


def _check_layers(config: Config) -> None:
    if not config.lower:
        raise ConfigError("lowerdir: at least one lower layer is needed; try: --lower DIR, or -o lowerdir=DIR")
    count = len(config.lower) + len(config.data_only)
    if count > MAX_LAYERS:
        raise ConfigError(f"lowerdir: {count} layers are too many; because the limit is {MAX_LAYERS}")
    if (config.upper is None) != (config.work is None):
        missing, given = ("workdir", "upperdir") if config.work is None else ("upperdir", "workdir")
        raise ConfigError(
            f"{missing} is missing; because upperdir and workdir go together; "
            f"try: name both, or leave {given} out for a read-only union"
        )


def _check_dependencies(config: Config) -> None:
    if config.userxattr and config.redirect_dir is not RedirectDir.NOFOLLOW:
        raise ConfigError(
            f"userxattr and redirect_dir={config.redirect_dir.value} exclude each other; because users may "
            "write user.* attributes and so forge redirects; try: leave redirect_dir out"
        )
    if config.userxattr and config.metacopy:
        raise ConfigError("userxattr and metacopy=on exclude each other; because users could forge metacopy files")
    if config.metacopy and not (config.redirect_dir.follows if config.upper is None else config.redirect_dir.makes):
        raise ConfigError(f"metacopy=on needs redirect_dir=on; because it is {config.redirect_dir.value}")


def _check_ids(config: Config) -> None:
    if config.xattr_permissions not in {0, 1, 2}:
        raise ConfigError(f"xattr_permissions: {config.xattr_permissions} is not one of 0, 1, 2")
    for name, ranges in (("uidmapping", config.uidmapping), ("gidmapping", config.gidmapping)):
        for entry in ranges:
            if entry.length < 1 or min(entry) < 0 or max(entry.stored, entry.shown) + entry.length - 1 > MAX_ID:
                raise ConfigError(f"{name}: {':'.join(map(str, entry))} is not a range of user or group numbers")
    for number in config.squash or ():
        if number is not None and not 0 <= number <= MAX_ID:
            raise ConfigError(f"squash_to_uid, squash_to_gid: {number} is not a user or group number")
