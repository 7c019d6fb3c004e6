"""How long one inference takes, variants side by side in each runtime, on a machine that may be busy."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from reconvene.deploy.checking import Export, quantised
from reconvene.deploy.fidelity import fidelity
from reconvene.deploy.model_io import batch_size, leaves, own_inputs
from reconvene.deploy.options import FileOptions
from reconvene.deploy.planned import PLAN, bits_of
from reconvene.deploy.quantisation import PRECISIONS, stand_in
from reconvene.deploy.results import BenchResult, BenchRow
from reconvene.deploy.runtimes.base import Runtime, Session
from reconvene.deploy.runtimes.registry import runtime_named
from reconvene.deploy.sharing import shared_conversions
from reconvene.errors import ExportError, ModelError, ReconveneError, UnknownNameError
from reconvene.quantiser.activations import Range
from reconvene.structure.nesting import seeded
from reconvene.utils.machine import machine, now
from reconvene.utils.progress import note, stage, track

# A visit to a variant is repeated until it takes about this long: a clock's own cost must not show.
VISIT_SECONDS = 2e-3


@dataclass(frozen=True, eq=False)
class BenchData:
    """Real data beside the clock: ``calibration`` for int8, ``data`` (with targets) for agreement and quality.

    ``what`` says in words what ``data`` is; ``keep_fp32`` are the layers that int8 leaves alone; ``learned`` are ranges
    from quantisation-aware training, by variant, for the runtimes that take them; ``task`` is as for ``export``.
    """

    calibration: Iterable[Any] | None = None
    data: Iterable[Any] | None = None
    what: str = "real data"
    keep_fp32: Sequence[str] = ()
    learned: Mapping[str, Mapping[str, Range]] = field(default_factory=dict)
    task: str | None = None


@seeded
def time_variants(
    variants: Mapping[str, nn.Module | str | Path],
    example_inputs: Any = None,
    *,
    runtimes: Sequence[str] = ("onnxruntime", "eager"),
    precisions: Sequence[str] = ("fp32",),
    evidence: BenchData = BenchData(),  # frozen
    threads: int = 1,
    repeats: int = 30,
    seed: int = 0,
) -> BenchResult:
    """Time one inference of every variant in every runtime; the first variant is what the others are compared with.

    ``variants`` are modules, or files of the runtime's format (which the eager runtime cannot take);
    ``example_inputs`` are one batch, and every time is for that batch. Within a runtime variants and ``precisions``
    (``fp32``, ``int8``) take turns, ``repeats`` rounds in an order drawn from ``seed``, one untimed inference before
    each timed one, so that a busy neighbour hits all of them alike. With one thread the time is the processor time of
    the thread (``time.thread_time``), to which waiting adds nothing; with more it is wall time, since the processor
    time of other threads cannot be told apart. int8 needs ``evidence.calibration``; where it is too far from float32
    it is timed all the same, and its agreement tells. Eager has no int8. A float32 file that cannot be made is an
    error where no other runtime has one; else that runtime is left out, as an int8 file is, with the reason.

    Raises UnknownNameError, MissingExtraError, ModelError, DataError, ExportError.
    """
    if not variants:
        raise ModelError("there is nothing to bench: variants is empty")
    _check(precisions, evidence, threads, repeats)
    chosen = [runtime_named(name) for name in runtimes]
    for runtime in chosen:
        runtime.require(exporting=runtime.export is not None)
    first = next(iter(variants.values()))
    if example_inputs is None and not isinstance(first, nn.Module):
        raise ModelError("what the files take is not known. Pass example_inputs")
    inputs = own_inputs(first, example_inputs, seed=seed) if isinstance(first, nn.Module) else example_inputs
    rows: list[BenchRow] = []
    left_out: dict[str, str] = {}
    failure: ReconveneError | None = None
    for runtime in track(chosen, "runtimes", total=len(chosen)):
        entries = _Entries(runtime, inputs, precisions, evidence, left_out)
        try:
            with stage(runtime.name, summary=False):
                timed = _rows(entries, variants, threads=threads, repeats=repeats, seed=seed)
        except (ExportError, ModelError) as error:
            failure = failure or error
            left_out[runtime.name] = str(error)
            note(f"{runtime.name}: not timed: {error}")
            continue
        rows += timed
        note(f"{runtime.name}: {', '.join(map(_in_brief, timed))}")
    if not rows and failure is not None:
        raise failure
    return BenchResult(
        rows=tuple(rows),
        baseline=next(iter(variants)),
        batch=batch_size(inputs),
        inputs=tuple(tuple(tensor.shape) for tensor in leaves(inputs)),
        threads=threads,
        clock="thread" if threads == 1 else "wall",
        seed=seed,
        machine=machine(),
        versions={name: version for runtime in chosen for name, version in runtime.versions().items()},
        date=now(),
        data=evidence.what if evidence.data is not None else None,
        left_out=left_out,
    )


def measure_latency(
    model: nn.Module | str | Path,
    example_inputs: Any = None,
    *,
    precision: str = "fp32",
    threads: int = 1,
    repeats: int = 20,
    seed: int = 0,
    settled: Callable[[Callable[[], float]], float] | None = None,
) -> float:
    """Seconds one inference takes in ONNX Runtime: the median of thread time, of wall time with several threads.

    int8 is calibrated on noise, which tells as much about time as anything. ``settled`` may read that median as often
    as it likes and says which to believe, as ``devices.Stopwatch.time`` does; by default it is read once.

    Raises as ``bench`` does; MissingExtraError where ONNX Runtime is not installed.
    """
    evidence = BenchData()
    if precision == "int8" and isinstance(model, nn.Module):
        evidence = BenchData(calibration=[stand_in(own_inputs(model, example_inputs)).samples])
    _check((precision,), evidence, threads, repeats)
    runtime, left_out = runtime_named("onnxruntime"), dict[str, str]()
    runtime.require(exporting=True)
    inputs = own_inputs(model, example_inputs, seed=seed) if isinstance(model, nn.Module) else example_inputs
    if inputs is None:
        raise ModelError("what the file takes is not known. Pass example_inputs")
    with ExitStack() as stack:
        stack.enter_context(shared_conversions())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reconvene-bench-")))
        entries = _Entries(runtime, inputs, (precision,), evidence, left_out)
        entry = next(entries.targets({"model": model}, folder), None)
        if entry is None:
            raise ExportError(next(iter(left_out.values())))
        calls = [stack.enter_context(runtime.open(entry.target, threads)).bind(inputs)]

        def read() -> float:
            times = _rounds(calls, repeats=repeats, seed=seed)[0 if threads == 1 else 1]
            return float(np.median(times))

        return read() if settled is None else settled(read)


def _check(precisions: Sequence[str], evidence: BenchData, threads: int, repeats: int) -> None:
    """Raises ModelError, UnknownNameError, ExportError."""
    if threads < 1 or repeats < 1:
        raise ModelError(f"threads={threads} and repeats={repeats} must be at least 1")
    if unknown := [name for name in precisions if name not in (*PRECISIONS, PLAN)]:
        raise UnknownNameError("precision", unknown[0], [*PRECISIONS, PLAN])
    if not precisions:
        raise ModelError("there is nothing to bench: precisions is empty")
    if evidence.calibration is None and (by_data := [name for name in precisions if name != "fp32"]):
        raise ExportError(
            f"{by_data[0]} is calibrated on real data: give evidence=BenchData(calibration=...), or fp32 alone"
        )


@dataclass(frozen=True, eq=False)
class _Entry:
    """What one runtime opens: ``size`` in bytes; ``reference``: the network that its answers are compared with."""

    variant: str
    precision: str
    target: nn.Module | Path
    size: int | None
    reference: nn.Module | None


@dataclass
class _Entries:
    """What takes turns in one runtime."""

    runtime: Runtime
    inputs: Any
    precisions: Sequence[str]
    evidence: BenchData
    left_out: dict[str, str]

    def targets(self, variants: Mapping[str, nn.Module | str | Path], folder: Path) -> Iterator[_Entry]:
        """What is opened, one after the other; plans of bits of the variants that have one."""
        for i, (name, variant) in enumerate(variants.items()):
            if not isinstance(variant, nn.Module):
                size = Path(variant).stat().st_size if Path(variant).is_file() else None
                yield _Entry(name, "fp32", Path(variant), size, None)
                continue
            if self.runtime.export is None:
                yield _Entry(name, "fp32", variant, None, variant)
                continue
            for precision in self.precisions:
                if precision == PLAN and bits_of(variant) is None:
                    continue
                to = folder / f"{i}{precision}{self.runtime.suffix}"
                try:
                    yield self._written(name, variant, to, precision)
                except ExportError as error:
                    if precision == "fp32":
                        raise
                    self.left_out[f"{self.runtime.name} {name} {precision}"] = str(error)

    def _written(self, name: str, model: nn.Module, path: Path, precision: str) -> _Entry:
        evidence = self.evidence
        work = Export(self.runtime, model, own_inputs(model, self.inputs), None, FileOptions(), model)
        if precision != "fp32":
            learned = evidence.learned.get(name) if self.runtime.takes_ranges else None
            work = quantised(work, precision, evidence.calibration, evidence.keep_fp32, learned)
        files = work.write(path, work.settings).files
        return _Entry(name, precision, files[0], sum(file.stat().st_size for file in files), work.reference)

    def quality(self, entry: _Entry, session: Session) -> dict[str, Any]:
        """Agreement and quality of what is open, where there is data and the module to compare with."""
        if self.evidence.data is None or entry.reference is None:
            return {}
        comparison = fidelity(
            entry.reference,
            session,
            self.evidence.data,
            runtime=self.runtime.name,
            description=self.evidence.what,
            task=self.evidence.task,
        )
        return {"agreement": comparison.agreement, "quality": comparison.quality, "measure": comparison.measure}


def _rows(
    entries: _Entries, variants: Mapping[str, nn.Module | str | Path], *, threads: int, repeats: int, seed: int
) -> list[BenchRow]:
    runtime = entries.runtime
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reconvene-bench-")))
        names: list[tuple[str, str]] = []
        calls: list[Callable[[], object]] = []
        metrics: list[dict[str, Any]] = []
        for entry in entries.targets(variants, folder):
            session = stack.enter_context(runtime.open(entry.target, threads))
            metrics.append({"size": entry.size, **entries.quality(entry, session)})
            calls.append(session.bind(entries.inputs))
            names.append((entry.variant, entry.precision))
        thread, wall = _rounds(calls, repeats=repeats, seed=seed)
    times = thread if threads == 1 else wall
    for i, (_, precision) in enumerate(names):
        alike = names[0][0], "int8" if precision == PLAN else precision  # files of a plan compute in int8
        if alike in names:
            ratios = times[:, names.index(alike)] / np.maximum(times[:, i], 1e-9)
            metrics[i]["speedup_alike"] = float(np.median(ratios))
    return [
        BenchRow.of(runtime.name, *name, times[:, i], wall[:, i], times[:, 0], **metrics[i])
        for i, name in enumerate(names)
    ]


def _in_brief(row: BenchRow) -> str:
    """One row in a few words, for whoever waits for the others."""
    precision = "" if row.precision == "fp32" else f" {row.precision}"
    return f"{row.variant}{precision} {row.median * 1e3:.3f} ms"


def _rounds(
    calls: Sequence[Callable[[], object]], *, repeats: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Thread and wall seconds ``[repeats, len(calls)]`` of one call, the calls taking turns in a shuffled order."""
    loops = [_loops(call) for call in calls]
    thread, wall = np.zeros((repeats, len(calls))), np.zeros((repeats, len(calls)))
    generator = np.random.default_rng(seed)
    for round_ in track(range(repeats), "rounds", total=repeats):
        for i in generator.permutation(len(calls)):
            call = calls[i]
            call()  # brings the weights back into the cache that the others have just used
            wall_start, thread_start = time.perf_counter(), time.thread_time()
            for _ in range(loops[i]):
                call()
            thread_end, wall_end = time.thread_time(), time.perf_counter()
            thread[round_, i] = (thread_end - thread_start) / loops[i]
            wall[round_, i] = (wall_end - wall_start) / loops[i]
    return thread, wall


def _loops(call: Callable[[], object]) -> int:
    """How many calls make a visit long enough to time; runs the call a few times, which warms it up as well."""
    fastest = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        call()
        fastest = min(fastest, time.perf_counter() - start)
    return max(1, int(np.ceil(VISIT_SECONDS / max(fastest, 1e-7))))
