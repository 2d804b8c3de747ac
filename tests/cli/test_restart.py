"""What a restart says of supervisors that answer nothing, or something else; those that do are tested on mounts."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from unionfs.cli import restart
from unionfs.cli.mounts import Mounted
from unionfs.errors import MountError
from unionfs.fuse import state, takeover

SUPERVISOR = 7


@pytest.fixture
def mounted(tmp_path: Path) -> Mounted:
    record = state.Record(
        pid=8, started=1, mountpoint="/mnt", device="0:99", engine="direct", lower=[], supervisor=SUPERVISOR
    )
    return Mounted(
        mountpoint="/mnt", device="0:99", source="unionfs", type="fuse.unionfs", record=record, records=tmp_path
    )


@pytest.fixture
def door(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(takeover.control_socket(tmp_path, SUPERVISOR))
        listening.listen()
        yield listening


def answers(door: socket.socket, text: bytes) -> None:
    def answer() -> None:
        asking, _ = door.accept()
        with asking:
            asking.sendall(text)

    threading.Thread(target=answer).start()


def test_the_answer_is_that_of_the_supervisor(mounted: Mounted, door: socket.socket) -> None:
    answers(door, b'{"pid": 9, "restarts": 3}')
    assert restart.restart(mounted) == {"pid": 9, "restarts": 3}


@pytest.mark.parametrize(("text", "why"), [(b'{"error": "it rains"}', "it rains"), (b"", "the supervisor ended")])
def test_what_it_refuses_is_an_error(mounted: Mounted, door: socket.socket, text: bytes, why: str) -> None:
    answers(door, text)
    with pytest.raises(MountError, match=f"/mnt: it was not restarted; because {why}"):
        restart.restart(mounted)


def test_one_that_is_silent_is_not_waited_for_for_ever(
    mounted: Mounted, door: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert door.fileno() >= 0
    monkeypatch.setattr(restart, "PATIENCE_S", 0.05)
    with pytest.raises(MountError, match="/mnt: its supervisor does not answer; because of timed out"):
        restart.restart(mounted)


def test_one_that_is_gone_does_not_answer(mounted: Mounted) -> None:
    with pytest.raises(MountError, match="/mnt: its supervisor does not answer; because of No such file"):
        restart.restart(mounted)
