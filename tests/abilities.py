"""What this machine can do, asked once by doing it: a marker's name, and why it cannot be honoured here."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

__all__ = ["ABILITIES", "lacking"]

NOBODY = 65534
CAP_SYS_ADMIN = 21


def root() -> str | None:
    if os.geteuid() != 0:
        return "needs root"
    status = Path("/proc/self/status").read_text(encoding="ascii")
    effective = int(status.split("CapEff:")[1].split()[0], 16)
    return None if effective >> CAP_SYS_ADMIN & 1 else "root has no CAP_SYS_ADMIN here (a container without it?)"


def fuse() -> str | None:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as exc:
        return f"needs /dev/fuse: {exc.strerror}"
    return None


def overlayfs() -> str | None:
    """Mount one, with the upper layer where the tests will have theirs: an overlay's upper may not be an overlay."""
    if reason := root():
        return reason
    with tempfile.TemporaryDirectory() as tmp:
        for name in ("lower", "upper", "work", "merged"):
            Path(tmp, name).mkdir()
        layers = f"lowerdir={tmp}/lower,upperdir={tmp}/upper,workdir={tmp}/work"
        done = run(["mount", "-t", "overlay", "overlay", "-o", layers, f"{tmp}/merged"])
        if done.returncode:
            return f"needs overlayfs in the kernel: {done.stderr.strip()}"
        run(["umount", f"{tmp}/merged"])
    return None


def userns() -> str | None:
    """As nobody where we are root: root may always make one."""
    other = {"user": NOBODY, "group": NOBODY} if os.geteuid() == 0 else {}
    done = run(["unshare", "--user", "--map-root-user", "true"], **other)
    return f"needs user namespaces for users: {done.stderr.strip()}" if done.returncode else None


def xattrs() -> str | None:
    with tempfile.NamedTemporaryFile() as file:
        try:
            os.setxattr(file.fileno(), "user.unionfs-test", b"1")
        except OSError as exc:
            return f"needs extended attributes in {tempfile.gettempdir()}: {exc.strerror}"
    return None


def debian() -> str | None:
    return None if shutil.which("apt-get") and shutil.which("dpkg-deb") else "needs apt-get and dpkg-deb"


def run(command: list[str], **other: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        cwd="/",
        user=other.get("user"),
        group=other.get("group"),
    )


ABILITIES: dict[str, Callable[[], str | None]] = {
    "root": root,
    "fuse": fuse,
    "overlayfs": overlayfs,
    "userns": userns,
    "xattrs": xattrs,
    "debian": debian,
}
"""Marker to question; the answer is None where the machine can, else the reason to skip."""


@cache
def lacking(marker: str) -> str | None:
    return ABILITIES[marker]()
