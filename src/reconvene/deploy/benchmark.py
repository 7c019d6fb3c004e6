"""How long one inference takes, variants side by side in each runtime, on a machine that may be busy."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from reconvene.deploy.calling import batch_size, leaves, own_inputs
from reconvene.deploy.machine import machine, now
from reconvene.deploy.registry import runtime_named
from reconvene.deploy.results import BenchResult, BenchRow
from reconvene.deploy.runtime import Runtime
from reconvene.errors import ModelError

# A visit to a variant is repeated until it takes about this long: a clock's own cost must not show.
VISIT_SECONDS = 2e-3


def bench(
    variants: Mapping[str, nn.Module | str | Path],
    example_inputs: Any = None,
    *,
    runtimes: Sequence[str] = ("onnxruntime", "eager"),
    threads: int = 1,
    repeats: int = 30,
    seed: int = 0,
) -> BenchResult:
    """Time one inference of every variant in every runtime; the first variant is what the others are compared with.

    ``variants`` are modules, or files of the runtime's format (which the eager runtime cannot take);
    ``example_inputs`` are one batch, and every time is for that batch. Within a runtime the variants take turns,
    ``repeats`` rounds in an order drawn from ``seed``, one untimed inference before each timed one, so that a busy
    neighbour hits all of them alike. With one thread the time is the processor time of the thread
    (``time.thread_time``), to which waiting adds nothing; with more it is wall time, since the processor time of
    other threads cannot be told apart.

    Raises UnknownNameError, MissingExtraError, ModelError, ExportError.
    """
    if not variants:
        raise ModelError("there is nothing to bench: variants is empty")
    if threads < 1 or repeats < 1:
        raise ModelError(f"threads={threads} and repeats={repeats} must be at least 1")
    chosen = [runtime_named(name) for name in runtimes]
    first = next(iter(variants.values()))
    if example_inputs is None and not isinstance(first, nn.Module):
        raise ModelError("what the files take is not known. Pass example_inputs")
    inputs = own_inputs(first, example_inputs, seed=seed) if isinstance(first, nn.Module) else example_inputs
    rows: list[BenchRow] = []
    versions: dict[str, str] = {}
    for runtime in chosen:
        versions |= runtime.versions()
        rows += _rows(runtime, variants, inputs, threads=threads, repeats=repeats, seed=seed)
    return BenchResult(
        rows=tuple(rows),
        baseline=next(iter(variants)),
        batch=batch_size(inputs),
        inputs=tuple(tuple(tensor.shape) for tensor in leaves(inputs)),
        threads=threads,
        clock="thread" if threads == 1 else "wall",
        seed=seed,
        machine=machine(),
        versions=versions,
        date=now(),
    )


def latency(model: nn.Module | str | Path, example_inputs: Any = None, *, repeats: int = 20, seed: int = 0) -> float:
    """Seconds one inference takes in ONNX Runtime on one thread: the median of thread time.

    Raises as ``bench`` does; MissingExtraError where ONNX Runtime is not installed.
    """
    result = bench({"model": model}, example_inputs, runtimes=("onnxruntime",), repeats=repeats, seed=seed)
    return result.rows[0].median


def _rows(
    runtime: Runtime,
    variants: Mapping[str, nn.Module | str | Path],
    inputs: Any,
    *,
    threads: int,
    repeats: int,
    seed: int,
) -> list[BenchRow]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reconvene-bench-")))
        calls: dict[str, Callable[[], object]] = {}
        for i, (name, variant) in enumerate(variants.items()):
            target: nn.Module | Path = variant if isinstance(variant, nn.Module) else Path(variant)
            if isinstance(target, nn.Module) and runtime.export is not None:
                target = runtime.export(target, own_inputs(target, inputs), folder / f"{i}{runtime.suffix}")[0]
            calls[name] = stack.enter_context(runtime.open(target, threads)).bind(inputs)
        thread, wall = _rounds(list(calls.values()), repeats=repeats, seed=seed)
    times = thread if threads == 1 else wall
    return [BenchRow.of(runtime.name, name, times[:, i], wall[:, i], times[:, 0]) for i, name in enumerate(calls)]


def _rounds(
    calls: Sequence[Callable[[], object]], *, repeats: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Thread and wall seconds ``[repeats, len(calls)]`` of one call, the calls taking turns in a shuffled order."""
    loops = [_loops(call) for call in calls]
    thread, wall = np.zeros((repeats, len(calls))), np.zeros((repeats, len(calls)))
    generator = np.random.default_rng(seed)
    for round_ in range(repeats):
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
