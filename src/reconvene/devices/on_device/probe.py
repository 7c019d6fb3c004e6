"""What layers cost on this device, as a function of their widths, measured in ONNX Runtime.

``python probe.pyz -o pi4.json`` runs it on a device. It needs numpy, onnxruntime and its neighbours, and nothing of
Reconvene, torch or onnx. Every layer is timed where it would stand in a network, between others in one
graph, by the runtime's own clock around each kernel, in the layout and with the fusions the runtime chooses.
"""

from __future__ import annotations

import argparse
import json
import os
import pkgutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .bench import LayerBench
from .facts import conditions, describe_layer
from .layer_spec import LayerJob, MeasuredLayer
from .layers import chain
from .sessions import SLOW, NetworkSpec, Pace, time_networks

FORMAT, VERSION = "reconvene-device-profile", 1
# What the device was disturbed at is measured at most so often, and it is waited for so many seconds: for all layers
# together, and for each of what is measured before them.
TRIES, PATIENCE, BRIEFLY = 4, 90.0, 10.0
# Seconds of work after which a device that rested is at its best pace.
LEARNING = 3.0


def profile(
    jobs: Sequence[LayerJob],
    *,
    threads: int = 1,
    precision: str = "fp32",
    network_bytes: int = 64 << 20,
    networks: Sequence[NetworkSpec] = (),
    report: Callable[[int, int, str], None] = lambda done, total, text: None,
    earlier: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The device profile of these jobs: JSON types, seconds.

    Args:
        jobs: layers, and up to which widths to measure them.
        threads: of the runtime, within an operator.
        precision: ``fp32`` or ``int8``.
        network_bytes: weights of the largest network, in bytes.
        networks: whole networks of these jobs, to time as well.
        report: called before each measurement: how many are done, of how many, and what is measured now.
        earlier: ``steps``, ``memory``, ``overhead`` and ``pace`` of an earlier profile of the same device.
    """
    start = time.perf_counter()
    bench = LayerBench(threads, precision)
    pace = reference(threads, (earlier or {}).get("pace", 0.0))
    pace.learn(0.0 if earlier else LEARNING)
    basis = earlier or {
        quantity: _calmly(pace, getattr(bench, quantity)) for quantity in ("memory", "steps", "overhead")
    }
    steps = basis["steps"]
    layers, noise = measured_jobs(bench, pace, jobs, steps, network_bytes, report)
    pace.close()
    report(len(jobs), len(jobs) + 1, f"{len(networks)} whole networks" if networks else "all layers at once")
    # Networks give the time of layers together; without networks all layers run in one graph instead.
    thirds = () if networks else range(3)
    joint_timings = [timing for third in thirds if (timing := bench.whole(layers, third, network_bytes))]
    took = time_networks(networks, threads)
    return {
        "format": FORMAT,
        "version": VERSION,
        **conditions(threads, precision),
        "noise": round(noise, 4),
        "seconds": round(time.perf_counter() - start, 1),
        **basis,
        "pace": round(pace.best, 9),
        "far_bytes": network_bytes,
        "whole": joint_timings,
        "networks": [{"layers": network_layers, "seconds": each} for (network_layers, _), each in zip(networks, took)],
        "layers": [layer.to_dict() for layer in layers],
    }


def _calmly(pace: Pace, measure: Callable[[], Any]) -> Any:
    """A measurement between two readings of the device at its best pace, or the last of a few tries."""
    for _ in range(TRIES):
        pace.wait(BRIEFLY)
        measurement = measure()
        if not pace.disturbed():
            break
    return measurement


def reference(threads: int, best: float = 0.0) -> Pace:
    """The pace of this device, whose ``best`` so far may be known."""
    return Pace(chain(65).to_bytes(), threads, best or float("inf"))


def measured_jobs(
    bench: LayerBench,
    pace: Pace,
    jobs: Sequence[LayerJob],
    steps: Mapping[str, int],
    network_bytes: int,
    report: Callable[[int, int, str], None],
) -> tuple[list[MeasuredLayer], float]:
    """The jobs with what every point took at the device's best pace, and how much slower it was for the worst tenth.

    Jobs that were disturbed come again when all others are through: what disturbs lasts for seconds. Of several tries
    every point keeps the least.
    """
    measured: dict[int, MeasuredLayer] = {}
    slowest, pending = [float("inf")] * len(jobs), list(range(len(jobs)))
    patience = PATIENCE
    for attempt in range(TRIES if jobs else 0):
        for number in pending:
            # Jobs that come again are not counted twice: as many are done as were measured once.
            done = number if not attempt else len(jobs)
            report(done, len(jobs) + 1, f"{describe_layer(jobs[number])}{', again' * bool(attempt)}")
            patience -= pace.wait(patience if attempt else 0.0)
            before = pace.last
            layer = bench.measure(jobs[number], steps, network_bytes)
            measured[number] = _lesser(measured.get(number, layer), layer)
            slowest[number] = min(slowest[number], max(before, pace.now()))
        pending = [number for number in pending if slowest[number] > SLOW * pace.best]
        if not pending:
            break
    noise = float(np.quantile(slowest, 0.9)) / pace.best - 1 if jobs else 0.0
    return [measured[number] for number in range(len(jobs))], noise


def _lesser(earlier: MeasuredLayer, later: MeasuredLayer) -> MeasuredLayer:
    """The least time of two tries, point by point."""
    points, far = (
        tuple(min(pair, key=lambda timing: timing[2]) for pair in zip(*tries))
        for tries in ((earlier.points, later.points), (earlier.far, later.far))
    )
    return replace(later, points=points, far=far)


def _printed(start: float) -> Callable[[int, int, str], None]:
    """Lines on stderr: what is measured, how much is done, and about how many seconds are left."""

    def report(done: int, total: int, text: str) -> None:
        left = f", about {(time.monotonic() - start) / done * (total - done):.0f} s left" if done else ""
        print(f"{done}/{total} {text}{left}", file=sys.stderr, flush=True)

    return report


def _packed(name: str) -> bytes:
    """What came with this package, in the same archive."""
    return pkgutil.get_data(__name__, name) or b""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the jobs of a file and write the profile."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jobs", type=Path, nargs="?", help="what to measure; by default what came with this file")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    if not options.output.absolute().parent.is_dir():
        parser.error(f"{options.output} cannot be written: there is no folder {options.output.absolute().parent}")
    if options.output.is_dir():
        parser.error(f"{options.output} is a folder. Name a file in it")
    partial = options.output.with_name(options.output.name + ".part")
    try:
        partial.touch()  # said now, not after minutes of measuring
        partial.unlink()
    except OSError as error:
        parser.error(f"{options.output} cannot be written: {error.strerror or error}")
    try:
        request = json.loads(options.jobs.read_bytes() if options.jobs else _packed("jobs.json"))
        jobs = [LayerJob.from_dict(job) for job in request["jobs"]]
        threads, far, precision = (request[key] for key in ("threads", "far", "precision"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"{options.jobs or 'jobs.json'} is no list of layers to measure: {error!r}")
    result = profile(
        jobs,
        threads=threads,
        network_bytes=far,
        precision=precision,
        networks=[
            (network_layers, _packed(f"network{number}.onnx"))
            for number, network_layers in enumerate(request.get("networks", ()))
        ],
        report=_printed(time.monotonic()),
    )
    result["name"] = options.output.stem
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, options.output)
    return 0
