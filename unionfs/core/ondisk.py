"""How the union writes itself down: names, devices and attributes on disk.

Rule 1: every byte that reaches a layer and is not user data is defined here.
Rule 2: nothing here touches a file; functions take values and return values.

Marks are written in the kernel's form. Read are also the marks that image tools and older union
filesystems leave in layers: ``.wh.NAME`` files, ``.wh..wh..opq``, ``user.fuseoverlayfs.opaque``.

Source: Linux Documentation/filesystems/overlayfs.rst; fs/overlayfs/{util,namei,copy_up,overlayfs.h}.
"""

import os
import re
import stat
import struct
from os import stat_result
from typing import Final, NamedTuple, final

from unionfs.errors import BadMark, BadRedirect
from unionfs.linux.handles import FileHandle

__all__ = [
    "CAPABILITY",
    "OPAQUE",
    "OPAQUE_FILE",
    "OVERRIDES",
    "PATH_MAX",
    "REDIRECT_MAX",
    "TRUSTED",
    "USER",
    "WHITEOUT_MODE",
    "WHITEOUT_PREFIX",
    "WHITEOUT_RDEV",
    "WRITTEN_OVERRIDE",
    "XWHITEOUTS",
    "Metacopy",
    "Override",
    "XattrSet",
    "check_redirect",
    "decode_metacopy",
    "decode_nlink",
    "decode_origin",
    "decode_override",
    "encode_nlink",
    "encode_origin",
    "encode_override",
    "is_whiteout",
]

WHITEOUT_RDEV: Final = 0
"""A whiteout is a character device with this device number (0, 0); its permissions mean nothing."""

WHITEOUT_MODE: Final = stat.S_IFCHR
"""The mode a whiteout is made with: nobody opens it."""

WHITEOUT_PREFIX: Final = b".wh."
"""A file of this name, in a layer unpacked by an image tool, deletes the rest of the name from the layers below."""

META_PREFIX: Final = b".wh..wh."
"""Names of aufs' own book-keeping; never shown."""

OPAQUE_FILE: Final = b".wh..wh..opq"
"""A file of this name makes its directory opaque."""

OPAQUE: Final = b"y"
XWHITEOUTS: Final = b"x"
"""Values of the opaque mark: hides everything below / the directory holds whiteouts that are attributes."""

IMPURE: Final = b"y"

REDIRECT_MAX: Final = 256
"""Bytes of the longest redirect written; a rename that would need more fails.

Source: redirect_max, fs/overlayfs/dir.c.
"""

PATH_MAX: Final = 4096
"""Bytes of the longest path, and so of the longest redirect that is read: long ones in every layer would add up."""

_ORIGIN: Final = struct.Struct("<BBBBB16s")
_ORIGIN_MAGIC: Final = 0xFB
_BIG_ENDIAN, _ANY_ENDIAN, _PATH_UPPER = 1, 2, 4
_METACOPY: Final = struct.Struct("<BBBB")


@final
class XattrSet:
    """The attribute names of one flavour: ``trusted.`` with privilege, ``user.`` without. Nobody changes it."""

    __slots__ = (
        "hidden", "impure", "keeps_security", "metacopy", "nlink", "opaque", "origin", "prefix", "protattr", "redirect",
        "upper", "whiteout",
    )  # fmt: skip

    def __init__(self, prefix: str, *, keeps_owners: bool = False, keeps_security: bool = False) -> None:
        """Choose by *prefix*.

        With *keeps_owners* some layer has owners in attributes: then those are private too, for whoever sets them makes
        himself root. With *keeps_security* users' ``security.*`` attributes are kept under another name, because
        the upper layer's owner may set none.
        """
        self.prefix = prefix
        self.keeps_security = keeps_security
        self.opaque = prefix + "opaque"
        self.redirect = prefix + "redirect"
        self.metacopy = prefix + "metacopy"
        self.origin = prefix + "origin"
        self.impure = prefix + "impure"
        self.nlink = prefix + "nlink"
        self.upper = prefix + "upper"
        self.whiteout = prefix + "whiteout"
        self.protattr = prefix + "protattr"
        self.hidden = (prefix, _FOREIGN_PREFIX, *(_OVERRIDE_PREFIXES if keeps_owners else ()))

    def is_private(self, name: str) -> bool:
        """Tell whether *name*, on disk, belongs to the union: users never see or set it, copies leave it out.

        >>> TRUSTED.is_private("trusted.overlay.opaque"), TRUSTED.is_private("trusted.overlayfs")
        (True, False)
        """
        return name.startswith(self.hidden) and not self.is_escaped(name)

    def is_escaped(self, name: str) -> bool:
        """Tell whether *name*, on disk, is an attribute that a union nested in this one calls its own."""
        return name.startswith(self.prefix + "overlay.")

    def on_disk(self, shown: str) -> str:
        """Return the name under which the attribute that users call *shown* is kept.

        >>> TRUSTED.on_disk("trusted.overlay.opaque"), TRUSTED.on_disk("user.note")
        ('trusted.overlay.overlay.opaque', 'user.note')
        """
        if shown.startswith(self.prefix):
            return f"{self.prefix}overlay.{shown.removeprefix(self.prefix)}"
        return _STAND_IN + shown if self.has_stand_in(shown) else shown

    def shown(self, on_disk: str) -> str:
        """Return the name that users see; the reverse of `on_disk`."""
        if self.is_escaped(on_disk):
            return self.prefix + on_disk.removeprefix(self.prefix + "overlay.")
        return self.stands_for(on_disk) or on_disk

    def stands_for(self, on_disk: str) -> str | None:
        """Return the ``security.*`` attribute that one on disk is kept instead of, or None if it is none such."""
        is_one = self.keeps_security and on_disk.startswith(_STAND_IN + _SECURITY)
        return on_disk.removeprefix(_STAND_IN) if is_one else None

    def has_stand_in(self, on_disk: str) -> bool:
        """Tell whether an attribute is one that is kept under another name."""
        return self.keeps_security and on_disk.startswith(_SECURITY)

    def is_reserved(self, shown: str) -> bool:
        """Tell whether users may not have an attribute of this name; those that are escaped they may."""
        return shown.startswith(self.hidden) and not shown.startswith(self.prefix)

    def is_for_users(self, on_disk: str) -> bool:
        """Tell whether an attribute found on disk may be shown, under the name that `shown` gives it."""
        return self.stands_for(on_disk) is not None or not self.is_private(on_disk)

    def copied(self, on_disk: str) -> str | None:
        """Return the name that an attribute of a lower file has on its copy; None if the copy has it not."""
        if not self.is_for_users(on_disk):
            return None
        return _STAND_IN + on_disk if self.has_stand_in(on_disk) else on_disk


