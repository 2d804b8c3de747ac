"""A Config in hand makes sense: what cannot be stacked cannot be constructed."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unionfs.core.config import MAX_LAYERS, Config, Fsync, IdMap, RedirectDir, Squash
from unionfs.core.mountoptions import MountOptions
from unionfs.errors import ConfigError

LOWER = (Path("/low"),)
UPPER: dict[str, Any] = {"upper": Path("/up"), "work": Path("/work")}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no layer": ({"lower": ()}, "at least one lower layer"),
    "too many layers": ({"lower": LOWER * (MAX_LAYERS + 1)}, "501 layers"),
    "too many with data-only ones": ({"lower": LOWER * MAX_LAYERS, "data_only": LOWER}, "501 layers"),
    "upper without work": ({"upper": Path("/up")}, "workdir is missing"),
    "work without upper": ({"work": Path("/work")}, "upperdir is missing"),
    "metacopy without redirects": ({**UPPER, "metacopy": True, "redirect_dir": RedirectDir.OFF}, "needs redirect_dir"),
    "forgeable redirects": ({**UPPER, "userxattr": True, "redirect_dir": RedirectDir.ON}, "exclude each other"),
    "forgeable metacopy": ({**UPPER, "userxattr": True, "metacopy": True}, "exclude each other"),
    "unknown xattr_permissions": ({"xattr_permissions": 3}, "not one of 0, 1, 2"),
    "an empty range": ({"uidmapping": (IdMap(0, 1000, 0),)}, "uidmapping: 0:1000:0"),
    "a range past the last id": ({"gidmapping": (IdMap(0, 2**32 - 10, 100),)}, "gidmapping"),
    "an id out of range": ({"squash": Squash(uid=2**32 - 1)}, "not a user or group number"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config(**{"lower": LOWER, **options})


def test_the_limit_itself_is_allowed() -> None:
    assert len(Config(lower=LOWER * MAX_LAYERS).lower) == MAX_LAYERS


def test_redirects_are_on_unless_users_could_forge_them() -> None:
    assert Config(lower=LOWER).redirect_dir is RedirectDir.ON
    assert Config(lower=LOWER, userxattr=True).redirect_dir is RedirectDir.NOFOLLOW


def test_data_only_layers_go_with_userxattr() -> None:
    """Their metacopy files were made by whoever made the layers, as in the kernel (xfstests overlay/088)."""
    assert Config(lower=LOWER, data_only=LOWER, userxattr=True).data_only == LOWER


def test_volatile_means_that_nothing_is_synced() -> None:
    assert Config(lower=LOWER, **UPPER, volatile=True).fsync is Fsync.VOLATILE


def test_without_an_upper_the_union_is_read_only_and_needs_no_index() -> None:
    config = Config(lower=LOWER, index=True, volatile=True)
    assert (config.read_only, config.index, config.volatile) == (True, False, False)


@pytest.mark.parametrize(
    ("redirect", "makes", "follows"),
    [
        (RedirectDir.ON, True, True),
        (RedirectDir.OFF, False, True),
        (RedirectDir.FOLLOW, False, True),
        (RedirectDir.NOFOLLOW, False, False),
    ],
)
def test_what_each_redirect_mode_does(redirect: RedirectDir, *, makes: bool, follows: bool) -> None:
    assert (redirect.makes, redirect.follows) == (makes, follows)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_is_an_equal_one(copied: Callable[[Any], object]) -> None:
    for each in (Config(lower=(Path("/l"),), upper=Path("/u"), work=Path("/w"), index=True), MountOptions(debug=True)):
        assert copied(each) == each
        assert type(copied(each)) is type(each)


def test_what_is_changed_in_a_copy_is_checked_as_well() -> None:
    config = Config(lower=(Path("/l"),), upper=Path("/u"), work=Path("/w"), index=True)
    frozen = config._replace(upper=None, work=None)
    assert (frozen.read_only, frozen.index) == (True, False)
    with pytest.raises(ConfigError):
        config._replace(work=None)
    with pytest.raises(ConfigError):
        MountOptions()._replace(fsname="")
