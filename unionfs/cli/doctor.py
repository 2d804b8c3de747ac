"""Check what this machine, and a directory meant for an upper layer, can do; say what to do about it.

Every check does the thing it asks about, where that leaves nothing behind. The exit status is 0
where nothing stands in the way of a mount; what is only slower or weaker is a remark.
"""

import argparse
import enum
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import as_json, colour, printable
from unionfs.linux.ids import CAP_SYS_ADMIN, has_capability, is_initial_user_namespace

__all__ = ["Finding", "Verdict", "configure", "examine", "run"]


class Verdict(enum.Enum):
    """How bad it is; the value is the word that is printed."""

    OK = "ok"
    REMARK = "remark"
    """A mount works, with less than it could have."""
    FAILED = "failed"
    """No mount will work."""


class Finding(NamedTuple):
    """What one check found."""

    name: str
    verdict: Verdict
    what: str
    cure: str = ""
    """What to do; empty where there is nothing to do."""


_COLOURS: Final = {Verdict.OK: 32, Verdict.REMARK: 33, Verdict.FAILED: 31}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.add_argument("--json", action="store_true", help="one JSON array, for scripts")
    parser.add_argument("upper", nargs="?", type=Path, help="a directory for an upper layer; the default is this one")


def run(args: argparse.Namespace) -> Exit:
    findings = list(examine(args.upper or Path()))
    if args.json:
        values = [{**found._asdict(), "verdict": found.verdict.value} for found in findings]
        sys.stdout.write(as_json(values))
    else:
        for found in findings:
            word = colour(f"{found.verdict.value:<6}", _COLOURS[found.verdict])
            print(f"{word}  {found.name}: {printable(found.what)}" + (f"; try: {found.cure}" if found.cure else ""))
    return Exit.FAILED if any(found.verdict is Verdict.FAILED for found in findings) else Exit.OK


def examine(upper: Path) -> Iterator[Finding]:
    """Yield what is found, the machine first, then the directory *upper*."""
    yield _device()
    yield _helper()
    yield _kernel()
    yield _user_namespaces()
    yield _allow_other()
    yield _modules()
    yield from _upper(upper)


def _device() -> Finding:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return Finding("/dev/fuse", Verdict.FAILED, "it is missing", "modprobe fuse")
    except PermissionError:
        return Finding("/dev/fuse", Verdict.FAILED, "you may not open it", "sudo chmod 666 /dev/fuse")
    except OSError as exc:
        return Finding("/dev/fuse", Verdict.FAILED, exc.strerror or str(exc), "modprobe fuse")
    return Finding("/dev/fuse", Verdict.OK, "it can be opened")


def _helper() -> Finding:
    needed = not has_capability(CAP_SYS_ADMIN)
    bad = Verdict.FAILED if needed else Verdict.REMARK
    path = shutil.which("fusermount3")
    if path is None:
        return Finding("fusermount3", bad, "it is missing, and users cannot mount without it", "apt install fuse3")
    if not os.stat(path).st_mode & stat.S_ISUID:
        return Finding("fusermount3", bad, f"{path} is not set-user-id root", f"sudo chmod u+s {path}")
    return Finding("fusermount3", Verdict.OK, "needed by you" if needed else "there for users; you do without")


def _kernel() -> Finding:
    release = os.uname().release
    version = tuple(int("".join(filter(str.isdigit, part)) or 0) for part in release.split(".")[:2])
    if version < (6, 9):
        return Finding(
            "kernel", Verdict.REMARK, f"{release}: files are served without passthrough, which is 6.9 or later"
        )
    if not has_capability(CAP_SYS_ADMIN) or not is_initial_user_namespace():
        return Finding("kernel", Verdict.REMARK, f"{release}: files are served without passthrough, which is for root")
    return Finding("kernel", Verdict.OK, f"{release}: passthrough for file data")


def _user_namespaces() -> Finding:
    switches = {
        "/proc/sys/kernel/unprivileged_userns_clone": ("0", "sysctl kernel.unprivileged_userns_clone=1"),
        "/proc/sys/user/max_user_namespaces": ("0", "sysctl user.max_user_namespaces=10000"),
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
            "1",
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    }
    for path, (off, cure) in switches.items():
        with suppress(OSError):
            if Path(path).read_text(encoding="ascii").strip() == off:
                what = f"{path} is {off}, so users have none (only rootless containers need them)"
                return Finding("user namespaces", Verdict.REMARK, what, f"sudo {cure}")
    return Finding("user namespaces", Verdict.OK, "users may make them")


def _modules() -> Finding:
    from unionfs.core import union

    if union.__file__.endswith(".py"):
        what = "run from their sources, which takes half as much CPU again"
        return Finding("modules", Verdict.REMARK, what, "make install")
    return Finding("modules", Verdict.OK, "compiled")


def _allow_other() -> Finding:
    try:
        lines = Path("/etc/fuse.conf").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    if any(line.split("#")[0].strip() == "user_allow_other" for line in lines):
        return Finding("allow_other", Verdict.OK, "users may let others into their mounts")
    return Finding(
        "allow_other", Verdict.REMARK, "only root may let others into a mount", "user_allow_other in /etc/fuse.conf"
    )


def _upper(upper: Path) -> Iterator[Finding]:
    try:
        trial = tempfile.mkdtemp(prefix=".unionfs-doctor-", dir=upper)
    except OSError as exc:
        what = f"{upper} cannot be an upper layer: {exc.strerror}"
        yield Finding("upper", Verdict.FAILED, what, "a directory of yours")
        return
    try:
        for check in (_types, _xattrs, _whiteouts, _unnamed):
            yield check(Path(trial))
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def _types(trial: Path) -> Finding:
    (trial / "directory").mkdir()
    with os.scandir(trial) as entries:
        known = all(entry.is_dir(follow_symlinks=False) for entry in entries)
    what = (
        "listings say what a name is (d_type)" if known else "listings do not say what a name is; they cost a stat each"
    )
    return Finding("upper d_type", Verdict.OK if known else Verdict.REMARK, what)


def _xattrs(trial: Path) -> Finding:
    trusted = has_capability(CAP_SYS_ADMIN) and is_initial_user_namespace()
    name = "trusted.overlay.opaque" if trusted else "user.overlay.opaque"
    try:
        os.setxattr(trial, name, b"y")
    except OSError as exc:
        what = (
            f"{name} cannot be set: {exc.strerror}; directories that were deleted and made again would show old files"
        )
        return Finding("upper xattrs", Verdict.FAILED, what, "an upper on ext4, xfs, btrfs or tmpfs")
    return Finding("upper xattrs", Verdict.OK, f"{name} can be set")


def _whiteouts(trial: Path) -> Finding:
    try:
        os.mknod(trial / "whiteout", stat.S_IFCHR, os.makedev(0, 0))
    except OSError as exc:
        what = f"no character device 0:0: {exc.strerror}; deletions become .wh. files, which the kernel cannot read"
        return Finding(
            "upper whiteouts", Verdict.REMARK, what, "a kernel from 5.8, and an upper on a local file system"
        )
    return Finding("upper whiteouts", Verdict.OK, "deletions are recorded as the kernel records them")


def _unnamed(trial: Path) -> Finding:
    try:
        os.close(os.open(trial, os.O_TMPFILE | os.O_RDWR))
    except OSError:
        return Finding("upper O_TMPFILE", Verdict.REMARK, "files without a name are not supported")
    return Finding("upper O_TMPFILE", Verdict.OK, "files without a name are supported")
