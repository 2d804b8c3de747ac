r"""The text form of a union: ``lowerdir=a:b,upperdir=u,workdir=w,...`` as mount(8) users write it.

One table, `OPTIONS`, says everything about an option: its name, whether it takes a value, what it
does, and the line that explains it. `read` walks the text and the table; it decides nothing else.

The grammar is the kernel's (Linux Documentation/filesystems/overlayfs.rst): commas separate
options and colons separate layers, a backslash takes the meaning from the character after it, ``::``
starts the data-only layers, a later option replaces an earlier one. Three habits come from the
programs that call us: empty elements (``,,`` or a comma at the end) mean nothing, an id map may
start with a colon, and an option that nobody here knows is not an error but a warning (*strict*
makes it one: on our own command line a typing error should not be carried out).
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, final

from unionfs.core.config import AccessTimes, Config, Fsync, IdMap, RedirectDir, Squash, Xino
from unionfs.core.mountoptions import FLAG_GROUPS, MountOptions
from unionfs.errors import ConfigError

__all__ = ["OPTIONS", "Option", "Reading", "read", "split_lowerdir", "split_options"]


@final
class Reading:
    """What the options said so far; `config` and `mount` turn it into values that are checked."""

    def __init__(self, lower: Iterable[Path] = (), data_only: Iterable[Path] = ()) -> None:
        self.lower = list(lower)
        self.data_only = list(data_only)
        self.union: dict[str, Any] = {}
        """Fields of `Config` by name."""
        self.engine: dict[str, Any] = {}
        """Fields of `MountOptions` by name."""
        self.flags: dict[int, str] = {}
        """The last flag of each group that was named, by the group's place in FLAG_GROUPS."""
        self.warnings: list[str] = []
        """One sentence each, for the user; nothing here stops the mount."""

    def is_empty(self) -> bool:
        """Tell whether nothing was said."""
        return not any(vars(self).values())

    def config(self) -> Config:
        """Return the union that was asked for; ConfigError if it cannot be."""
        union = dict(self.union)
        if union.get("upper") is None:
            for name in ("work", "index", "volatile"):
                if union.pop(name, None):
                    said = {"work": "workdir"}.get(name, name)
                    self.warnings.append(f"{said} is ignored; because there is no upperdir")
        if self.flags.get(0) == "ro":
            union["read_only"] = True
        words = set(self.flags.values())
        times = words & {"noatime", "strictatime"}
        union["access_times"] = AccessTimes(times.pop()) if times else AccessTimes.RELATIME
        union["nodiratime"] = "nodiratime" in words
        union["dirsync"] = not words.isdisjoint({"sync", "dirsync"})
        return Config(lower=tuple(self.lower), data_only=tuple(self.data_only), **union)

    def mount(self) -> MountOptions:
        """Return how the union is to be mounted."""
        return MountOptions(flags=tuple(self.flags.values()), **self.engine)


def read(text: str, into: Reading, *, strict: bool = False) -> None:
    r"""Take the options of *text* in, after those that *into* already holds.

    Raises:
        ConfigError: a malformed value; with *strict* also an option that is not in the table.

    >>> reading = Reading()
    >>> read(r"lowerdir=/with\:colon:/b\,c,upperdir=/u,,workdir=/w,noatime,nonsense,", reading)
    >>> [str(path) for path in reading.config().lower]
    ['/with:colon', '/b,c']
    >>> reading.mount().flags, reading.warnings
    (('noatime',), ["unknown option 'nonsense' is ignored"])
    """
    for name, value in split_options(text):
        if name == "sync" and value is not None:  # as fuse-overlayfs has it
            name = "fsync"  # noqa: PLW2901 - its other name
        option = OPTIONS.get(name)
        if option is not None:
            option.take(into, value)
        elif name.startswith(("x-", "X-", "comment")):
            continue  # for mount(8) and its readers of fstab
        elif strict:
            raise ConfigError(f"unknown option {name!r}" + _suggestion(name))
        else:
            into.warnings.append(f"unknown option {name!r} is ignored")


def _suggestion(name: str) -> str:
    import difflib  # noqa: PLC0415 - it costs a tenth of the time to a mount, and a mount never needs it

    near = difflib.get_close_matches(name, OPTIONS, n=1)
    return f"; try: {near[0]}" if near else ""


