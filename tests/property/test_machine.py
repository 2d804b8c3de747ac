"""The state machine on each implementation; the kernel against itself shows that the machine is fair."""

from collections.abc import Iterator
from typing import ClassVar

import pytest
from hypothesis import settings

from tests.engines import backends
from tests.property.machine import Machine
from unionfs.testing.stack import Backend, kernel, remembering

pytestmark = [pytest.mark.property, pytest.mark.root, pytest.mark.overlayfs]

STEPS = settings(stateful_step_count=25)


class Remembering(Machine):
    ours: ClassVar[Backend] = staticmethod(remembering)


class Kernel(Machine):
    ours: ClassVar[Backend] = staticmethod(kernel)
    uids = (0, 1000)
    filtered = False


class Direct(Machine):
    """Real mounts, and users other than root: there the kernel checks permissions."""

    ours: ClassVar[Backend]
    uids = (0, 1000)
    listed_at_once = False


@pytest.fixture(scope="module", autouse=True)
def served() -> Iterator[None]:
    with backends() as found:
        Direct.ours = staticmethod(found["direct"])
        yield


TestForgetting = Machine.TestCase
TestForgetting.settings = STEPS

TestRemembering = Remembering.TestCase
TestRemembering.settings = STEPS

TestDirect = pytest.mark.fuse(Direct.TestCase)
TestDirect.settings = settings(STEPS, max_examples=settings().max_examples // 3)  # a mount is slower

TestKernel = Kernel.TestCase
TestKernel.settings = settings(STEPS, max_examples=10)
