"""Which engine is chosen, and that each has the whole interface."""

import inspect

import pytest

from unionfs.errors import MountError
from unionfs.fuse.direct import DirectEngine
from unionfs.fuse.engine import ENGINES, Engine, choose
from unionfs.fuse.pyfuse3_engine import Pyfuse3Engine


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_has_the_whole_interface(name: str) -> None:
    engine = choose(name)
    wanted = {key for key, value in vars(Engine).items() if inspect.isfunction(value) and not key.startswith("_")}
    assert wanted <= set(dir(engine))
    assert getattr(engine, "name", None) == name


def test_auto_takes_the_direct_engine_where_it_is_fit() -> None:
    assert choose("auto") is DirectEngine


def test_auto_takes_the_next_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DirectEngine, "unfit", staticmethod(lambda: "the kernel is old"))
    assert choose("auto") is Pyfuse3Engine


def test_an_engine_that_was_asked_for_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DirectEngine, "unfit", staticmethod(lambda: "the kernel is old"))
    with pytest.raises(MountError, match="direct engine cannot run here; because the kernel is old"):
        choose("direct")