_FOREIGN_PREFIX: Final = "user.fuseoverlayfs."
_STAND_IN: Final = "user.containers.override_"
_SECURITY: Final = "security."
_OVERRIDE_PREFIXES: Final = (_STAND_IN, "security.fuseoverlayfs.")

OVERRIDES: Final = (
    "security.fuseoverlayfs.override_stat",
    "user.containers.override_stat",
    "user.fuseoverlayfs.override_stat",
)
"""Attributes that stand for owner, mode and type, in the order in which a layer's root is asked for them."""

WRITTEN_OVERRIDE: Final = {1: OVERRIDES[0], 2: OVERRIDES[1]}
"""The one that each value of the option ``xattr_permissions`` writes."""
CAPABILITY: Final = {OVERRIDES[0]: "security.capability", OVERRIDES[1]: _STAND_IN + "security.capability"}
"""What gives a program capabilities, or will once it is taken out of the layer, beside each of them."""

FOREIGN_OPAQUE: Final = "user.fuseoverlayfs.opaque"

TRUSTED: Final = XattrSet("trusted.overlay.")
USER: Final = XattrSet("user.overlay.")


def is_whiteout(st: stat_result) -> bool:
    """Tell whether a file with these attributes is the kernel's whiteout."""
    return stat.S_ISCHR(st.st_mode) and st.st_rdev == WHITEOUT_RDEV


def check_redirect(value: bytes) -> bytes:
    """Return *value* if a union could have written it.

    A redirect is one name (of the same parent directory) or a path from the union's root.

    Raises:
        BadRedirect: it has empty, ``.`` or ``..`` components, is a relative path, or longer than any path.

    >>> check_redirect(b"/a/b")
    b'/a/b'
    >>> check_redirect(b"../etc")
    Traceback (most recent call last):
    ...
    unionfs.errors.BadRedirect: [Errno 22] Invalid argument: redirect b'../etc'
    """
    if len(value) > PATH_MAX:
        raise BadRedirect(f"redirect of {len(value)} bytes")
    parts = value[1:].split(b"/") if value.startswith(b"/") else [value]
    if b"\0" in value or any(part in {b"", b".", b".."} or b"/" in part or len(part) > 255 for part in parts):
        raise BadRedirect(f"redirect {value!r}")
    return value


class Metacopy(NamedTuple):
    """A file whose attributes were copied up without its data."""

    digest_algorithm: int
    """FS_VERITY_HASH_ALG_* of *digest*; 0 means there is none."""
    digest: bytes


def decode_metacopy(value: bytes) -> Metacopy:
    """Read a metacopy mark.

    Raises:
        BadMark: it is neither empty nor the kernel's structure.
    """
    if not value:
        return Metacopy(0, b"")
    if len(value) < _METACOPY.size:
        raise BadMark("metacopy: too short")
    version, length, _flags, algorithm = _METACOPY.unpack_from(value)
    if version != 0 or length != len(value):
        raise BadMark("metacopy: unknown version or wrong length")
    return Metacopy(algorithm, value[_METACOPY.size :])


