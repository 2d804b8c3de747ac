"""The form of mount(8), fuse-overlayfs and podman's mount_program: ``[SOURCE] MOUNTPOINT -o OPTIONS``.

It is as forgiving as the programs that call it are careless: flags stand before or after the
mountpoint, ``-o`` may come several times and with or without a space, and what is not known here is
warned about and ignored. mount(8) calls its helpers with ``SOURCE MOUNTPOINT [-sfnv] [-N NS]
[-o OPTIONS] [-t TYPE]``; of these ``-f`` means something else here, as with every FUSE program: stay
in the foreground. The helper that `make install` writes answers mount(8)'s, which asks to do nothing.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from unionfs.cli.exitcodes import Exit
from unionfs.cli.start import start
from unionfs.core.options import Reading, read
from unionfs.errors import ConfigError

__all__ = ["run"]

USAGE: Final = """\
usage: unionfs-overlay [SOURCE] MOUNTPOINT -o lowerdir=A:B[,upperdir=U,workdir=W][,OPTION...] [-f] [-d]

  -o OPTIONS     separated by commas; may be repeated
  -f             stay in the foreground
  -d, --debug    log each request, and stay in the foreground
  -V, --version  print the version
  -h, --help     print this

Unmount with: umount MOUNTPOINT, fusermount3 -u MOUNTPOINT, or unionfs umount MOUNTPOINT
"""

UNSAID: Final = "dev,suid,exec,symfollow,async"
"""What mount(8) means where it names neither a flag nor its opposite; at a remount it repeats what is to stay."""

IGNORED: Final = {"-n", "-s", "-v", "--verbose"}
"""Flags of mount(8) that ask for nothing we do."""

IGNORED_WITH_VALUE: Final = {"-t", "-N"}


def run(argv: Sequence[str]) -> Exit:
    """Carry the command line out.

    Raises:
        ConfigError: it makes no sense.
        UnionFSError: the mount could not be made.
    """
    reading, places, foreground = Reading(), list[str](), False
    for kind, value in words(argv):
        if kind == "-h":
            print(USAGE, end="")
            return Exit.OK
        if kind == "-V":
            print(version_line())
            return Exit.OK
        if kind == "-o":
            read(value, reading)
        elif kind == "-f":
            foreground = True
        elif kind == "-d":
            read("debug", reading)
        elif kind == "place":
            places.append(value)
        else:
            reading.warnings.append(f"unknown argument {value!r} is ignored")
    if not places:
        raise ConfigError("the mountpoint is missing; try: unionfs-overlay --help")
    if len(places) > 2:
        raise ConfigError(f"{places[2]!r} is one argument too many; because there is SOURCE, MOUNTPOINT and -o OPTIONS")
    if len(places) == 2:
        reading.engine.setdefault("fsname", places[0])
        if reading.engine.get("remount"):
            unsaid = Reading()
            read(UNSAID, unsaid)
            reading.flags = unsaid.flags | reading.flags
    return start(reading, Path(places[-1]), foreground=foreground)


def version_line() -> str:
    """Return what ``--version`` prints; a checkout that was never installed has no number."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"unionfs {version('unionfs')}"
    except PackageNotFoundError:
        return "unionfs (not installed)"


def words(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield what each part of the command line is: one of our flags, "place", or "unknown"; and its value.

    >>> list(words(["-o", "a", "src", "-ob", "/mnt", "--debug", "-t", "fuse.x", "-n", "--odd"]))
    [('-o', 'a'), ('place', 'src'), ('-o', 'b'), ('place', '/mnt'), ('-d', ''), ('unknown', '--odd')]
    """
    flags = {"--help": "-h", "--version": "-V", "--debug": "-d"}
    rest = iter(argv)
    for word in rest:
        name = flags.get(word, word)
        if name in {"-h", "-V", "-f", "-d"}:
            yield name, ""
        elif name == "--":
            yield from (("place", place) for place in rest)
        elif name == "-o":
            value = next(rest, None)
            if value is None:
                raise ConfigError("-o: the options are missing")
            yield "-o", value
        elif name.startswith("-o"):
            yield "-o", name[2:]
        elif name in IGNORED_WITH_VALUE:
            next(rest, None)
        elif name not in IGNORED:
            yield ("unknown" if name.startswith("-") and name != "-" else "place"), word
