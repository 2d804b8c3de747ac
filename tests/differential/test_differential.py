"""The union against the kernel's overlayfs, case by case: every errno and the whole tree, after every step."""

from pathlib import Path

import pytest

from tests.differential import attributes, data, names
from unionfs.testing.stack import Backend, Features, in_process, kernel, remembering
from unionfs.testing.trial import Case, compare

pytestmark = [pytest.mark.root, pytest.mark.overlayfs]

CASES = [
    pytest.param(case, features, id=f"{case.name} [{features}]")
    for case in [*names.CASES, *data.CASES, *attributes.CASES]
    for features in case.features
]


@pytest.mark.parametrize("ours", [kernel, in_process, remembering], ids=["kernel", "forgetting", "remembering"])
@pytest.mark.parametrize(("case", "features"), CASES)
def test_same_as_the_kernel(case: Case, features: Features, ours: Backend, base: Path) -> None:
    assert compare(case, features, ours, base) == []
