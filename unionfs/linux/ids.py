"""Who we are to the kernel: capabilities, user namespaces, users and groups.

A number of 0 says little: root of a container has it too. What the kernel asks for is a capability,
and in which user namespace we hold it.
"""

import os
import re
from typing import Final

__all__ = [
    "CAP_MKNOD",
    "CAP_SYS_ADMIN",
    "groups_of",
    "has_capability",
    "is_initial_user_namespace",
    "parse_capabilities",
]

CAP_SYS_ADMIN: Final = 21
"""To mount, and to use trusted.* attributes. Source: Linux include/uapi/linux/capability.h."""
CAP_MKNOD: Final = 27

_INITIAL_USER_NAMESPACE: Final = 0xEFFFFFFD
"""Its inode number on nsfs. Source: PROC_USER_INIT_INO, Linux include/linux/proc_ns.h."""


def has_capability(number: int) -> bool:
    """Return whether this process holds a capability, be it only within its own user namespace."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        return bool(parse_capabilities(file.read()) >> number & 1)


def parse_capabilities(status: str) -> int:
    r"""Return the effective capabilities in the text of ``/proc/PID/status``, as bits.

    >>> parse_capabilities("Name:\tx\nCapEff:\t0000000000200000\n") >> CAP_SYS_ADMIN
    1
    """
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return int(found[1], 16) if found else 0


def groups_of(pid: int) -> set[int]:
    """Return the further groups of a process; none if it is not to be seen from here."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            found = re.search(r"^Groups:(.*)$", file.read(), re.MULTILINE)
    except OSError:
        return set()
    return set(map(int, found[1].split())) if found else set()


def is_initial_user_namespace() -> bool:
    """Return whether our capabilities count for the whole machine."""
    return os.stat("/proc/self/ns/user").st_ino == _INITIAL_USER_NAMESPACE
