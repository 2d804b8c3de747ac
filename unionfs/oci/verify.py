"""Check the store: that every name leads to something whole, and that all is what its digest says.

    database    is there, opens, is consistent           else: made anew, see `rebuild`
    image       its manifest and configuration are there else: forgotten, no command could go past it
    index       says what the database says              else: written anew
    blob        is there, whole, and has its digest      else: removed, so that a pull brings it again
    layer       is there, with an index, and as indexed  else: removed, unpacked again when it is wanted
    container   is there                                 else: told; what was in it is lost
                is known                                 else: taken in
    garbage     nothing leads to it                      told; `prune` removes it

Repairs remove only what is damaged, never what is merely unknown. Hold the store's lock for yourself.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from msgspec.structs import replace

from unionfs.errors import BadMark, ImageError
from unionfs.oci.containers import Containers
from unionfs.oci.digest import CHUNK, Digest
from unionfs.oci.entry import Entry, Kind
from unionfs.oci.form import RootForm, UserForm
from unionfs.oci.gc import garbage
from unionfs.oci.images import Images
from unionfs.oci.rebuild import rebuild
from unionfs.oci.scan import scan
from unionfs.oci.snapshots import LayerFiles, Snapshots
from unionfs.oci.store import MissingBlob

__all__ = ["Problem", "check"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that is not as it should be."""

    kind: str
    """"database", "image", "index", "blob", "layer", "container" or "garbage"."""
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
    found += _images(images, repair=repair)
    found += _layers(images, repair=repair, content=content)
    found += _containers(images, repair=repair)
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
    yield Problem(kind="database", name=images.database.path.name, what=str(result), repaired=repair)
    if repair:
        for name, what in rebuild(images):
            yield Problem(kind="image", name=name, what=what)


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


def _images(images: Images, *, repair: bool) -> Iterator[Problem]:
    with images.database.reading() as db:
        known = [Digest(row["manifest"]) for row in db.execute("SELECT manifest FROM images ORDER BY manifest")]
    mounted = {mount.image for mount in Containers(images).mounted()}
    for digest in known:
        try:
            images.by_manifest(digest)
        except ImageError as error:
            gone = repair and digest not in mounted
            if gone:
                images.forget(digest)
            yield Problem(kind="image", name=digest.hex, what=f"cannot be read: {error}", repaired=gone)


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


def _containers(images: Images, *, repair: bool) -> Iterator[Problem]:
    containers = Containers(images)
    for container in containers.all():
        if not container.upper.is_dir():
            yield Problem(kind="container", name=container.name, what="its directory is gone, and its changes with it")
    for name in containers.unknown():
        try:
            if repair:
                containers.take_in(name)
        except ImageError as error:
            what = (
                f"cannot be taken in: {error}; what was changed in it is kept, in {images.root / 'containers' / name}"
            )
            yield Problem(kind="container", name=name, what=what)
        else:
            what = "the database does not know it; what was changed in it is kept"
            yield Problem(kind="container", name=name, what=what, repaired=repair, harmless=True)


def _index(images: Images, *, repair: bool) -> Iterator[Problem]:
    wanted = images.index()
    try:
        there = (images.root / "index.json").read_bytes()
    except FileNotFoundError:
        there = b""
    if there != wanted and (there or images.all()):
        if repair:
            images.publish()
        yield Problem(kind="index", name="index.json", what="does not say what the database says", repaired=repair)
