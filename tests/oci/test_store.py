"""Blobs are whole or absent, whoever dies and whoever else is writing."""

import io
import os
import signal
import threading
from pathlib import Path

import pytest

from unionfs.errors import ImageError
from unionfs.oci.digest import Digest, DigestMismatch
from unionfs.oci.store import BlobStore, MissingBlob, SizeMismatch

CONTENT = b"some content" * 1000
NAME = Digest.of(CONTENT)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "root")


def interrupted(store: BlobStore, expected: Digest | None, arrived: bytes) -> None:
    """Write until the connection breaks."""
    with store.writer(expected, len(CONTENT)) as writer:
        writer.write(arrived)
        raise ConnectionError


def whole(store: BlobStore, expected: Digest, size: int, content: bytes) -> None:
    """Write all that the server has, and trust it."""
    with store.writer(expected, size) as writer:
        writer.write(content)
        writer.commit()


def files_of(store: BlobStore) -> list[str]:
    return sorted(str(p.relative_to(store.root)) for p in store.root.rglob("*") if p.is_file() and p.stat().st_size)


def test_putting_twice_is_putting_once(store: BlobStore) -> None:
    assert store.put(CONTENT) == store.put(CONTENT) == NAME
    assert list(store) == [NAME]
    assert (store.get(NAME), store.size(NAME), store.has(NAME)) == (CONTENT, len(CONTENT), True)
    assert files_of(store) == [f"blobs/sha256/{NAME.hex}"]


def test_what_is_not_here_is_named(store: BlobStore) -> None:
    for ask in (store.get, store.size, store.open):
        with pytest.raises(MissingBlob, match=str(NAME)):
            ask(NAME)
    assert store.delete(NAME) == 0


def test_deleting_frees_the_bytes(store: BlobStore) -> None:
    store.put(CONTENT)
    assert store.delete(NAME) == len(CONTENT)
    assert files_of(store) == []


def test_a_rotten_disk_is_noticed(store: BlobStore) -> None:
    store.put(CONTENT)
    store.path(NAME).chmod(0o644)
    store.path(NAME).write_bytes(CONTENT[:-1] + b"X")
    with pytest.raises(DigestMismatch):
        store.get(NAME)


def test_a_document_too_large_for_memory_is_refused(store: BlobStore) -> None:
    name = store.put(bytes(9 << 20))
    with pytest.raises(ImageError, match="too large"):
        store.get(name)


def test_an_interrupted_blob_is_resumed(store: BlobStore) -> None:
    with pytest.raises(ConnectionError):
        interrupted(store, NAME, CONTENT[:500])
    assert not store.has(NAME)
    with store.writer(NAME, len(CONTENT)) as writer:
        assert writer.offset == 500
        writer.write(CONTENT[500:])
        writer.commit()
    assert store.get(NAME) == CONTENT
    assert files_of(store) == [f"blobs/sha256/{NAME.hex}"]


def test_a_server_that_cannot_resume_starts_again(store: BlobStore) -> None:
    with pytest.raises(ConnectionError):
        interrupted(store, NAME, b"garbage")
    with store.writer(NAME, len(CONTENT)) as writer:
        writer.restart()
        writer.write(CONTENT)
        assert writer.commit() == NAME


def test_wrong_content_is_dropped_and_never_visible(store: BlobStore) -> None:
    with pytest.raises(DigestMismatch):
        whole(store, NAME, 3, b"abc")
    assert not store.has(NAME)
    assert files_of(store) == []


def test_too_much_is_refused_before_it_is_written(store: BlobStore) -> None:
    with pytest.raises(SizeMismatch):
        whole(store, NAME, 10, CONTENT)
    assert files_of(store) == []


def test_too_little_is_kept_for_the_next_attempt(store: BlobStore) -> None:
    with pytest.raises(SizeMismatch, match="12000 were promised"):
        whole(store, NAME, len(CONTENT), CONTENT[:10])
    assert files_of(store) == [f"partial/{NAME.hex}"]


def test_a_stream_of_unknown_name_gets_its_own(store: BlobStore) -> None:
    assert store.put_stream(io.BytesIO(CONTENT)) == NAME
    assert store.put_stream(io.BytesIO(CONTENT)) == NAME
    assert store.put_stream(io.BytesIO(CONTENT), NAME) == NAME
    assert files_of(store) == [f"blobs/sha256/{NAME.hex}"]


def test_a_failed_stream_leaves_nothing(store: BlobStore) -> None:
    with pytest.raises(ConnectionError):
        interrupted(store, None, CONTENT)
    assert files_of(store) == []


def test_the_second_of_two_writers_finds_the_work_done(store: BlobStore) -> None:
    seen: list[bool] = []

    def second() -> None:
        with BlobStore(store.root).writer(NAME, len(CONTENT)) as writer:
            seen.append(writer.exists)

    with store.writer(NAME, len(CONTENT)) as writer:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        writer.write(CONTENT)
        writer.commit()
    thread.join()
    assert seen == [True]


@pytest.mark.parametrize("step", ["write", "commit", "publish"])
def test_a_killed_writer_leaves_a_store_that_works(store: BlobStore, step: str) -> None:
    pid = os.fork()
    if pid == 0:
        with store.writer(NAME, len(CONTENT)) as writer:
            writer.write(CONTENT[:6000])
            if step == "write":
                os.kill(os.getpid(), signal.SIGKILL)
            writer.write(CONTENT[6000:])
            if step == "commit":
                os.kill(os.getpid(), signal.SIGKILL)
            writer.commit()
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert not store.has(NAME)
    assert store.put(CONTENT) == NAME
    assert store.get(NAME) == CONTENT
    assert files_of(store) == [f"blobs/sha256/{NAME.hex}"]