def split_options(text: str) -> Iterator[tuple[str, str | None]]:
    r"""Yield each option and its value, still escaped; None where there is no equals sign.

    >>> list(split_options(r'a=1,,b,c=x\,y,context="u:r,s"'))
    [('a', '1'), ('b', None), ('c', 'x\\,y'), ('context', '"u:r,s"')]
    """
    for found in _ELEMENT.finditer(text):
        name, equals, value = found[0].partition("=")
        yield name, value if equals else None


_ELEMENT: Final = re.compile(r'(?:(?:fs|def|root)?context="[^"]*"|(?:\\.|[^,\\]|\\$))+', re.DOTALL)


def unescape(text: str) -> str:
    r"""Take the meaning from each escaped character.

    >>> print(unescape(r"/a\:b\\c\,d"))
    /a:b\c,d
    """
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def split_lowerdir(text: str) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    r"""Split a ``lowerdir=`` value into its layers, top first, and the data-only layers below them.

    >>> split_lowerdir(r"/top:/with\:colon::/data1::/data2")[0][1]
    PosixPath('/with:colon')
    >>> [str(path) for path in split_lowerdir(r"/top:/bottom::/data1::/data2")[1]]
    ['/data1', '/data2']
    >>> [str(path) for path in split_lowerdir(r"/ends-in-backslash\\:/b")[0]]
    ['/ends-in-backslash\\', '/b']
    >>> split_lowerdir("")
    ((), ())
    >>> split_lowerdir("/a:")
    Traceback (most recent call last):
    ...
    unionfs.errors.ConfigError: lowerdir: there is an empty layer in '/a:'
    """
    if not text:
        return (), ()
    parts = [found[0] for found in re.finditer(r"::?|(?:\\.|[^:\\]|\\$)+", text, re.DOTALL)]
    names, separators = parts[::2], parts[1::2]
    if len(names) == len(separators) or any(name in {":", "::"} for name in names):
        raise ConfigError(f"lowerdir: there is an empty layer in {text!r}")
    first = separators.index("::") if "::" in separators else len(separators)
    if ":" in separators[first:]:
        raise ConfigError(f"lowerdir: a layer follows the data-only ones in {text!r}; try: put it before the '::'")
    paths = [Path(unescape(name)) for name in names]
    return tuple(paths[: first + 1]), tuple(paths[first + 1 :])


class Option(NamedTuple):
    """One option of the text form."""

    name: str
    help: str
    """One line for people; it becomes the option's row in the manual."""
    set: Callable[[Reading, str], None]
    default: str | None = None
    """The value that is meant where none is given; None if a value must be given, "" if none may be."""

    def take(self, reading: Reading, value: str | None) -> None:
        """Carry the option out; ConfigError if the value does not fit."""
        if value is not None and self.default == "":
            raise ConfigError(f"{self.name}: it takes no value, {value!r} was given")
        if value is None:
            if self.default is None:
                raise ConfigError(f"{self.name}: a value is missing; try: {self.name}=VALUE")
            value = self.default
        try:
            self.set(reading, value)
        except ValueError as exc:
            raise ConfigError(f"{self.name}: {exc}") from exc


def _lowerdir(reading: Reading, value: str) -> None:
    lower, data_only = split_lowerdir(value)
    reading.lower, reading.data_only = list(lower), list(data_only)


def _one_more_layer(reading: Reading, value: str) -> None:
    if reading.data_only:
        raise ConfigError("lowerdir+: a layer follows the data-only ones; try: put it before datadir+")
    reading.lower.append(_literal_path(value))


def _literal_path(value: str) -> Path:
    """Return a path in which only the comma had to be escaped."""
    if not value:
        raise ValueError("an empty path")
    return Path(value.replace(r"\,", ","))


def _path(value: str) -> Path:
    if not value:
        raise ValueError("an empty path")
    return Path(unescape(value))


def _number(value: str) -> int:
    if not value.isascii() or not value.isdigit():
        raise ValueError(f"{value!r} is not a number")
    return int(value)


def _seconds(value: str) -> float:
    if not re.fullmatch(r"[0-9]+(\.[0-9]*)?([eE][0-9]{1,2})?", value):
        raise ValueError(f"{value!r} is not a number of seconds")
    return float(value)


_YES: Final = {"on": True, "yes": True, "true": True, "1": True, "off": False, "no": False, "false": False, "0": False}


def _switch(value: str) -> bool:
    if value not in _YES:
        raise ValueError(f"{value!r} is neither on nor off")
    return _YES[value]


