"""The state machine on each implementation; the kernel against itself shows that the machine is fair."""

from typing import ClassVar

import pytest
from hypothesis import settings

from tests.property.machine import Machine
from unionfs.testing.stack import Backend, kernel, remembering

pytestmark = [pytest.mark.property, pytest.mark.fuzz, pytest.mark.root, pytest.mark.overlayfs]

STEPS = settings(stateful_step_count=25)


class Remembering(Machine):
    ours: ClassVar[Backend] = staticmethod(remembering)


class Kernel(Machine):
    ours: ClassVar[Backend] = staticmethod(kernel)
    uids = (0, 1000)
    filtered = False


TestForgetting = Machine.TestCase
TestForgetting.settings = STEPS

TestRemembering = Remembering.TestCase
TestRemembering.settings = STEPS

TestKernel = Kernel.TestCase
TestKernel.settings = settings(STEPS, max_examples=10)
