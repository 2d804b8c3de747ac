"""From options to a mount that answers: what both forms of the command line end in."""

import errno
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from unionfs.cli.exitcodes import Exit, describe
from unionfs.core.mountoptions import FLAG_GROUPS, MountOptions
from unionfs.core.options import Reading, read
from unionfs.errors import MountError
from unionfs.linux import mount as kernel

if TYPE_CHECKING:
    from unionfs.fuse import supervisor

__all__ = ["start"]

LISTED_ONLY: Final = {"relatime"}
"""Flags that mountinfo shows and that need not be asked for."""


def start(reading: Reading, mountpoint: Path, *, foreground: bool, on_ready: Callable[[], None] = lambda: None) -> Exit:
    """Mount what *reading* asks for; return when it answers requests, in the foreground when it ended.

    The daemon calls *on_ready* when it has let go of everything that it inherited.
    """
    options = reading.mount()
    if options.remount:
        remount(mountpoint, options.flags)
        return Exit.OK
    config = reading.config()
    for warning in reading.warnings:
        print(f"unionfs: warning: {warning}", file=sys.stderr)
    if config.read_only:
        options = options._replace(flags=(*(word for word in options.flags if word not in {"rw", "ro"}), "ro"))

    gc.disable()  # until the mount is served
    from unionfs.fuse import daemon, logfile

    foreground = foreground or options.foreground
    log = None if foreground else logfile.place()
    split = splitter(options, foreground=foreground, on_start=on_ready)
    logfile.start_logging(log, debug=options.debug)

    def serve(ready: Callable[[], None]) -> None:
        from unionfs.fuse.session import Session

        place = Path(kernel.resolved(mountpoint))
        session = Session(config=config, options=options, mountpoint=place, log_file=log)
        session.run(ready, split.link if split is not None else None)

    if foreground:
        if split is not None:
            split()
        serve(on_ready)
        return Exit.OK

    def serve_and_tell(ready: Callable[[], None]) -> None:
        def both() -> None:
            ready()
            on_ready()

        serve(both)

    status, text = daemon.daemonize(serve_and_tell, describe, split)
    sys.stderr.write(text)
    return Exit(status)


def splitter(options: MountOptions, *, foreground: bool, on_start: Callable[[], None]) -> "supervisor.Splitter | None":
    """Return what gives the daemon a supervisor; None if it shall have none, or none was asked for and it cannot.

    Raises:
        MountError: it shall have one, and cannot.
    """
    if options.supervise is False or (foreground and not options.supervise):
        return None  # whoever starts a daemon in the foreground watches it himself
    from unionfs.fuse import supervisor

    why_not = supervisor.unfit(options.engine)
    if why_not is None:
        return supervisor.Splitter(on_start if not foreground else None)
    if options.supervise:
        raise MountError(f"the mount cannot be supervised; because {why_not}")
    return None


def remount(mountpoint: Path, flags: tuple[str, ...]) -> None:
    """Change the flags of the mount on *mountpoint*; those that are not named stay as they are.

    Raises:
        MountError: nothing is mounted there, or its union cannot change.
    """
    place = kernel.resolved(mountpoint)
    found = [mount for mount in kernel.mounts() if mount.mountpoint == place]
    if not found:
        raise MountError(f"{mountpoint}: it cannot be remounted; because nothing is mounted there")
    if not found[-1].type.startswith("fuse"):
        raise MountError(f"{mountpoint}: it cannot be remounted; because what is mounted there is {found[-1].type}")
    from unionfs.fuse import state

    opened_read_only = {record.device for _, record in state.read_all() if record.read_only}
    if "rw" in flags and found[-1].device in opened_read_only:
        raise MountError(
            f"{mountpoint}: it cannot become writable; because it was mounted ro; try: unmount, then mount"
        )
    had = {*found[-1].options.split(","), *found[-1].super_options.split(",")}
    if (word := min({"sync", "dirsync"}.intersection(flags) - had, default=_other_times(flags, had))) is not None:
        raise MountError(
            f"{mountpoint}: {word} cannot be added; because it was mounted without; try: unmount, then mount"
        )
    now = Reading()
    known = {word for group in FLAG_GROUPS for word in group}
    kept = [*found[-1].options.split(","), *({"sync", "dirsync"} & had)]
    read(",".join(word for word in kept if word in known - LISTED_ONLY), now)
    read(",".join(flags), now)
    try:
        kernel.mount("none", place, "", kernel.MS_REMOUNT | kernel.flag_bits(now.flags.values()), "")
    except OSError as exc:
        cure = {
            errno.EPERM: "; try: as root, or unmount and mount",
            errno.EBUSY: "; try: close what is open for writing",
        }
        raise MountError(
            f"{mountpoint}: it cannot be remounted; because of {exc.strerror}{cure.get(exc.errno or 0, '')}"
        ) from exc


def _other_times(flags: tuple[str, ...], had: set[str]) -> str | None:
    """Return the word of *flags* that asks for other access times than the mount has had, if one does."""
    of_files = next((word for word in ("noatime", "relatime") if word in had), "strictatime")
    of_directories = "nodiratime" if "nodiratime" in had else "diratime"
    for word in flags:
        meant = "relatime" if word in {"atime", "norelatime", "nostrictatime"} else word
        has = of_directories if meant.endswith("diratime") else of_files
        if meant.endswith("atime") and meant != has:
            return word
    return None
