"""What is written into a journal is what a successor reads, also after ever so much and after a death in between."""

import os
from collections.abc import Iterator

import pytest

from unionfs.core.nodes import PRIVATE
from unionfs.core.restore import FIELDS, Gone, Opening
from unionfs.fuse import journal
from unionfs.fuse.journal import DONE, FAILED, Journal, Opened, read
from unionfs.fuse.protocol import Opcode

ATTRIBUTES = tuple(range(len(FIELDS)))


@pytest.fixture
def notes() -> Iterator[Journal]:
    made = Journal([journal.numbers(3, PRIVATE)])
    yield made
    made.close()


def test_nodes_have_their_names_and_counts(notes: Journal) -> None:
    notes.note(journal.named(2, 1, b"a", 1))
    notes.note(journal.lookups(2, 1))
    notes.note(journal.named(2, 1, b"b", 1))
    notes.note(journal.named(2, 1, b"a", 0))
    notes.note(journal.named(5, 1, b"e", 2))
    notes.note(journal.unnamed(5, 1, b"e"))
    notes.note(journal.forgot(5, 1))
    known = read(notes.fd).known
    assert list(known[2].names) == [(1, b"b"), (1, b"a")]  # the one used last is the last
    assert known[2].lookups == 3
    assert (known[5].names, known[5].lookups) == ({}, 1)
    notes.note(journal.forgot(2, 3))
    notes.note(journal.forgot(9, 1))
    assert read(notes.fd).known.keys() == {5}


def test_a_node_without_a_name_keeps_its_count_when_it_gets_one_again(notes: Journal) -> None:
    notes.note(journal.gone(Gone(2, 77, 1, 0, 4, ATTRIBUTES)))
    notes.note(journal.forgot(2, 1))
    past = read(notes.fd)
    assert past.gone == {2: Gone(2, 77, 1, 0, 3, ATTRIBUTES)}
    notes.note(journal.named(2, 1, b"linked", 1))
    past = read(notes.fd)
    assert (past.gone, past.known[2].lookups) == ({}, 4)
    notes.note(journal.gone(Gone(2, 77, 1, 0, 4, ATTRIBUTES)))
    assert read(notes.fd).known == {}


def test_numbers_are_not_handed_out_again(notes: Journal) -> None:
    past = read(notes.fd)
    assert (past.last_handle, past.next_id) == (3, PRIVATE)
    notes.note(journal.named(PRIVATE + 6, 1, b"a", 1))
    notes.note(journal.named(PRIVATE + 2, 1, b"b", 1))
    notes.note(journal.named(7, 1, b"c", 1))
    notes.note(journal.opened(Opened(Opening(8, 7, os.O_RDWR), 0, 0, to_root=False)))
    notes.note(journal.opened(Opened(Opening(5, 7, os.O_RDWR), 0, 0, to_root=False)))
    notes.note(journal.released(8))
    past = read(notes.fd)
    assert (past.last_handle, past.next_id, list(past.files)) == (8, PRIVATE + 7, [5])


def test_an_open_file_is_read_as_it_was_noted(notes: Journal) -> None:
    file = Opened(Opening(4, 2, os.O_RDWR | os.O_APPEND), mode=6, backing=3, to_root=True, unique=90)
    notes.note(journal.opened(file))
    assert read(notes.fd).files == {4: file}


def test_what_a_request_noted_counts_when_it_has_ended(notes: Journal) -> None:
    notes.note(journal.named(2, 1, b"a", 1))
    notes.begin(10, Opcode.UNLINK, (1, b"a"), (2, b""))
    notes.note(journal.lookups(2, 1))
    past = read(notes.fd)
    assert past.unsure == journal.Begun(10, Opcode.UNLINK, 1, b"a", 2)
    assert (past.recent, past.known[2].lookups, list(past.known[2].names)) == ({}, 1, [(1, b"a")])
    notes.end(DONE)
    past = read(notes.fd)
    assert (past.unsure, list(past.recent)) == (None, [10])
    assert (past.known[2].lookups, past.known[2].names) == (2, {})
    notes.begin(12, Opcode.RENAME2, (1, b"x"), (3, b"yy"), (70, 80))
    notes.end(FAILED)
    past = read(notes.fd)
    assert (past.unsure, list(past.recent)) == (None, [10])
    notes.begin(14, Opcode.RENAME2, (1, b"x"), (3, b"yy"), (70, 80))
    notes.end(DONE)
    assert read(notes.fd).recent[14] == journal.Begun(14, Opcode.RENAME2, 1, b"x", 3, b"yy", (70, 80))


def test_only_the_last_requests_are_remembered(notes: Journal) -> None:
    for unique in range(100):
        notes.begin(unique, Opcode.MKDIR, (1, b"%d" % unique))
        notes.end(DONE)
    remembered = list(read(notes.fd).recent)
    assert remembered == list(range(100 - len(remembered), 100))
    assert 1 < len(remembered) < 100


def test_it_grows_and_says_when_most_of_it_is_waste(notes: Journal) -> None:
    name = b"n" * 250
    for nodeid in range(2, 6000):
        notes.note(journal.named(nodeid, 1, name, 1))
    assert not notes.is_wasteful
    assert len(read(notes.fd).known) == 5998
    for nodeid in range(2, 6000):
        notes.note(journal.forgot(nodeid, 1))
    assert read(notes.fd).known == {}
    while not notes.is_wasteful:
        assert os.fstat(notes.fd).st_size < 1 << 25
        notes.note(journal.lookups(2, 1))


def test_notes_in_another_form_are_refused(notes: Journal) -> None:
    os.pwrite(notes.fd, b"\xff", 8)
    with pytest.raises(ValueError, match="another form"):
        read(notes.fd)
