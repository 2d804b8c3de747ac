"""The union against the kernel's overlayfs, case by case: every errno and the whole tree, after every step."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.differential import attributes, data, metacopies, names
from tests.mounting import eventually
from unionfs.testing.stack import Backend, Features, in_process, kernel, lay, remembering
from unionfs.testing.trial import Case, compare

pytestmark = [pytest.mark.root, pytest.mark.overlayfs]

CASES = [
    pytest.param(case, features, id=f"{case.name} [{features}]")
    for case in [*names.CASES, *data.CASES, *attributes.CASES, *metacopies.CASES]
    for features in case.features
]


@pytest.mark.parametrize("ours", [kernel, in_process, remembering], ids=["kernel", "forgetting", "remembering"])
@pytest.mark.parametrize(("case", "features"), CASES)
def test_same_as_the_kernel(case: Case, features: Features, ours: Backend, base: Path) -> None:
    assert compare(case, features, ours, base) == []


def test_layers_that_somebodys_mount_namespace_holds_are_waited_for(base: Path) -> None:
    """Others at work on the same machine are no difference."""
    stack, ours = lay(base, [{"a": ""}], features=Features(index=True)), os.readlink("/proc/self/ns/mnt")
    with kernel(stack):
        other = subprocess.Popen(["unshare", "--mount", "sleep", "0.5"])
        eventually(lambda: os.readlink(f"/proc/{other.pid}/ns/mnt") != ours)
    with other, kernel(stack) as driver:
        assert driver.listdir("") == [("a", "f")]
