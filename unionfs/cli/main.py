"""The command line: which command is meant, and how what it raises is shown.

A command is a module with two functions, ``configure(parser)`` and ``run(args)``. It is imported
only when it is called: a mount should not wait for the code of an image registry.

There are two programs (``programs.py``). ``unionfs`` takes a command, or else the form that users of mount(8),
fuse-overlayfs and podman's ``mount_program`` already have: ``unionfs [SOURCE] MOUNTPOINT -o ...``.
``unionfs-overlay`` has only that form, so a path to it can stand where one binary is asked for.
"""

import gc
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol, cast

from unionfs.cli.exitcodes import Exit, describe

if TYPE_CHECKING:
    import argparse

__all__ = ["COMMANDS", "Command", "main", "overlay"]

COMMANDS: Final = {
    "mount": ("unionfs.cli.mount", "stack directories and mount them as one"),
    "umount": ("unionfs.cli.umount", "unmount"),
    "restart": ("unionfs.cli.restart", "upgrade the process that serves a mount, in place"),
    "mounts": ("unionfs.cli.mounts", "list what is mounted"),
    "doctor": ("unionfs.cli.doctor", "check what this machine can do, and say what to do about it"),
    "images": ("unionfs.cli.images", "list the images in the store"),
    "tag": ("unionfs.cli.tag", "give an image another name"),
    "rmi": ("unionfs.cli.rmi", "remove images"),
    "rm": ("unionfs.cli.rm", "remove containers, with what was changed in them"),
    "prune": ("unionfs.cli.prune", "remove images and data that nothing uses"),
    "inspect": ("unionfs.cli.inspect", "show everything about an image"),
    "history": ("unionfs.cli.history", "show how an image was made"),
    "df": ("unionfs.cli.df", "show what the store's disk space is used for"),
    "load": ("unionfs.cli.load", "bring in images from an archive or a directory"),
    "save": ("unionfs.cli.save", "write images to an archive or a directory"),
    "import": ("unionfs.cli.import_", "make an image of a tar of a root file system"),
    "export": ("unionfs.cli.export", "write what an image shows as a tar"),
    "commit": ("unionfs.cli.commit", "make an image of what was changed in a container"),
    "pull": ("unionfs.cli.pull", "fetch images from their registries or mirrors"),
    "push": ("unionfs.cli.push", "send an image to a registry"),
    "login": ("unionfs.cli.login", "log in to a registry"),
    "logout": ("unionfs.cli.logout", "log out of a registry"),
    "ls": ("unionfs.cli.ls", "list a directory of an image, without mounting it"),
    "cat": ("unionfs.cli.cat", "write a file of an image to stdout, also a hidden version"),
    "cp": ("unionfs.cli.cp", "copy files out of an image"),
    "stat": ("unionfs.cli.stat", "show all that is known of a file of an image"),
    "find": ("unionfs.cli.find", "find files in an image"),
    "which": ("unionfs.cli.which", "show which layer a file comes from, and what it hides"),
    "diff": ("unionfs.cli.diff", "compare images, layers, containers or directories"),
    "tree": ("unionfs.cli.tree", "draw the files of an image, or of each of its layers"),
    "du": ("unionfs.cli.du", "show what an image's layers waste"),
    "check": ("unionfs.cli.check", "check that the store is sound, and repair it"),
    "report": ("unionfs.cli.report", "write a page about an image, to look at in a browser"),
    "fsck": ("unionfs.cli.fsck", "examine the marks of an upper layer, and repair them"),
    "convert": ("unionfs.cli.convert", "write a layer in another dialect of marks, or flattened"),
    "demo": ("unionfs.cli.demo", "see a union at work, on layers out of the distribution's packages"),
}
"""Name to module and one line for the help."""


class Command(Protocol):
    """What a command's module offers."""

    def configure(self, parser: "argparse.ArgumentParser") -> None:
        """Add the command's arguments, and its description."""

    def run(self, args: "argparse.Namespace") -> Exit:
        """Do it; errors of `exitcodes.REPORTED` may be raised."""


def main(argv: Sequence[str] | None = None) -> int:
    """Be the program ``unionfs``; return its exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in {"-h", "--help", "help"}:
        return _reported(lambda: _help(asked=bool(args)))
    if args[0] in COMMANDS:
        return _reported(lambda: _command(args[0], args[1:]))
    if not args[0].startswith("-") and "/" not in args[0] and len(args) == 1:
        print(f"unionfs: error: there is no command {args[0]!r}; try: unionfs --help", file=sys.stderr)
        return Exit.USAGE
    return overlay(args)


def overlay(argv: Sequence[str] | None = None) -> int:
    """Be the program ``unionfs-overlay``; return its exit status."""
    from unionfs.cli import overlay as form

    args = list(sys.argv[1:] if argv is None else argv)
    return _reported(lambda: form.run(args))


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {line}" for name, (_, line) in COMMANDS.items()]
    return (
        "usage: unionfs COMMAND ...\n"
        "       unionfs [SOURCE] MOUNTPOINT -o lowerdir=A:B,upperdir=U,workdir=W,...\n\n"
        "commands:\n" + "\n".join(lines) + "\n\n`unionfs COMMAND --help` tells more about one.\n"
    )


def _help(*, asked: bool) -> Exit:
    print(usage(), end="", file=sys.stdout if asked else sys.stderr)
    return Exit.OK if asked else Exit.USAGE


def _command(name: str, args: list[str]) -> Exit:
    from argparse import RawDescriptionHelpFormatter

    from unionfs.cli.arguments import Arguments

    command = cast(Command, importlib.import_module(COMMANDS[name][0]))
    parser = Arguments(prog=f"unionfs {name}", formatter_class=RawDescriptionHelpFormatter)
    command.configure(parser)
    gc.enable()  # which the program has turned off while it started
    return command.run(parser.parse_intermixed_args(args))


def _reported(run: Callable[[], Exit]) -> int:
    """Run a command; show what it raises, and end as a shell expects it from an interrupt or a closed pipe."""
    try:
        try:
            return run()
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more as it ends
        return 141
    except Exception as exc:  # noqa: BLE001 - a bug is shown as well, with its traceback
        status, text = describe(exc)
        print(text, end="", file=sys.stderr)
        return status
