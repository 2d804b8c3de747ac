"""A mount's settings as text, for the process that takes it over and may be of a newer version.

Fields go by name: what the other version does not know keeps its default there.
"""

import enum
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from unionfs.core.config import AccessTimes, Config, Fsync, IdMap, RedirectDir, Squash, Xino
from unionfs.core.mountoptions import MountOptions
from unionfs.fuse.state import Record

__all__ = ["Settings", "decoded", "encoded"]


class Settings(NamedTuple):
    """What a successor is told in words; the rest are descriptors."""

    config: Config
    options: MountOptions
    record: Record
    features: int
    """What was agreed with the kernel."""
    divisor: int
    """`listing.DIVISOR`."""
    privileged: bool
    """The mount was made with mount(2), and is ended so."""


def _optional_path(value: str | None) -> Path | None:
    return None if value is None else Path(value)


_READERS: Final[dict[str, Callable[[Any], object]]] = {
    "lower": lambda value: tuple(map(Path, value)),
    "data_only": lambda value: tuple(map(Path, value)),
    "upper": _optional_path,
    "work": _optional_path,
    "redirect_dir": RedirectDir,
    "xino": Xino,
    "fsync": Fsync,
    "access_times": AccessTimes,
    "uidmapping": lambda value: tuple(IdMap(*each) for each in value),
    "gidmapping": lambda value: tuple(IdMap(*each) for each in value),
    "squash": lambda value: None if value is None else Squash(*value),
    "flags": tuple,
}
"""How fields that JSON does not know are read."""


def encoded(settings: Settings) -> bytes:
    return json.dumps(_values(settings)).encode()


def _values(of: Settings | Config | MountOptions | Record) -> dict[str, object]:
    return {name: _value(value) for name, value in of._asdict().items()}


def _value(value: object) -> object:
    match value:
        case Config() | MountOptions() | Record():
            return _values(value)
        case enum.Enum():
            return value.value
        case Path():
            return str(value)
        case tuple():
            return [_value(each) for each in value]
        case _:
            return value


def decoded(text: bytes) -> Settings:
    """Return the settings that *text* holds.

    Raises:
        KeyError, TypeError, ValueError: they make no sense to this version.
    """
    values: dict[str, Any] = json.loads(text)
    values["config"] = Config(**_read(Config, values["config"]))
    values["options"] = MountOptions(**_read(MountOptions, values["options"]))
    values["record"] = Record(**{name: values["record"][name] for name in set(Record._fields) & set(values["record"])})
    return Settings(**{name: values[name] for name in Settings._fields})


def _read(kind: type[Config | MountOptions], values: dict[str, object]) -> dict[str, Any]:
    known = set(kind._fields) & set(values)
    return {name: _READERS[name](values[name]) if name in _READERS else values[name] for name in known}
