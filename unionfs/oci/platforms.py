"""Which of an index's images this machine, or the user, wants.

Architectures are named as Go names them, because image indexes do.

Source: github.com/containerd/platforms, the tables of database.go and the order of compare.go.
"""

import os
from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

from msgspec import Struct, field

from unionfs.errors import ImageError, MalformedName

__all__ = ["Platform", "choose", "host_platform", "parse_platform"]

_GO_NAMES: Final = {
    "x86_64": ("amd64", None),
    "i386": ("386", None),
    "i686": ("386", None),
    "aarch64": ("arm64", None),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "ppc64le": ("ppc64le", None),
    "s390x": ("s390x", None),
    "riscv64": ("riscv64", None),
    "loongarch64": ("loong64", None),
}
"""What uname calls the machine → architecture and variant."""

_IMPLIED: Final = {("arm64", "v8"): None, ("amd64", "v1"): None, ("arm", None): "v7"}
"""Variants that mean the same as another spelling."""

_RUNS: Final = {("arm", "v7"): ("v7", "v6", "v5"), ("arm", "v6"): ("v6", "v5")}
"""Variants that a machine runs, best first."""


class Platform(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What an image runs on."""

    architecture: str
    os: str
    os_version: str | None = field(default=None, name="os.version")
    os_features: tuple[str, ...] | None = field(default=None, name="os.features")
    variant: str | None = None

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class HasPlatform(Protocol):
    """A descriptor in an index."""

    @property
    def platform(self) -> Platform | None:
        """None where the index does not say."""


_D = TypeVar("_D", bound=HasPlatform)


def host_platform() -> Platform:
    """Return the platform of the machine we run on."""
    machine = os.uname().machine
    architecture, variant = _GO_NAMES.get(machine, (machine, None))
    return Platform(os="linux", architecture=architecture, variant=variant)


def parse_platform(text: str) -> Platform:
    """Parse ``os/architecture[/variant]``; an architecture alone means linux.

    >>> str(parse_platform("linux/arm/v6")), str(parse_platform("arm64"))
    ('linux/arm/v6', 'linux/arm64')
    """
    parts = text.split("/")
    if len(parts) == 1:
        parts.insert(0, "linux")
    if len(parts) > 3 or not all(parts):
        raise MalformedName(f"not a platform: {text!r}; write os/architecture[/variant]")
    os_name, architecture, *rest = parts
    architecture, variant = _GO_NAMES.get(architecture, (architecture, None))
    return Platform(os=os_name, architecture=architecture, variant=rest[0] if rest else variant)


def choose(candidates: Sequence[_D], wanted: Platform) -> _D:
    """Return the candidate that runs best on *wanted*, the first of equals.

    Raises:
        ImageError: none does; the message lists what there is.
    """
    ranked = [(_rank(found, wanted), candidate) for candidate in candidates if (found := candidate.platform)]
    fitting = [pair for pair in ranked if pair[0] is not None]
    if fitting:
        return min(fitting, key=lambda pair: pair[0] or 0)[1]
    if len(candidates) == 1 and candidates[0].platform is None:
        return candidates[0]
    there = ", ".join(sorted({str(c.platform) for c in candidates if c.platform})) or "no platform at all"
    raise ImageError(f"no image for {wanted}; this one has {there}; try: --platform")


def _rank(found: Platform, wanted: Platform) -> int | None:
    """How far *found* is from *wanted*: 0 is exact, None cannot run."""
    if (found.os, found.architecture) != (wanted.os, wanted.architecture):
        return None
    have, want = (_IMPLIED.get((p.architecture, p.variant), p.variant) for p in (found, wanted))
    if have == want:
        return 0
    runs = _RUNS.get((wanted.architecture, want or ""), (None,))
    return runs.index(have) + 1 if have in runs else None
