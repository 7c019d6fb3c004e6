"""How well device profiles predict, how well budgets on latency are kept, and what a fleet of budgets costs.

``python benchmarks/latency.py predict MODEL [--plans 50]``: random plans, predicted and measured on this machine,
unaligned widths included. ``budgets MODEL``: five budgets, asked, predicted and measured. ``fleet``: fifty budgets of
one model planned together and one by one; ``monotone MODEL``: ever tighter budgets, with and without
the device's step. Every call adds JSON lines to ``benchmarks/results/latency.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

import reconvene as rc
from reconvene import devices, models
from reconvene.costs import listed_costs
from reconvene.deploy.benchmark import measure_latency
from reconvene.deploy.runtimes.onnx.runtime import export_onnx
from reconvene.devices.latency_cost import DeviceLatency
from reconvene.devices.on_device import probe
from reconvene.errors import StructureError
from reconvene.planning.measuring.networks import cut_groups, networks_to_time
from reconvene.planning.pruning import plan_with
from reconvene.planning.session import Planner
from reconvene.planning.target import ROUND_TO, parameter_bytes, resolve_profile
from reconvene.structure import analyse
from reconvene.structure.pruned_sizes import settle
from reconvene.utils.machine import machine, now
from reconvene.utils.progress import notes_to

RESULTS = Path(__file__).parent / "results" / "latency.jsonl"
PASSES = 5
PREPARED = Path(__file__).parents[1] / "out" / "latency"


def note(row: dict[str, Any]) -> None:
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**row, "machine": machine(), "date": now()}) + "\n")


def prepare(name: str, plans: int, steps: tuple[int, ...]) -> Path:
    """Random plans of a network as ONNX files, made once: only timing them needs an idle machine."""
    folder = PREPARED / name.replace(":", "-")
    if (folder / "plans.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    source = models.resolve_address(name, {})
    model, inputs = source.build().eval(), models.example_inputs(source.input_shape)
    structure = analyse(model, inputs)
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = [{"file": "dense.onnx", "round_to": 0, "widths": structure.widths.tolist()}]
    export_onnx(model, inputs, folder / "dense.onnx")
    while len(rows) <= plans:
        step = int(rng.choice(steps))
        share = np.clip(rng.uniform(0.05, 1) * rng.uniform(0.6, 1.4, len(structure.widths)), 0.03, 1)
        want = np.clip(np.round(structure.widths * share / step) * step, 1, structure.widths).astype(np.int64)
        widths = settle(structure.balances, want, structure.widths)
        try:
            small = cut_groups(model, inputs, structure, widths).eval()
        except StructureError:
            continue
        file = f"{len(rows)}.onnx"
        if not (folder / file).exists():  # else an earlier call was stopped later
            export_onnx(small, inputs, folder / "unfinished.onnx").pop().replace(folder / file)
        rows.append({"file": file, "round_to": step, "widths": widths.tolist()})
    made = networks_to_time(model, inputs, structure)
    for count, (_, file) in enumerate(made):
        (folder / f"yardstick{count}.onnx").write_bytes(file)
    (folder / "yardsticks.json").write_text(json.dumps([layers for layers, _ in made]), encoding="utf-8")
    (folder / "plans.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def predict(name: str, plans: int, steps: tuple[int, ...]) -> None:
    folder = prepare(name, plans, steps)
    drawn = json.loads((folder / "plans.json").read_text(encoding="utf-8"))
    source = models.resolve_address(name, {})
    model, inputs = source.build().eval(), models.example_inputs(source.input_shape)
    structure = analyse(model, inputs)
    own = json.loads((folder / "yardsticks.json").read_text(encoding="utf-8"))
    networks = [(layers, (folder / f"yardstick{count}.onnx").read_bytes()) for count, layers in enumerate(own)]
    profile = devices.measure_device(
        devices.jobs(devices.sites(structure)), far=parameter_bytes(model), networks=networks
    )
    devices.save_profile(profile, folder / "profile.json")
    # One network by itself, as it will run: taking turns, each would find the caches cold. The fastest of several
    # passes, as the profile has the device at its best pace: others on the host slow it for seconds at a time.
    passes = [[measure_latency(folder / row["file"], inputs, repeats=15) for row in drawn] for _ in range(PASSES)]
    for row, found in zip(drawn, np.transpose(passes), strict=True):
        row["measured"], row["spread"] = float(found.min()), float(found.max() / found.min() - 1)
    (folder / "measured.json").write_text(json.dumps(drawn), encoding="utf-8")
    judge(name, steps)


def judge(name: str, steps: tuple[int, ...]) -> None:
    """Predict what was measured last, and note how far off it was."""
    folder = PREPARED / name.replace(":", "-")
    drawn = json.loads((folder / "measured.json").read_text(encoding="utf-8"))
    profile = devices.find(folder / "profile.json")
    source = models.resolve_address(name, {})
    structure = analyse(source.build().eval(), models.example_inputs(source.input_shape))
    predictor = devices.Predictor(structure, profile)
    rows = [(predictor.seconds(np.array(row["widths"])), row["measured"], row["round_to"]) for row in drawn]
    scale = rows[0][1] / rows[0][0]
    errors = np.array([p / m - 1 for p, m, _ in rows[1:]])
    scaled = np.array([p * scale / m - 1 for p, m, _ in rows[1:]])
    facts = {
        "what": "predict",
        "model": name,
        "plans": len(rows) - 1,
        "rounding": list(steps),
        "profile_seconds": profile.seconds,
        "profile_noise": profile.noise,
        "yardsticks": len(profile.networks),
        "tries": probe.TRIES,
        "spread_between_passes": float(np.median([row["spread"] for row in drawn])),
        "median_error": float(np.median(np.abs(errors))),
        "worst_error": float(np.abs(errors).max()),
        "median_error_scaled_by_dense": float(np.median(np.abs(scaled))),
        "worst_error_scaled_by_dense": float(np.abs(scaled).max()),
        "rows": [{"predicted": p, "measured": m, "round_to": s} for p, m, s in rows],
        "versions": {"onnxruntime": profile.runtime["version"]},
    }
    note(facts)
    print(json.dumps({key: value for key, value in facts.items() if key != "rows"}, indent=1))


def budgets(name: str, values: list[str]) -> None:
    source = models.resolve_address(name, {})
    model, inputs = source.build(), models.example_inputs(source.input_shape)
    planner = Planner(model, inputs, "synflow", density=1 / 16)
    profile = resolve_profile(planner, None)
    for asked in values:
        start = time.perf_counter()
        said: list[str] = []
        row: dict[str, Any] = {"what": "budgets", "model": name, "asked": asked}
        try:
            with notes_to(said.append):
                plan = plan_with(planner, rc.Budget(latency=asked))
            limit, found = plan.limits["latency"], plan.costs["pruned"]["latency"]
            with closing(devices.Stopwatch(devices.reference(1, profile.pace))) as watch:
                again = measure_latency(plan.apply(model), inputs, settled=watch.time)
            row |= {"limit": limit, "measured": found, "measured_again": again, "used": found / limit, "said": said}
            widths = np.array([group.width for group in plan.rows], dtype=np.int64)
            # What the profile alone says, before any network was timed.
            row["predicted"] = devices.Predictor(planner.prepared.structure, profile).seconds(widths)
            row |= {"notes": plan.remarks, "costs": plan.costs}
        except rc.ReconveneError as error:
            row["refused"] = str(error)
        note({**row, "seconds": time.perf_counter() - start})
        print({key: value for key, value in row.items() if key not in ("said", "costs")}, flush=True)


def monotone(name: str) -> None:
    """Plans for ever tighter budgets, as wide as the device's steps allow and as odd as they like, all timed."""
    source = models.resolve_address(name, {})
    model, inputs = source.build(), models.example_inputs(source.input_shape)
    planner = Planner(model, inputs, "synflow", density=1 / 16)
    profile = resolve_profile(planner, None)
    dense = measure_latency(model, inputs, repeats=15)
    scale = dense / devices.Predictor(planner.prepared.structure, profile).seconds(planner.prepared.structure.widths)
    step = max(ROUND_TO, profile.steps["out"])
    costs = {**listed_costs(), "latency": DeviceLatency(profile)}
    rows = []
    for share in np.linspace(0.95, 0.15, 17):
        for round_to in (step, 1):
            budget = rc.Budget(latency=f"{share * dense:.9f}s")
            aim = {"latency": share * dense / scale}
            plan = planner.plan(budget, costs=costs, limits=aim, round_to=round_to)
            seconds = measure_latency(plan.apply(model), inputs, repeats=15)
            rows.append({"limit": share * dense, "round_to": round_to, "measured": seconds})
            print(rows[-1], flush=True)
    note({"what": "monotone", "model": name, "dense": dense, "step": step, "steps": profile.steps, "rows": rows})


