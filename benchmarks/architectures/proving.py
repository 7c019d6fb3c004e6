"""The proof of one architecture: structure, half of it removed, replayed, held against the silenced reference, trained.

Runs in a process of its own. What is known so far goes to ``tell`` after every stage, so that a process that is ended
for its time or memory leaves what it found.
"""

from __future__ import annotations

import copy
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from architectures.entry import Architecture, summed
from reconvene.errors import ReconveneError
from reconvene.structure import Structure, analyse, call, tensors_in
from reconvene.structure.inputs import map_tensors
from reconvene.structure.replay import replay
from reconvene.surgery import make_plan
from support.proof import TOLERANCE, error, half, share_kept, unsettle

SINGLE_TOLERANCE = 2e-5
"""Where a model insists on single precision, rounding alone reaches some 1e-6 of the largest output."""
LITTLE = 0.6
"""At half width at least 40 % of the parameters leave, or the reason is printed."""
BIG = 150_000_000
"""Parameters above which the silenced reference takes over the weights of the model instead of copying them."""

Tell = Callable[[dict[str, Any]], None]
Record = dict[str, Any]
TROUBLE = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, AssertionError, ReconveneError)


def prove_architecture(architecture: Architecture, tell: Tell) -> Record:
    """Everything that is to be known about one architecture, with a verdict."""
    started = time.perf_counter()
    record: Record = {"name": architecture.name, "source": architecture.source, "stage": "build"}
    try:
        _prove(architecture, record, tell)
    except TROUBLE as trouble:
        record["error"] = f"{record['stage']}: {type(trouble).__name__}: {first_line(trouble)}"
        record["where"] = innermost(trouble)
    record["seconds"] = round(time.perf_counter() - started, 3)
    record["verdict"] = verdict(record, architecture)
    tell(record)
    return record


def verdict(record: Record, architecture: Architecture) -> str:
    """One of: proved, proved but little removable, not lossless by nature, failed; with the reason."""
    if record.get("error"):
        return f"failed ({record['error']})"
    if not record["replay"]:
        return f"failed (replay: {record['replay_error']})"
    if not record["train"]:
        return "failed (train: a gradient is missing or not finite)"
    if not record["lossless_error"] < record["tolerance"]:
        if architecture.nature:
            return f"not lossless by nature ({architecture.nature})"
        return f"failed (lossless: off by {record['lossless_error']:.1e} relative)"
    if record["kept"] < 1 and record["effect"] is not None and record["effect"] < record["tolerance"]:
        return "failed (lossless: silencing half of it changes nothing, so nothing is shown)"
    if record["kept"] > LITTLE:
        return f"proved, little removable ({architecture.kept or record['why'] or 'no group'})"
    return "proved"


def _prove(architecture: Architecture, record: Record, tell: Tell) -> None:
    def stage(name: str) -> None:
        record["stage"] = name
        tell(record)

    stage("build")
    model, inputs = architecture.build()
    model.eval()
    record["parameters"] = sum(p.numel() for p in model.parameters())
    stage("structure")
    record |= timed_structure(model, inputs)
    stage("double")
    model, inputs, single = in_double(model, inputs)
    record["dtype"], record["tolerance"] = ("float32", SINGLE_TOLERANCE) if single else ("float64", TOLERANCE)
    structure = analyse(model, inputs)
    record |= described(structure)
    keep = half(structure)
    record["width_kept"] = round(sum(map(len, keep)) / max(1, int(structure.widths.sum())), 4)
    stage("replay")
    rerun = replay(model, inputs, structure, keep)
    failure = rerun.failure
    record["replay"], record["replay_error"] = failure is None, failure and failure[1][:300]
    stage("apply")
    plan = make_plan(model, structure, keep, [], scalars=rerun.scalars)
    small = plan.apply(model).eval()
    record["kept"] = round(share_kept(small, model), 4)
    outputs = architecture.compare or call
    with torch.no_grad():
        stage("forward of the smaller model")
        got = outputs(small, inputs)
        stage("forward of the dense model")
        dense = outputs(model, inputs)
        stage("forward of the silenced model")
        if record["parameters"] > BIG:
            share_tensors(model)
        same = plan.mask(model).eval()
        del model
        want = outputs(same, inputs)
    del same
    if not all(bool(t.isfinite().all()) for t in tensors_in(want) if t.is_floating_point()):
        raise ValueError("the output is not finite, so nothing can be compared")
    record["lossless_error"] = error(got, want)
    record["effect"] = changed(dense, want)
    stage("train")
    record |= trained(architecture, small, inputs)


