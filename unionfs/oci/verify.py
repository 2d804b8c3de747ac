"""Check the store: that every name leads to something whole, and that all is what its digest says.

    database    opens, is consistent                     else: made anew from index.json and the blobs
    index       says what the database says              else: written anew
    blob        is there, whole, and has its digest      else: removed, so that a pull brings it again
    layer       is there, with an index, and as indexed  else: removed, unpacked again when it is wanted
    container   is there                                 else: told; what was in it is lost
    garbage     nothing leads to it                      told; `prune` removes it

Repairs remove only what is damaged, never what is merely unknown. Hold the store's lock for yourself.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from msgspec.structs import replace

from unionfs.errors import BadMark, ImageError
from unionfs.oci.database import Database
from unionfs.oci.digest import CHUNK, Digest
from unionfs.oci.entry import Entry, Kind
from unionfs.oci.form import RootForm, UserForm
from unionfs.oci.gc import garbage
from unionfs.oci.images import Images
from unionfs.oci.layout import index_of, names_in, read_index
from unionfs.oci.scan import scan
from unionfs.oci.snapshots import LayerFiles, Snapshots
from unionfs.oci.store import MissingBlob

if TYPE_CHECKING:
    from unionfs.oci.model import Descriptor

__all__ = ["Problem", "check"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that is not as it should be."""

    kind: str
    """"database", "index", "blob", "layer", "container" or "garbage"."""
    name: str
    what: str
    repaired: bool = False
    harmless: bool = False
    """Costs space, and nothing else."""


def check(images: Images, *, repair: bool = False, content: bool = True) -> list[Problem]:
    """Return what is wrong; repair it if asked. *content* also reads every byte and compares digests."""
    found = list(_database(images, repair=repair))
    if any(problem.kind == "database" and not problem.repaired for problem in found):
        return found
    found += _blobs(images, repair=repair, content=content)
    found += _layers(images, repair=repair, content=content)
    found += _containers(images)
    found += _index(images, repair=repair)
    for item in garbage(images):
        found.append(
            Problem(kind="garbage", name=f"{item.kind} {item.name}", what="nothing leads to it", harmless=True)
        )
    return found


def _database(images: Images, *, repair: bool) -> Iterator[Problem]:
    try:
        with images.database.reading() as db:
            result = db.execute("PRAGMA integrity_check").fetchone()[0]
            broken = db.execute("PRAGMA foreign_key_check").fetchall()
    except ImageError as error:
        result, broken = str(error.__cause__ or error), []
    if result == "ok" and not broken:
        return
    if repair:
        _rebuild(images)
    yield Problem(kind="database", name=images.database.path.name, what=str(result), repaired=repair)


def _rebuild(images: Images) -> None:
    """Make a new database of what the layout's index names; unpacked layers are found again by unpacking."""
    for suffix in ("", "-wal", "-shm"):
        damaged = images.database.path.with_name(images.database.path.name + suffix)
        if damaged.exists():
            damaged.rename(damaged.with_name(damaged.name + ".damaged"))
    images.database = Database(images.root / "unionfs.db")
    known: tuple[Descriptor, ...] = ()
    with suppress(ImageError):  # without an index, all content becomes garbage, and is there to be looked at
        known = read_index(images.root).manifests
    for descriptor in known:
        name = next(names_in(descriptor), None)
        try:
            images.add(replace(descriptor, annotations=None), name)
        except ImageError:
            continue  # its blobs are damaged or gone, and are reported as such


def _blobs(images: Images, *, repair: bool, content: bool) -> Iterator[Problem]:
    with images.database.reading() as db:
        wanted: dict[str, str] = {}
        for row in db.execute("SELECT manifest, config FROM images"):
            wanted |= {row["manifest"]: f"manifest of image {row['config'][7:19]}", row["config"]: "configuration"}
        for row in db.execute("SELECT blob FROM image_layers"):
            wanted[row["blob"]] = "layer"
    for text, role in sorted(wanted.items()):
        digest = Digest(text)
        try:
            images.blobs.size(digest)
        except MissingBlob:
            yield Problem(kind="blob", name=digest.hex, what=f"{role} is missing; pull or load the image again")
            continue
        if content and (got := _digest(images, digest)) != digest:
            if repair:
                images.blobs.delete(digest)
            what = f"{role} is damaged: its content is {got.short}; pull or load the image again"
            yield Problem(kind="blob", name=digest.hex, what=what, repaired=repair)


