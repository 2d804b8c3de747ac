"""The same cases through real mounts, by each engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.differential import attributes, data, metacopies, names
from tests.engines import ENGINES, PYFUSE3_LACKS, backends
from unionfs.core.config import RedirectDir
from unionfs.testing import disk
from unionfs.testing.driver import attempt
from unionfs.testing.literal import ACL_ACCESS, ACL_DEFAULT
from unionfs.testing.stack import Backend, Features, kernel, lay
from unionfs.testing.trial import Case, compare

pytestmark = [pytest.mark.root, pytest.mark.overlayfs, pytest.mark.fuse]

CASES = [*names.CASES, *data.CASES, *attributes.CASES, *metacopies.CASES]

NOT_BY_PYFUSE3 = {"fallocate", "tmpfile", "copy_range", "lseek"}
NOT_BY_PYFUSE3_IN = {
    "18 copy-up by write": "set-id",
    "18 copy-up by truncate": "set-id",
    "19 a write drops the capability": "set-id",
    "19 truncation drops the capability": "set-id",
    "29 truncating open of a lower file": "set-id",
    "25 a default ACL replaces the umask": "umask",
    "metacopy without data below": "damaged",
    "metacopy in the lowest layer": "damaged",
    "metacopy in the lowest layer, of a read-only union": "damaged",
    "metacopy over a directory, over a whiteout": "damaged",
}
assert set(NOT_BY_PYFUSE3_IN.values()) < PYFUSE3_LACKS.keys()


@pytest.fixture(scope="module")
def served() -> Iterator[dict[str, Backend]]:
    with backends() as found:
        yield found


def is_for(engine: str, case: Case) -> bool:
    """Tell whether *engine* can carry the case: see `tests.engines.PYFUSE3_LACKS`."""
    return engine != "pyfuse3" or not (
        case.name in NOT_BY_PYFUSE3_IN or any(op[0] in NOT_BY_PYFUSE3 for op in case.ops)
    )


@pytest.mark.parametrize(
    ("engine", "case"),
    [pytest.param(e, case, id=f"{e}-{case.name}") for e in ENGINES for case in CASES if is_for(e, case)],
)
def test_same_as_the_kernel_when_mounted(engine: str, case: Case, served: dict[str, Backend], base: Path) -> None:
    lines = compare(case, case.features[0], served[engine], base)
    if engine == "pyfuse3":
        lines = [line for line in lines if ": same_as: " not in line]
    assert lines == []


def test_a_directory_with_a_redirect_that_is_not_followed_is_listed(served: dict[str, Backend], base: Path) -> None:
    """The kernel refuses it too, and hides it besides, so that nobody sees why its parent is not empty."""
    stack = lay(base, [{"a": {"b": {}}}])
    with served["direct"](stack) as driver:
        driver.rename("a/b", "b")
    listed = {}
    for name, backend in (("direct", served["direct"]), ("kernel", kernel)):
        with backend(stack.with_features(Features(redirect_dir=RedirectDir.NOFOLLOW))) as driver:
            listed[name] = [each for each, _ in driver.listdir("")]
            assert attempt(driver, ("lstat", "b")).errno == "EPERM"
    assert listed == {"direct": ["a", "b"], "kernel": ["a"]}


OF_THE_DISK = {"fallocate", "lseek", "tmpfile", "copy_range", "link_open", ACL_ACCESS, ACL_DEFAULT}
"""Operations and attributes that the file system below has its own ways with; others are not asked of ext4 as well."""


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.name) for case in CASES if any(not OF_THE_DISK.isdisjoint(op) for op in case.ops)],
)
def test_same_as_the_kernel_over_ext4(case: Case, served: dict[str, Backend]) -> None:
    with disk.on_disk() as base:
        assert compare(case, case.features[0], served["direct"], base) == []
