"""fusermount3, which mounts for who may not: it is set-user-id.

It sends the descriptor back over a socket. With *auto_unmount* it stays, waits for the other end to close, and
unmounts.

Source: libfuse lib/mount.c, _FUSE_COMMFD.
"""

import os
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from unionfs.errors import MountError

if TYPE_CHECKING:
    from unionfs.core.mountoptions import MountOptions

__all__ = ["mount", "unmount"]

HELPER: Final = "fusermount3"
UNKNOWN_TO_HELPER: Final = frozenset(
    {"diratime", "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime", "symfollow"}
)
"""Words that it refuses. They are the default, or make no difference to the kernel: it notes no reading under FUSE."""


def mount(mountpoint: Path, options: "MountOptions", *, privileged: bool) -> tuple[int, socket.socket]:
    """Return the descriptor of a new mount, and the socket whose closing ends it with *auto_unmount*.

    Raises:
        MountError: why not, and what to do.
    """
    words = [word for word in options.flags_for(privileged=privileged) if word not in UNKNOWN_TO_HELPER]
    words.append("default_permissions")
    words += [f"fsname={_escaped(options.fsname)}", f"subtype={_escaped(options.subtype)}"]
    words += ["allow_other"] * options.allows_other(privileged=privileged) + ["auto_unmount"] * options.auto_unmount
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    command = [HELPER, "-o", ",".join(words), "--", os.fspath(mountpoint)]
    environment = {**os.environ, "_FUSE_COMMFD": str(theirs.fileno())}
    try:
        helper = subprocess.Popen(  # it stays alive with auto_unmount, so nobody may wait for it
            command,
            env=environment,
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # whoever called us may wait for the end of ours
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError as exc:
        ours.close()
        theirs.close()
        raise MountError(f"{HELPER} is not installed; try: apt install fuse3") from exc
    theirs.close()
    _data, fds, _flags, _address = socket.recv_fds(ours, 1, 1)
    if fds:
        return fds[0], ours
    ours.close()
    said = helper.communicate()[1].decode(errors="replace").strip()
    raise MountError(f"{said or f'{HELPER} ended with status {helper.returncode}'}; try: unionfs doctor")


def unmount(mountpoint: Path) -> None:
    """Take the mount out of the tree, open files or not; whether that worked is seen there."""
    command = [HELPER, "-u", "-q", "-z", "--", os.fspath(mountpoint)]
    subprocess.run(command, check=False, capture_output=True)


def _escaped(text: str) -> str:
    """Protect what fusermount3 would take for the end of an option."""
    return text.replace("\\", "\\\\").replace(",", "\\,")
