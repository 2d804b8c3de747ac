"""POSIX ACLs of new objects, where the kernel cannot inherit them for us.

A new file is normally made right in its directory, and the filesystem itself hands down the default
ACL. One that must replace a whiteout is made in the work directory first and needs this instead.

Source: Linux fs/posix_acl.c, posix_acl_create(); include/uapi/linux/posix_acl_xattr.h.
"""

import struct
from typing import Final

__all__ = ["inherit", "narrowed"]

_HEADER: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")
_VERSION: Final = 2
_USER_OBJ, _GROUP_OBJ, _MASK, _OTHER = 0x01, 0x04, 0x10, 0x20


def inherit(default: bytes, mode: int) -> tuple[bytes | None, int]:
    """Return the access ACL and the permission bits of an object made with *mode* under *default*.

    *default* is the directory's ``system.posix_acl_default``. The ACL is None where the bits say it
    all: then the object has none.
    """
    entries = [list(entry) for entry in _ENTRY.iter_unpack(default[_HEADER.size :])]
    has_mask = any(tag == _MASK for tag, _, _ in entries)
    shown = 0
    for entry in entries:
        tag, permissions, _ = entry
        shift = {_USER_OBJ: 6, _GROUP_OBJ: None if has_mask else 3, _MASK: 3, _OTHER: 0}.get(tag)
        if shift is not None:
            entry[1] = permissions & (mode >> shift) & 7
            shown |= entry[1] << shift
    bits = (mode & 0o7000) | shown
    if all(tag in {_USER_OBJ, _GROUP_OBJ, _OTHER} for tag, _, _ in entries):
        return None, bits
    return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries), bits


def narrowed(access: bytes | None, mode: int) -> int:
    """Return the mode to show of a file whose ACL *access* is not shown: the group gets what its own entry says.

    With an ACL the group bits of the mode are the mask, which may give more than the ACL gives the group.
    """
    if access is None:
        return mode
    for tag, permissions, _ in _ENTRY.iter_unpack(access[_HEADER.size :]):
        if tag == _GROUP_OBJ:
            return (mode & ~0o070) | (mode & (int(permissions) << 3))
    return mode
