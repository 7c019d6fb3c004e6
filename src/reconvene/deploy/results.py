"""What a benchmark measured."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reconvene.text import table


@dataclass(frozen=True)
class BenchRow:
    """One variant in one runtime; seconds for one inference of the batch.

    Attributes:
        median: of the benchmark's clock; ``quarter`` and ``three_quarters`` are the quartiles around it.
        min_wall: the fastest round in wall time.
        speedup: median over the rounds of baseline time over this time, each pair from the same round; with quartiles.
    """

    runtime: str
    variant: str
    median: float
    quarter: float
    three_quarters: float
    min_wall: float
    speedup: float
    speedup_quarter: float
    speedup_three_quarters: float
    rounds: int

    @classmethod
    def of(
        cls,
        runtime: str,
        variant: str,
        times: NDArray[np.float64],
        wall: NDArray[np.float64],
        base: NDArray[np.float64],
    ) -> BenchRow:
        """Summarise the rounds of one variant beside those of the baseline."""
        q1, q2, q3 = (float(q) for q in np.quantile(times, (0.25, 0.5, 0.75)))
        s1, s2, s3 = (float(s) for s in np.quantile(base / np.maximum(times, 1e-9), (0.25, 0.5, 0.75)))
        return cls(runtime, variant, q2, q1, q3, float(wall.min()), s2, s1, s3, len(times))


@dataclass(frozen=True)
class BenchResult:
    """Latency of every variant in every runtime, and all that is needed to repeat the measurement.

    ``clock`` is ``thread`` (processor time of the one thread) or ``wall``; times are seconds for ``batch`` samples.
    """

    rows: tuple[BenchRow, ...]
    baseline: str
    batch: int
    inputs: tuple[tuple[int, ...], ...]
    threads: int
    clock: str
    seed: int
    machine: dict[str, str | int]
    versions: dict[str, str]
    date: str

    def row(self, runtime: str, variant: str) -> BenchRow:
        """The row of one variant in one runtime."""
        return next(row for row in self.rows if (row.runtime, row.variant) == (runtime, variant))

    def __str__(self) -> str:
        header = ("runtime", "variant", f"{self.clock} ms", "quartiles", "min wall ms", "speed-up", "quartiles")
        rows = []
        for row in self.rows:
            ratio, spread = f"{row.speedup:.2f}x", f"{row.speedup_quarter:.2f} - {row.speedup_three_quarters:.2f}"
            if row.variant == self.baseline:
                ratio, spread = "1", ""
            around = f"{row.quarter * 1e3:.3f} - {row.three_quarters * 1e3:.3f}"
            times = (f"{row.median * 1e3:.3f}", around, f"{row.min_wall * 1e3:.3f}")
            rows.append((row.runtime, row.variant, *times, ratio, spread))
        return table(header, rows, right=range(2, 7), foot=[self._conditions()])

    def _conditions(self) -> str:
        threads = f"{self.threads} thread" + ("s" if self.threads > 1 else "")
        libraries = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        processor = self.machine["processor"]
        return f"batch {self.batch}, {threads}, {self.rows[0].rounds} rounds, {processor}, {libraries}, {self.date}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; seconds."""
        return asdict(self)

    def to_json(self) -> str:
        """JSON text of ``to_dict``."""
        return json.dumps(self.to_dict(), indent=2)