def id_maps(value: str) -> tuple[IdMap, ...]:
    """Read ``stored:shown:length`` triples; empty elements mean nothing.

    >>> id_maps(":0:100000:65536")
    (IdMap(stored=0, shown=100000, length=65536),)
    """
    numbers = [_number(part) for part in value.split(":") if part]
    if not numbers or len(numbers) % 3:
        raise ValueError(f"{value!r} is not a list of STORED:SHOWN:LENGTH")
    return tuple(IdMap(*numbers[at : at + 3]) for at in range(0, len(numbers), 3))


def _fsync(reading: Reading, value: str) -> None:
    """Take the kernel's words, and fuse-overlayfs' 0 and 1; its 0 leaves no marker in the upper."""
    modes = {"0": Fsync.VOLATILE, "1": Fsync.AUTO, **{mode.value: mode for mode in Fsync}}
    if value not in modes:
        raise ValueError(f"{value!r} is not one of auto, strict, volatile, 0, 1")
    reading.union["fsync"] = modes[value]
    if value == Fsync.VOLATILE.value:
        reading.union["volatile"] = True


def _redirect_dir(value: str) -> RedirectDir:
    if value not in _REDIRECTS:
        raise ValueError(f"{value!r} is not one of {', '.join(_REDIRECTS)}")
    return _REDIRECTS[value]


_REDIRECTS: Final = {mode.value: mode for mode in RedirectDir if mode is not RedirectDir.AUTO}


def _xino(value: str) -> Xino:
    try:
        return Xino(value)
    except ValueError:
        raise ValueError(f"{value!r} is not one of auto, on, off") from None


def _engine(value: str) -> str:
    if value not in {"auto", "direct", "pyfuse3"}:
        raise ValueError(f"{value!r} is not one of auto, direct, pyfuse3")
    return value


def _squash(**half: str) -> Callable[[Reading, str], None]:
    def take(reading: Reading, value: str) -> None:
        known: Squash = reading.union.get("squash", Squash())
        reading.union["squash"] = known._replace(**{half["which"]: _number(value)})

    return take


def _squash_to_root(reading: Reading, _: str) -> None:
    known: Squash = reading.union.get("squash", Squash())
    named = {half: value for half, value in known._asdict().items() if value is not None}
    reading.union["squash"] = Squash(0, 0)._replace(**named)


def _union(name: str, read_value: Callable[[str], object]) -> Callable[[Reading, str], None]:
    def take(reading: Reading, value: str) -> None:
        reading.union[name] = read_value(value)

    return take


def _mount(name: str, read_value: Callable[[str], object]) -> Callable[[Reading, str], None]:
    def take(reading: Reading, value: str) -> None:
        reading.engine[name] = read_value(value)

    return take


def _timeouts(reading: Reading, value: str) -> None:
    for name in ("entry_timeout", "attr_timeout", "negative_timeout"):
        reading.engine[name] = _seconds(value)


def _debug(reading: Reading, _: str) -> None:
    reading.engine.update(debug=True, foreground=True)


def _flag(group: int, word: str) -> Callable[[Reading, str], None]:
    def take(reading: Reading, _: str) -> None:
        reading.flags[group] = word

    return take


def _nothing(reading: Reading, value: str) -> None:
    """Accept what others pass; the option's help says why it needs nothing done."""


def _unless_off(why: str) -> Callable[[Reading, str], None]:
    def take(_: Reading, value: str) -> None:
        if value not in {"off", "0"}:
            raise ConfigError(f"{why}; try: leave it out")

    return take


def _yes(_: str) -> bool:
    return True


def _text(value: str) -> str:
    if not value:
        raise ValueError("an empty name")
    return unescape(value)


_FOR_OTHERS: Final = re.findall(
    r"\w+",
    """defaults auto noauto user nouser users owner group nofail _netdev nonempty kernel_cache
    splice_read splice_write splice_move lazytime nolazytime iversion noiversion silent loud
    private rprivate shared rshared slave rslave unbindable runbindable""",
)