def encode_origin(handle: FileHandle, uuid: bytes, *, of_upper: bool = False) -> bytes:
    """Write down which file is meant; *uuid* names its filesystem, *of_upper* says that it is in the upper layer."""
    size = _ORIGIN.size + len(handle.data)
    flags = _PATH_UPPER if of_upper else 0
    return _ORIGIN.pack(0, _ORIGIN_MAGIC, size, flags, handle.type, uuid) + handle.data


def decode_origin(value: bytes) -> tuple[FileHandle, bytes] | None:
    """Return the handle and the filesystem's uuid, or None: the origin is unknown, or not to be believed."""
    if len(value) < _ORIGIN.size:
        return None
    version, magic, size, flags, kind, uuid = _ORIGIN.unpack_from(value)
    if version != 0 or magic != _ORIGIN_MAGIC or size != len(value):
        return None
    if flags & _BIG_ENDIAN and not flags & _ANY_ENDIAN:
        return None
    return FileHandle(kind, value[_ORIGIN.size :]), uuid


def encode_nlink(union: int, real: int, *, of_upper: bool) -> bytes:
    """Write the union's link count relative to the real one, so that a crash between two updates does no harm.

    >>> encode_nlink(3, 2, of_upper=True), encode_nlink(1, 2, of_upper=False)
    (b'U+1', b'L-1')
    """
    return b"%s%+d" % (b"U" if of_upper else b"L", union - real)


def decode_nlink(value: bytes, upper: int, lower: int) -> int | None:
    """Return the union's link count, given the real ones; None if the mark makes no sense.

    >>> decode_nlink(b"U+1", upper=2, lower=5), decode_nlink(b"L-1", upper=2, lower=5)
    (3, 4)
    """
    if not _NLINK.fullmatch(value):
        return None
    count = (upper if value[:1] == b"U" else lower) + int(value[1:])
    return count if 0 < count <= _MAX_LINKS else None


_NLINK: Final = re.compile(rb"[UL][+-]\d{1,10}")
_MAX_LINKS: Final = 2**31 - 1
"""More than any filesystem allows, and as many as every caller of stat(2) can be told."""


class Override(NamedTuple):
    """Owner, mode and type that stand in an attribute instead of the inode."""

    uid: int
    gid: int
    mode: int
    """With type bits; without, the type is the file's own."""
    rdev: int = 0


_TYPES: Final = {
    b"file": stat.S_IFREG,
    b"dir": stat.S_IFDIR,
    b"symlink": stat.S_IFLNK,
    b"pipe": stat.S_IFIFO,
    b"socket": stat.S_IFSOCK,
    b"block": stat.S_IFBLK,
    b"char": stat.S_IFCHR,
}
_TYPE_NAMES: Final = {bits: name for name, bits in _TYPES.items()}
_DEVICES: Final = frozenset({stat.S_IFBLK, stat.S_IFCHR})


def encode_override(override: Override) -> bytes:
    """Write owner, mode and type as containers/storage does.

    >>> encode_override(Override(0, 5, 0o104755)), encode_override(Override(1, 2, 0o020600, os.makedev(1, 3)))
    (b'0:5:4755:file', b'1:2:0600:char-1-3')
    """
    uid, gid, mode, rdev = override
    kind = stat.S_IFMT(mode)
    device = b"-%d-%d" % (os.major(rdev), os.minor(rdev)) if kind in _DEVICES else b""
    return b"%d:%d:%04o:%s%s" % (uid, gid, stat.S_IMODE(mode), _TYPE_NAMES[kind], device)


def decode_override(value: bytes) -> Override:
    """Read ``UID:GID:MODE[:TYPE]``; fuse-overlayfs writes no type, or ``char1:3``.

    Raises:
        BadMark: it is nothing of the kind.

    >>> decode_override(b"1000:0:755")
    Override(uid=1000, gid=0, mode=493, rdev=0)
    >>> decode_override(b"0:0:0600:block-8-1-more") == decode_override(b"0:0:600:block8:1")
    True
    """
    match = _OVERRIDE.fullmatch(value)
    if match is None or max(int(match["uid"]), int(match["gid"])) >= NO_ID:
        raise BadMark(f"override_stat {value!r}")
    kind = _TYPES.get(match["type"] or match["device"], 0)
    rdev = os.makedev(int(match["major"]), int(match["minor"])) if match["device"] else 0
    return Override(int(match["uid"]), int(match["gid"]), kind | stat.S_IMODE(int(match["mode"], 8)), rdev)


NO_ID: Final = 2**32 - 1
"""No user and no group has this number."""

_OVERRIDE: Final = re.compile(
    rb"(?P<uid>\d{1,10}):(?P<gid>\d{1,10}):(?P<mode>[0-7]{1,7})"
    rb"(?::(?:(?P<type>file|dir|symlink|pipe|socket)"
    rb"|(?P<device>block|char)-?(?P<major>\d{1,4})[-:](?P<minor>\d{1,7})(?:-.*)?))?"
)
