"""Look for a difference from the kernel's overlayfs for as long as one has time: ``make fuzz``.

The state machine runs in rounds, new examples each time, by turns on each implementation; the mounts of the
direct engine get the most of it. The first difference ends it: hypothesis prints the shortest way there that it finds.

    python -m tests.property.fuzz --minutes 60 --only direct pyfuse3 --on ext4
"""

import argparse
import itertools
import sys
import time
from collections import Counter
from functools import partial

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.engines import backends
from tests.property.machine import Machine
from tests.property.test_machine import Direct, Pyfuse3, Remembering
from unionfs.testing import disk

MACHINES: dict[str, type[Machine]] = {
    "direct": Direct,
    "pyfuse3": Pyfuse3,
    "forgetting": Machine,
    "remembering": Remembering,
}
EXAMPLES = {"direct": 60, "pyfuse3": 15, "forgetting": 30, "remembering": 30}
"""How many a round tries; a round is about a minute."""

STEPS = 40
PHASES = (Phase.generate, Phase.shrink)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="how long (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=list(MACHINES), default=list(MACHINES), metavar="NAME")
    parser.add_argument("--on", choices=list(disk.DISKS), help="the layers' file system (default: tmpfs)")
    arguments = parser.parse_args()
    if arguments.on is not None:
        Machine.room = staticmethod(partial(disk.on_disk, arguments.on))
    start = time.monotonic()
    tried: Counter[str] = Counter()
    with backends() as served:
        Direct.ours, Pyfuse3.ours = staticmethod(served["direct"]), staticmethod(served["pyfuse3"])
        for name in itertools.cycle(arguments.only):
            if time.monotonic() - start > arguments.minutes * 60:
                return 0
            run_state_machine_as_test(MACHINES[name], settings=_settings(EXAMPLES[name]))
            tried[name] += EXAMPLES[name]
            runs = ", ".join(f"{count} {each}" for each, count in tried.items())
            print(f"{(time.monotonic() - start) / 60:5.1f} min without a difference: {runs} runs", flush=True)
    return 0


def _settings(examples: int) -> settings:
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        derandomize=False,
        database=None,
        phases=PHASES,
        suppress_health_check=quiet,
    )


if __name__ == "__main__":
    sys.exit(main())
