"""What the store knows beyond its blobs: names, images, unpacked layers, writable layers, mounts.

SQLite in WAL mode; every change is one transaction, so a crash leaves the state before it or after it.
A connection lives as long as its transaction: any thread and any process may have its own. Writers
wait for each other up to BUSY_S; readers wait for nobody.

Use counts are not stored but counted (`layer_uses`): a number that is computed cannot be wrong.

A database that is missing, or empty, is made: but not where a store has been used, because then it was
lost, and to begin anew would make garbage of all that it knew. `rebuild` finds that again.
"""

import errno
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from unionfs.errors import ImageError, NoSuchImage

__all__ = ["Database"]

_PAUSE_S: Final = 0.01
BUSY_S: Final = 60.0
SYNCHRONOUS = "FULL"
"""A name that was reported survives a power cut."""

VERSION: Final = 1

SCHEMA: Final = """
CREATE TABLE images (
    manifest TEXT PRIMARY KEY,      -- digest of the manifest for one platform
    media_type TEXT NOT NULL,
    size INTEGER NOT NULL,          -- bytes of the manifest
    config TEXT NOT NULL,           -- digest of the configuration: the image id
    added_ns INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX images_by_id ON images (config);
CREATE TABLE names (
    name TEXT PRIMARY KEY,          -- complete: registry, repository, tag
    manifest TEXT NOT NULL REFERENCES images (manifest),
    root TEXT NOT NULL,             -- what the registry means by the name: the manifest, or an index
    root_type TEXT NOT NULL,
    root_size INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX names_by_image ON names (manifest);
CREATE TABLE image_layers (
    manifest TEXT NOT NULL REFERENCES images (manifest) ON DELETE CASCADE,
    position INTEGER NOT NULL,      -- 0 is the bottom
    blob TEXT NOT NULL,
    blob_size INTEGER NOT NULL,
    media_type TEXT NOT NULL,
    diff_id TEXT NOT NULL,
    chain_id TEXT NOT NULL,
    PRIMARY KEY (manifest, position)
) WITHOUT ROWID;
CREATE INDEX image_layers_by_chain ON image_layers (chain_id);
CREATE TABLE layers (
    chain_id TEXT PRIMARY KEY,      -- unpacked, in layers/HEX
    diff_id TEXT NOT NULL,
    parent TEXT,                    -- chain id of the layer below, NULL for the bottom
    size INTEGER NOT NULL,          -- bytes of content
    files INTEGER NOT NULL,
    user_form INTEGER NOT NULL,     -- 1: written without root, see oci/form.py
    unpacked_ns INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE containers (
    name TEXT PRIMARY KEY,          -- a writable layer, in containers/NAME
    manifest TEXT NOT NULL REFERENCES images (manifest),
    created_ns INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE mounts (
    lock TEXT PRIMARY KEY,          -- locked as long as the mount lives
    manifest TEXT NOT NULL REFERENCES images (manifest),
    container TEXT,
    mountpoint TEXT NOT NULL,
    since_ns INTEGER NOT NULL
) WITHOUT ROWID;
CREATE VIEW layer_uses AS
    SELECT chain_id, COUNT(DISTINCT manifest) AS images FROM image_layers GROUP BY chain_id;
"""


class Database:
    """The file, and transactions on it."""

    def __init__(self, path: Path, traces: Sequence[Path] = ()) -> None:
        """Use the database at *path*, making it where it is missing.

        *traces* are there, files or directories that are not empty, if there must have been one.
        """
        self.path = path
        self._traces = traces

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """See one consistent state for the whole block."""
        with self._connection() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("ROLLBACK")

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """Make one change: all of the block, or, if it raises, nothing of it.

        Raises:
            NoSuchImage: another process removed meanwhile what the change is about.
        """
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)) as connection:
                connection.row_factory = sqlite3.Row
                connection.execute("PRAGMA foreign_keys = ON")
                connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS}")
                self._prepare(connection)
                yield connection
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
                raise NoSuchImage("the image was removed meanwhile by another command; try again") from error
            raise  # an answer to the statement, not about the file
        except sqlite3.DatabaseError as error:
            if self._is_full(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path)) from error
            raise ImageError(f"{self.path}: {error}; try: unionfs check --repair") from error

    def _is_full(self, error: sqlite3.DatabaseError) -> bool:
        """Tell whether it is the disk that is full; SQLite says so of a write, and "I/O error" of all else."""
        code = error.sqlite_errorcode & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return True
        return code == sqlite3.SQLITE_IOERR and os.statvfs(self.path.parent).f_bavail == 0

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == VERSION:
            return
        if version > VERSION:
            raise ImageError(
                f"{self.path} was written by a newer unionfs (version {version}, this one knows {VERSION})"
            )
        _use_wal(connection)
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:  # nobody else made it meanwhile
            self._check_traces()
            for statement in SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")

    def _check_traces(self) -> None:
        for trace in self._traces:
            if trace.is_file() or (trace.is_dir() and any(trace.iterdir())):
                raise ImageError(f"{self.path} is lost, but {trace} is there; try: unionfs check --repair")


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL. SQLite does not wait for others here, whatever the timeout: two first commands meet."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_S)
        else:
            return
