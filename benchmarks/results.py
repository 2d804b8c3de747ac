"""What a run leaves behind: every sample, the machine, the kernel and the commit; and the figures drawn from them."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Results", "Sample", "Spread", "geometric_mean", "machine", "spread"]


class Sample(NamedTuple):
    """One measurement."""

    elapsed_ns: int
    operations: int
    cpu_s: float
    """CPU time of all that took part, the processes that serve the mount included."""


class Spread(NamedTuple):
    """A median between its quartiles."""

    low: float
    median: float
    high: float


def spread(values: Iterable[float]) -> Spread | None:
    """Return the median and the quartiles; None if there is no value."""
    found = sorted(values)
    if not found:
        return None
    if len(found) == 1:
        return Spread(found[0], found[0], found[0])
    return Spread(*statistics.quantiles(found, n=4, method="inclusive"))


def geometric_mean(values: Iterable[float]) -> float | None:
    """Return the geometric mean, the only one that is the same for ratios and their inverses; None of nothing."""
    logs = [math.log(value) for value in values]
    return math.exp(statistics.fmean(logs)) if logs else None


def machine() -> dict[str, object]:
    """Describe what the numbers depend on."""
    here = Path(__file__).parent
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    )
    model = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "cpu": model[0] if model else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip() or "unknown",
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "load": os.getloadavg()[0],
    }


@dataclass(slots=True)
class Results:
    """Samples by row, contender and round."""

    about: dict[str, object]
    samples: dict[str, dict[str, dict[int, Sample]]] = field(default_factory=dict)
    failures: dict[str, dict[str, str]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    by_cpu: bool = False
    """Figures are CPU times; else elapsed ones."""

    def add(self, row: str, contender: str, number: int, sample: Sample) -> None:
        self.samples.setdefault(row, {}).setdefault(contender, {})[number] = sample

    def fail(self, row: str, contender: str, why: str) -> None:
        self.failures.setdefault(row, {})[contender] = why

    def time(self, row: str, contender: str) -> Spread | None:
        """Return nanoseconds for one run of the row's work."""
        return spread(map(self.figure, self.samples.get(row, {}).get(contender, {}).values()))

    def figure(self, sample: Sample) -> float:
        return sample.cpu_s * 1e9 if self.by_cpu else sample.elapsed_ns

    def each(self, row: str, contender: str) -> Spread | None:
        """Return nanoseconds for one operation of the row's work."""
        taken = self.samples.get(row, {}).get(contender, {}).values()
        return spread(self.figure(sample) / sample.operations for sample in taken)

    def ratio(self, row: str, contender: str, to: str, to_row: str | None = None) -> Spread | None:
        """Return how many times as long as *to* it took: the spread of the ratios taken within each round."""
        ours = self.samples.get(row, {}).get(contender, {})
        theirs = self.samples.get(to_row or row, {}).get(to, {})
        return spread(self.figure(ours[turn]) / self.figure(theirs[turn]) for turn in ours.keys() & theirs.keys())

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")
