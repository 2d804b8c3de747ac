"""The index: hard links of a lower file stay one file when one of them is copied up (``index=on``).

``workdir/index`` holds a hard link to each copied-up file that has several names in its lower layer.
The entry is called after the lower file's handle, so from any of the lower names one finds the one
upper file. The number of links that users see cannot be counted on disk, because some of the names
are upper and some lower: it is kept as a difference to the real count, written down before each
change of the real one.

Source: Linux fs/overlayfs/{namei,util,copy_up}.c: ovl_get_index_name(), ovl_nlink_start(), ovl_link_up().
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, final

from unionfs.core import ondisk
from unionfs.core.layer import Layer, Place
from unionfs.core.nodes import File
from unionfs.errors import BadMark, StackError, StaleLayer
from unionfs.linux import at, handles, xattr

if TYPE_CHECKING:
    from unionfs.core.state import State

__all__ = ["Index", "origin_mark", "origin_stat"]


def origin_mark(place: Place, name: bytes) -> bytes:
    """Return the origin mark of *name* in the lower directory *place*; empty where the filesystem has no handles."""
    handle = handles.handle_of(place.fd(), name)
    return b"" if handle is None else ondisk.encode_origin(handle, place.layer.uuid)


def origin_stat(state: "State", origin: bytes) -> tuple[int, os.stat_result] | None:
    """Return the filesystem and attributes of the lower file that an origin mark names.

    None if that file is gone or was never below us.
    """
    decoded = ondisk.decode_origin(origin)
    if decoded is None:
        return None
    handle, uuid = decoded
    seen: set[int] = set()
    for layer in state.layers:
        if layer.writable or layer.uuid != uuid or layer.fsid in seen:
            continue
        seen.add(layer.fsid)
        fd = handles.open_handle(layer.root.fd(), handle)
        if fd is None:
            continue
        try:
            return layer.fsid, os.fstat(fd)
        finally:
            os.close(fd)
    return None


def _handle_of(root: Place, option: str) -> handles.FileHandle:
    handle = handles.handle_of(root.fd())
    if handle is None:
        raise StackError(f"{option}: {root.layer.path}: its filesystem has no file handles; try: index=off")
    return handle


@final
class Index:
    """The index directory of an upper layer."""

    __slots__ = ("_marks", "place")

    def __init__(self, layer: Layer, place: Place) -> None:
        self._marks = layer.xattrs
        self.place = place
        place.never_learn()

    def verify(self, upper: Place, lower: Place) -> None:
        """Check that upper and index belong together and to this lower layer; the first mount writes it down.

        Raises:
            StaleLayer: they remember others.
            StackError: there can be no index.
        """
        upper_handle, lower_handle = _handle_of(upper, "upperdir"), _handle_of(lower, "lowerdir")
        found = handles.open_handle(lower.fd(), lower_handle)
        if found is None:  # then two names of one file could not be told to be one after a remount
            raise StackError("index=on needs CAP_DAC_READ_SEARCH; mount as root, or with index=off")
        os.close(found)
        origin = ondisk.encode_origin(lower_handle, lower.layer.uuid)
        self._verify(upper, self._marks.origin, origin, "upperdir was used over another lower layer")
        own = ondisk.encode_origin(upper_handle, upper.layer.uuid, of_upper=True)
        self._verify(self.place, self._marks.upper, own, "workdir was used with another upperdir")

    def _verify(self, place: Place, mark: str, expected: bytes, complaint: str) -> None:
        known = xattr.get(place.fd(), mark)
        if known is None:
            xattr.set(place.fd(), mark, expected)
        elif known != expected:
            raise StaleLayer(f"{complaint} with index=on; use the one it belongs to, or index=off")

    def clean(self, lower_links: Callable[[bytes], int]) -> None:
        """Remove what a crash left: entries that never got their final name, and files no name leads to.

        *lower_links* returns the links of the lower file that an origin mark leads to, 0 if it is gone: an entry
        without upper names lives on as long as lower ones are left.
        """
        for entry in list(self.place.scan()):
            name = os.fsencode(entry.name)
            st = self.place.find(name)
            if st is not None and (name.startswith(b"#") or (st.st_nlink == 1 and self._is_orphan(name, lower_links))):
                with contextlib.suppress(IsADirectoryError):
                    os.unlink(name, dir_fd=self.place.fd())

    def _is_orphan(self, entry: bytes, lower_links: Callable[[bytes], int]) -> bool:
        target = self.place.target(entry)
        mark, origin = xattr.get(target, self._marks.nlink), xattr.get(target, self._marks.origin)
        return mark is None or ondisk.decode_nlink(mark, 1, lower_links(origin or b"")) is None

    def find(self, place: Place, name: bytes) -> bytes | None:
        """Return the entry of the lower file *name* in *place*, or None if no link of it was copied up."""
        mark = origin_mark(place, name)
        entry = mark.hex().encode()
        return entry if mark and self.place.find(entry) is not None else None

    def entry_for(self, origin: bytes) -> bytes | None:
        """Return the entry of a copied-up file with this origin mark, or None if it is not indexed."""
        entry = origin.hex().encode()
        return entry if origin and self.place.find(entry) is not None else None

    def require_type(self, entry: bytes, st: os.stat_result) -> None:
        """Check that the *entry* is of the type of the file with attributes *st* that it stands for.

        Raises:
            BadMark: it is not, so somebody else has put it there.
        """
        if stat.S_IFMT(self.place.lstat(entry).st_mode) != stat.S_IFMT(st.st_mode):
            raise BadMark("an index entry of another type than its file")

    def lacks_data(self, entry: bytes) -> bool:
        """Tell whether only the attributes of the file were copied up."""
        return self._marks.metacopy in xattr.names(self.place.target(entry))

    def attach(self, node: File, entry: bytes, lower_links: int) -> None:
        """Make *node* the indexed file *entry*; *lower_links* is what the link count falls back to."""
        real = self.place.lstat(entry).st_nlink
        mark = xattr.get(self.place.target(entry), self._marks.nlink) or b""
        node.place, node.real = self.place, entry
        node.indexed_links = ondisk.decode_nlink(mark, real, lower_links) or max(1, real - 1, lower_links)

    def publish(self, node: File, staged: tuple[int, bytes], entry: bytes, links: int) -> None:
        """Make the *staged* copy of *node*, which has as many *links* as its lower file, the *entry*."""
        xattr.set(at.proc_path(*staged), self._marks.nlink, ondisk.encode_nlink(links, links, of_upper=False))
        at.rename(*staged, self.place.fd(), entry)
        node.place, node.real = self.place, entry
        node.indexed_links = links

    def link_up(self, node: File, place: Place, name: bytes) -> None:
        """Give the indexed file *node* its name in the upper directory *place*."""
        place.will_hold(name)
        os.link(node.real, name, src_dir_fd=self.place.fd(), dst_dir_fd=place.fd(), follow_symlinks=False)

    def record(self, node: File, lower_links: int | None = None) -> None:
        """Write the link count down relative to the real one: before the real one changes with it, and after.

        Where the real one is about to change without it, the count is relative to *lower_links*, those of its origin.
        """
        if node.indexed_links is None:
            return
        real = self.place.lstat(node.real).st_nlink if lower_links is None else lower_links
        mark = ondisk.encode_nlink(node.indexed_links, real, of_upper=lower_links is None)
        xattr.set(self.place.target(node.real), self._marks.nlink, mark)

    def drop(self, node: File) -> None:
        """Remove the entry: the file's last name is gone."""
        try:
            os.unlink(node.real, dir_fd=self.place.fd())
        except OSError as exc:
            if exc.errno != errno.ENOENT:
                raise