def _digest(images: Images, digest: Digest) -> Digest:
    with images.blobs.open(digest) as file:
        return Digest.from_hex(_sha256(file).hex())


def _sha256(file: BinaryIO) -> bytes:
    hasher = hashlib.sha256()
    while chunk := file.read(CHUNK):
        hasher.update(chunk)
    return hasher.digest()


def _layers(images: Images, *, repair: bool, content: bool) -> Iterator[Problem]:
    snapshots = Snapshots.of(images)
    with images.database.reading() as db:
        rows = db.execute("SELECT chain_id, user_form FROM layers ORDER BY chain_id").fetchall()
    for row in rows:
        chain_id = Digest(row["chain_id"])
        what = _layer_fault(snapshots, chain_id, by_user=bool(row["user_form"]), content=content)
        if what is not None:
            if repair:
                snapshots.forget(chain_id)
            yield Problem(kind="layer", name=chain_id.hex, what=what, repaired=repair)


def _layer_fault(snapshots: Snapshots, chain_id: Digest, *, by_user: bool, content: bool) -> str | None:
    """Return in what the directory of a layer differs from its index; None if in nothing."""
    try:
        wanted = {entry.path: _comparable(entry, by_user=by_user) for entry in snapshots.index(chain_id)}
        fd = os.open(snapshots.path(chain_id), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            marks = (UserForm if by_user else RootForm).marks
            there = {entry.path: _comparable(entry, by_user=by_user) for entry, _ in scan(fd, (marks,))}
        finally:
            os.close(fd)
    except (ImageError, BadMark, OSError) as error:
        return str(error)
    for path in sorted(wanted.keys() | there.keys()):
        if wanted.get(path) != there.get(path):
            how = (
                "is missing" if path not in there else "does not belong there" if path not in wanted else "was changed"
            )
            return f"/{os.fsdecode(path)} {how}"
    return _content_fault(snapshots, chain_id) if content else None


def _comparable(entry: Entry, *, by_user: bool) -> Entry:
    """Leave out what the form of the layer cannot keep, and the digest, which a scan does not know."""
    entry = replace(entry, digest=b"")
    if entry.kind is Kind.HARDLINK:
        return Entry(path=entry.path, kind=entry.kind, link=entry.link)
    if by_user and entry.kind is Kind.SYMLINK:
        return replace(entry, uid=0, gid=0, xattrs=())
    return entry


def _content_fault(snapshots: Snapshots, chain_id: Digest) -> str | None:
    files = LayerFiles([snapshots.path(chain_id)])
    try:
        for entry in snapshots.index(chain_id):
            if entry.kind is Kind.FILE and entry.digest:
                with files.open(0, entry.path) as file:
                    if _sha256(file) != entry.digest:
                        return f"/{os.fsdecode(entry.path)} has other content"
    finally:
        files.close()
    return None


def _containers(images: Images) -> Iterator[Problem]:
    with images.database.reading() as db:
        names = [row["name"] for row in db.execute("SELECT name FROM containers ORDER BY name")]
    for name in names:
        if not (images.root / "containers" / name / "upper").is_dir():
            yield Problem(kind="container", name=name, what="its directory is gone, and its changes with it")


def _index(images: Images, *, repair: bool) -> Iterator[Problem]:
    wanted = index_of(images.named())
    try:
        there = (images.root / "index.json").read_bytes()
    except FileNotFoundError:
        there = b""
    if there != wanted and (there or images.all()):
        if repair:
            images.publish()
        yield Problem(kind="index", name="index.json", what="does not say what the database says", repaired=repair)