def fleet(name: str = "torchvision:resnet18", count: int = 50) -> None:
    source = models.resolve_address(name, {})
    model, inputs = source.build(), models.example_inputs(source.input_shape)
    asked = [rc.Budget(params=float(share)) for share in np.geomspace(0.9, 0.02, count)]
    start = time.perf_counter()
    planner = Planner(model, inputs)
    for budget in asked:
        plan_with(planner, budget)
    together = time.perf_counter() - start
    start = time.perf_counter()
    for budget in asked:
        rc.plan(model, inputs, budget)
    alone = time.perf_counter() - start
    row = {"what": "fleet", "model": name, "budgets": count, "together": together, "alone": alone}
    note(row)
    print(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "predict", "judge", "budgets", "monotone", "fleet"))
    parser.add_argument("model", nargs="?", default="torchvision:resnet18")
    parser.add_argument("--plans", type=int, default=50)
    parser.add_argument("--round-to", type=int, nargs="*", default=[4, 8, 16])
    parser.add_argument("--asked", nargs="*", default=["1.5x", "2x", "3x", "4x", "6x"])
    options = parser.parse_args()
    if options.what == "prepare":
        print(prepare(options.model, options.plans, tuple(options.round_to)))
    elif options.what == "predict":
        predict(options.model, options.plans, tuple(options.round_to))
    elif options.what == "judge":
        judge(options.model, tuple(options.round_to))
    elif options.what == "budgets":
        budgets(options.model, options.asked)
    elif options.what == "monotone":
        monotone(options.model)
    else:
        fleet(options.model)


if __name__ == "__main__":
    main()
