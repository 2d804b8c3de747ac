"""The state machine on each implementation; the kernel against itself shows that the machine is fair."""

from collections.abc import Iterator
from typing import ClassVar

import pytest
from hypothesis import settings

from tests.engines import backends
from tests.property.machine import Machine
from unionfs.testing.literal import ACL_DEFAULT
from unionfs.testing.stack import Backend, kernel, remembering

pytestmark = [pytest.mark.property, pytest.mark.root, pytest.mark.overlayfs]

STEPS = settings(stateful_step_count=25)


class Remembering(Machine):
    ours: ClassVar[Backend] = staticmethod(remembering)


class Kernel(Machine):
    ours: ClassVar[Backend] = staticmethod(kernel)
    uids = (0, 1000, 7)
    lacks = frozenset()
    filtered = False


class Direct(Machine):
    """Real mounts, and users other than root: there the kernel checks permissions."""

    ours: ClassVar[Backend]
    uids = (0, 1000, 7)
    lacks = frozenset()
    listed_at_once = False


class Pyfuse3(Direct):
    """The same without what the library cannot carry (`tests.engines.PYFUSE3_LACKS`)."""

    lacks = frozenset({"fallocate", "tmpfile", "copy_range", "getflags", "setflags", ACL_DEFAULT})
    compared = 0o171777
    tells_links = False
    filtered = False
    lists_refused = False


@pytest.fixture(scope="module", autouse=True)
def served() -> Iterator[None]:
    with backends() as found:
        Direct.ours, Pyfuse3.ours = staticmethod(found["direct"]), staticmethod(found["pyfuse3"])
        yield


TestForgetting = Machine.TestCase
TestForgetting.settings = STEPS

TestRemembering = Remembering.TestCase
TestRemembering.settings = STEPS

TestDirect = pytest.mark.fuse(Direct.TestCase)
TestDirect.settings = settings(STEPS, max_examples=settings().max_examples // 3)  # a mount is slower

TestPyfuse3 = pytest.mark.fuse(Pyfuse3.TestCase)
TestPyfuse3.settings = settings(STEPS, max_examples=settings().max_examples // 5)

TestKernel = Kernel.TestCase
TestKernel.settings = settings(STEPS, max_examples=10)
