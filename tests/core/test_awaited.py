"""Nodes of a process that has died are found by what it knew of them."""

from types import SimpleNamespace
from typing import Any

from unionfs.core.awaited import Awaited, Known


def awaited(disk: dict[tuple[int, bytes], int], *known: Known) -> Awaited:
    """Return what is awaited where *disk* says which node has which name; 1 is the root."""
    table: dict[int, Any] = {1: SimpleNamespace(nodeid=1, children={})}

    def seek(above: Any, name: bytes) -> Any:
        nodeid = disk.get((above.nodeid, name))
        if nodeid is None:
            raise FileNotFoundError
        result.claim(above.nodeid, name)
        return table.setdefault(nodeid, SimpleNamespace(nodeid=nodeid, children={}))

    result = Awaited({each.nodeid: each for each in known}, table, seek)
    return result


def names(*each: tuple[int, bytes]) -> dict[tuple[int, bytes], None]:
    return dict.fromkeys(each)


def test_the_directories_above_are_found_first() -> None:
    disk = {(1, b"d"): 2, (2, b"e"): 3, (3, b"f"): 4}
    nodes = [Known(nodeid, names(name), 1) for name, nodeid in disk.items()]
    found: Any = awaited(disk, *nodes).find(4)
    assert found.nodeid == 4


def test_a_name_in_a_directory_that_was_forgotten_is_passed_by() -> None:
    """The kernel holds the directory of the name by which it has a file open, and not those of others."""
    disk = {(1, b"d"): 2, (1, b"e"): 3, (2, b"f"): 4, (3, b"g"): 4}
    file = Known(4, names((2, b"f"), (3, b"g")), 1)
    found: Any = awaited(disk, Known(2, names((1, b"d")), 1), file).find(4)
    assert found.nodeid == 4


def test_what_was_removed_behind_our_back_is_not_found() -> None:
    assert awaited({}, Known(4, names((1, b"f")), 1)).find(4) is None


def test_names_that_lead_in_a_circle_end() -> None:
    nodes = [Known(2, names((3, b"d")), 1), Known(3, names((2, b"e")), 1)]
    assert awaited({}, *nodes).find(2) is None