def timed_structure(model: nn.Module, inputs: Any) -> Record:
    """Seconds of ``analyse``: wall clock, and of this thread (which other work on the machine hardly changes)."""
    wall, own = time.perf_counter(), time.thread_time()
    analyse(model, inputs)
    return {
        "structure_seconds": round(time.perf_counter() - wall, 4),
        "structure_cpu_seconds": round(time.thread_time() - own, 4),
    }


def in_double(model: nn.Module, inputs: Any) -> tuple[nn.Module, Any, bool]:
    """Model and inputs in double precision, or as they are where the model insists on single precision."""
    unsettle(model)
    wide = map_tensors(lambda t: t.double() if t.is_floating_point() else t, inputs)
    types = {name: t.dtype for name, t in [*model.named_parameters(), *model.named_buffers()]}
    model.double()
    model.train().eval()  # some forget then what they keep of their weights in single precision
    try:
        with torch.no_grad():
            call(model, wide)
    except (RuntimeError, TypeError) as trouble:
        if "dtype" not in str(trouble) and "Double" not in str(trouble) and "double" not in str(trouble):
            raise
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            tensor.data = tensor.data.to(types[name])
        return model, inputs, True
    return model, wide, False


def described(structure: Structure) -> Record:
    """Groups, what is pinned and why, repairs and unknown operators."""
    pinned = [group for group in structure.groups if not group.prunable]
    tensors = structure.recording.parameters
    held: dict[tuple[str, str], float] = {}
    for group in pinned:
        for slot in group.slots:
            key = anywhere(group.pinned or ""), slot.parameter
            held[key] = max(held.get(key, 0.0), slot.index.size / tensors[slot.parameter].shape[slot.dim])
    weight: Counter[str] = Counter()
    for (why, name), share in held.items():
        weight[why] += int(tensors[name].numel() * share)
    total = max(1, sum(t.numel() for t in tensors.values()))
    reasons = [f"{why} [{amount / total:.0%}]" for why, amount in weight.most_common(4)]
    return {
        "ops": len(structure.recording.ops),
        "recorded_on": structure.recording.device,
        "groups": len(structure.prunable),
        "pinned_groups": len(pinned),
        "pinned_by": reasons,
        "why": "; ".join(reasons[:2]),
        "repairs": [text[:300] for text in structure.repairs],
        "unknown": sorted({anywhere(text) for text in structure.unknown}),
    }


def anywhere(text: str) -> str:
    """A reason without the numbers of blocks, so that the same reason in every block counts as one."""
    return re.sub(r"(?<=\.)\d+(?=\.|\b)", "*", text)


def share_tensors(model: nn.Module) -> None:
    """Let ``copy.deepcopy`` of this model share its tensors: a big model and its silenced copy do not fit together."""
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.__deepcopy__ = lambda memo, own=tensor: own  # type: ignore[method-assign]


def changed(dense: Any, silenced: Any) -> float | None:
    """How far silencing moved the output: near 0, and the proof shows nothing."""
    try:
        return float(f"{error(silenced, dense):.3g}")
    except (AssertionError, ValueError):
        return None


def trained(architecture: Architecture, small: nn.Module, inputs: Any) -> Record:
    """A real forward and backward pass of the smaller model in train mode."""
    torch.manual_seed(0)
    small.train()
    loss = (architecture.loss or summed)(small, inputs)
    loss.backward()
    missing = [n for n, p in small.named_parameters() if p.requires_grad and p.grad is None]
    finite = all(bool(p.grad.isfinite().all()) for p in small.parameters() if p.grad is not None)
    reached = len(missing) < sum(1 for _ in small.parameters())
    return {"train": finite and reached and bool(loss.isfinite()), "without_gradient": len(missing)}


def first_line(trouble: BaseException) -> str:
    """The first line of a message, cut to what fits a table."""
    return (str(trouble).strip().split("\n") or [""])[0][:300]


def innermost(trouble: BaseException) -> str:
    """File, line and function where it was raised."""
    step = trouble.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    if step is None:
        return ""
    code = step.tb_frame.f_code
    return f"{Path(code.co_filename).parent.name}/{Path(code.co_filename).name}:{step.tb_lineno} in {code.co_name}"


def warm_up() -> None:
    """Pay once for what the first analysis of a process imports, so that it is not counted for one model."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    analyse(net.eval(), torch.zeros(2, 3, 8, 8))
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    analyse(layer, torch.zeros(1, 3, 8))
    copy.deepcopy(net)
    np.random.default_rng(0)
