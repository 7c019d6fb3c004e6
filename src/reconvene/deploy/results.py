"""What a benchmark measured."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reconvene.tasks import task_compared_by
from reconvene.utils.tables import faster, text_table


@dataclass(frozen=True)
class BenchRow:
    """One variant in one runtime and precision; seconds for one inference of the batch.

    Attributes:
        median: of the benchmark's clock; ``quarter`` and ``three_quarters`` are the quartiles around it.
        min_wall: the fastest round in wall time.
        speedup: median over the rounds of baseline time over this time, each pair from the same round; with quartiles.
        speedup_alike: the same beside the baseline in this row's own precision (of ``plan``, in int8); ``None`` where
            that was not timed.
        size: bytes of the files; ``None`` for a module that is run as it is.
        agreement: share of predictions, as the task counts them, that the same variant in PyTorch in float32 has, too;
            of ``plan``, that variant with its weights rounded as in the file.
        quality: the share that the task measures quality by (accuracy, Dice, PQ), on the same samples, which
            ``measure`` names. All three are ``None`` where no data was given.
    """

    runtime: str
    variant: str
    precision: str
    median: float
    quarter: float
    three_quarters: float
    min_wall: float
    speedup: float
    speedup_quarter: float
    speedup_three_quarters: float
    rounds: int
    size: int | None = None
    agreement: float | None = None
    quality: float | None = None
    measure: str | None = None
    speedup_alike: float | None = None

    @classmethod
    def of(
        cls,
        runtime: str,
        variant: str,
        precision: str,
        times: NDArray[np.float64],
        wall: NDArray[np.float64],
        base: NDArray[np.float64],
        **metrics: Any,
    ) -> BenchRow:
        """Summarise the rounds of one variant beside those of the baseline; ``metrics`` are the last attributes."""
        q1, q2, q3 = (float(q) for q in np.quantile(times, (0.25, 0.5, 0.75)))
        s1, s2, s3 = (float(s) for s in np.quantile(base / np.maximum(times, 1e-9), (0.25, 0.5, 0.75)))
        return cls(runtime, variant, precision, q2, q1, q3, float(wall.min()), s2, s1, s3, len(times), **metrics)


@dataclass(frozen=True)
class BenchResult:
    """Latency of every variant in every runtime, and all that is needed to repeat the measurement.

    ``clock`` is ``thread`` (processor time of the one thread) or ``wall``; times are seconds for ``batch`` samples.
    The baseline of a runtime is the first variant in float32. ``data`` says what agreement and quality are from;
    ``left_out`` says, by ``runtime variant precision`` or by a whole ``runtime``, why something has no row.
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
    data: str | None = None
    left_out: dict[str, str] = field(default_factory=dict)

    def row(self, runtime: str, variant: str, precision: str = "fp32") -> BenchRow:
        """The row of one variant in one runtime and precision."""
        key = (runtime, variant, precision)
        return next(row for row in self.rows if (row.runtime, row.variant, row.precision) == key)

    def __str__(self) -> str:
        header = ["runtime", "variant", "", f"{self.clock} ms", "quartiles", "min wall ms", "speed-up", "quartiles"]
        header += ["bytes", "agreement", next((row.measure for row in self.rows if row.measure), "quality")]
        rows = []
        for row in self.rows:
            ratio, spread = faster(row.speedup), f"{row.speedup_quarter:.2f} - {row.speedup_three_quarters:.2f}"
            if row.variant == self.baseline and row.precision == "fp32":
                ratio, spread = "1", ""
            around = f"{row.quarter * 1e3:.3f} - {row.three_quarters * 1e3:.3f}"
            times = (f"{row.median * 1e3:.3f}", around, f"{row.min_wall * 1e3:.3f}")
            size = "-" if row.size is None else f"{row.size:,}"
            agreement = "-" if row.agreement is None else f"{row.agreement:.2%}"
            quality = "-" if row.quality is None else task_compared_by(row.measure).show(row.quality)
            rows.append((row.runtime, row.variant, row.precision, *times, ratio, spread, size, agreement, quality))
        # a column of nothing but dashes tells nothing
        columns = [i for i in range(len(header)) if i < 8 or any(row[i] != "-" for row in rows)]
        cells = [[row[i] for i in columns] for row in rows]
        clock = {
            "thread": "thread ms: processor time of the one thread; waiting for other programs adds nothing to it",
            "wall": "wall ms: time as a clock on the wall tells it",
        }
        missing = [
            *(f"left out: {entry}: {reason}" for entry, reason in self.left_out.items()),
            *([clock[self.clock]] if self.clock in clock else []),
        ]
        names = [header[i] for i in columns]
        return text_table(names, cells, right=range(3, len(names)), foot=[*missing, self._conditions()])

    def _conditions(self) -> str:
        threads = f"{self.threads} thread" + ("s" if self.threads > 1 else "")
        libraries = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        data = f", agreement on {self.data}" if self.data else ""
        processor, rounds = self.machine["processor"], max((row.rounds for row in self.rows), default=0)
        return f"batch {self.batch}, {threads}, {rounds} rounds, {processor}, {libraries}, {self.date}{data}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; seconds."""
        return asdict(self)

    def to_json(self) -> str:
        """JSON text of ``to_dict``."""
        return json.dumps(self.to_dict(), indent=2)