_TABLE: Final = (
    Option("lowerdir", "layers, top first: A:B, data-only ones after ::", _lowerdir),
    Option("lowerdir+", "one more layer below those named so far; its colons need no escape", _one_more_layer),
    Option("datadir+", "one more data-only layer", lambda r, v: r.data_only.append(_literal_path(v))),
    Option("upperdir", "the writable layer", _union("upper", _path)),
    Option("workdir", "an empty directory on the upper's file system", _union("work", _path)),
    Option(
        "redirect_dir", "on, off, follow, nofollow: renaming a lower directory", _union("redirect_dir", _redirect_dir)
    ),
    Option("index", "on, off: hard links stay together over a copy-up", _union("index", _switch), "on"),
    Option("metacopy", "on, off: copy up attributes without data", _union("metacopy", _switch), "on"),
    Option(
        "xino",
        "auto, on, off: all as on, inode numbers are unique and lasting",
        _union("xino", _xino),
    ),
    Option("userxattr", "marks in user.overlay.* instead of trusted.overlay.*", _union("userxattr", _yes), ""),
    Option("volatile", "nothing is synced; an upper that was not unmounted is refused", _union("volatile", _yes), ""),
    Option("fsync", "auto, strict, volatile; 0 and 1 as fuse-overlayfs has them", _fsync),
    Option("uidmapping", "STORED:SHOWN:LENGTH[:...]: owners on disk and in the mount", _union("uidmapping", id_maps)),
    Option("gidmapping", "the same for groups", _union("gidmapping", id_maps)),
    Option("squash_to_root", "every file belongs to root", _squash_to_root, ""),
    Option("squash_to_uid", "every file belongs to this user", _squash(which="uid")),
    Option("squash_to_gid", "every file belongs to this group", _squash(which="gid")),
    Option(
        "xattr_permissions", "0, 1, 2: owner and mode are kept in an attribute", _union("xattr_permissions", _number)
    ),
    Option("static_nlink", "directories show one link", _union("static_nlink", _yes), ""),
    Option("noacl", "no POSIX ACLs", _union("noacl", _yes), ""),
    Option("noxattrs", "0, 1: no extended attributes are shown", _union("noxattrs", _switch), "1"),
    Option("engine", "auto, direct, pyfuse3: who speaks with the kernel", _mount("engine", _engine)),
    Option(
        "supervise",
        "on, off: another daemon goes on when this one dies or is restarted; on where it can",
        _mount("supervise", _switch),
        "on",
    ),
    Option("follow", "on, off: the direct engine runs on the CPU of the requester", _mount("follow", _switch), "on"),
    Option("timeout", "seconds that the kernel may keep names and attributes", _timeouts),
    Option("entry_timeout", "the same for names only", _mount("entry_timeout", _seconds)),
    Option("attr_timeout", "the same for attributes only", _mount("attr_timeout", _seconds)),
    Option("negative_timeout", "the same for names that do not exist", _mount("negative_timeout", _seconds)),
    Option("writeback", "0, 1: the kernel may delay writes; off, as no test shows it safe", _nothing, "1"),
    Option("allow_other", "other users may enter; the default for root", _mount("allow_other", _yes), ""),
    Option("allow_root", "as allow_other", _mount("allow_other", _yes), ""),
    Option("fsname", "the source shown in /proc/mounts", _mount("fsname", _text)),
    Option("subtype", "the type shown is fuse.SUBTYPE", _mount("subtype", _text)),
    Option("auto_unmount", "unmount when the daemon dies", _mount("auto_unmount", _yes), ""),
    Option("remount", "change the flags of a mount that exists", _mount("remount", _yes), ""),
    Option("debug", "log each request; stay in the foreground", _debug, ""),
    Option("default_permissions", "always on: the kernel checks permissions", _nothing, ""),
    Option("uuid", "accepted; a FUSE mount has no file system id to choose", _nothing),
    Option(
        "nfs_export", "off; a FUSE mount in user space cannot be exported", _unless_off("nfs_export is not supported")
    ),
    Option("verity", "off; digests of metacopy files are not checked", _unless_off("verity is not supported")),
    Option("context", "accepted; SELinux labels a FUSE mount as a whole", _nothing),
    Option("threaded", "accepted; long work always has a thread of its own", _nothing, "1"),
    Option("fast_ino", "accepted; inode numbers are cheap", _nothing, "1"),
    Option("fast_ino_check", "accepted, as fast_ino", _nothing, "1"),
    Option("ino32_t", "accepted; numbers always have 64 bits", _nothing, ""),
    Option("max_write", "accepted; the largest request the kernel offers is used", _nothing),
    Option("max_read", "accepted, as max_write", _nothing),
    *(
        Option(word, help_, _flag(at, word), "")
        for at, group in enumerate(FLAG_GROUPS)
        for word, help_ in group.items()
    ),
    *(Option(word, "accepted; it is for mount(8) or for others than us", _nothing, "") for word in _FOR_OTHERS),
)

OPTIONS: Final[dict[str, Option]] = {option.name: option for option in _TABLE}
"""Every option of the ``-o`` form by name."""
