"""The same job for three tools: remove the half of every layer's channels whose weights are zero.

Half of the channels of every group are planted as dead (zero wherever they stand in a weight, a bias or an affine
parameter), so that every tool ranked by magnitude removes the same channels, and what it made can be checked: where no
normalization counts channels, the output must not change at all.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import resource
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from architectures import all_architectures
from architectures.entry import Built, fill, image, without_initialization
from reconvene.structure import Structure, analyse, call, tensors_in
from reconvene.structure.pruned_sizes import settle
from reconvene.structure.replay import replay
from reconvene.surgery import make_plan

LOSSLESS = 1e-4
"""Relative, in single precision: a wrong channel is off by far more, rounding by far less."""
COUNTS_CHANNELS = (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d, nn.RMSNorm)
Job = Callable[[nn.Module, Any], nn.Module]


def ours(model: nn.Module, inputs: Any) -> nn.Module:
    """Reconvene: structure with its trial, half of every group by magnitude, replayed, applied."""
    structure = analyse(model, inputs)
    keep = strongest(model, structure)
    rerun = replay(model, inputs, structure, keep)
    if rerun.failure is not None:
        raise RuntimeError(f"replay: {rerun.failure[1]}")
    return make_plan(model, structure, keep, [], scalars=rerun.scalars).apply(model)


def strongest(model: nn.Module, structure: Structure) -> list[NDArray[np.int64]]:
    """The half of every group with the largest squared weights."""
    widths = settle(structure.balances, np.maximum(1, structure.widths // 2), structure.widths)
    cut = {(slot.parameter, slot.dim) for group in structure.prunable for slot in group.slots}
    powers = {
        name: power(weight.detach(), [d for d in range(weight.ndim) if (name, d) in cut])
        for name, weight in model.named_parameters()
    }
    keep = []
    for group, width in zip(structure.prunable, widths, strict=True):
        score = torch.zeros(group.width)
        for slot in group.slots:
            if slot.parameter in powers:
                score += powers[slot.parameter][slot.dim][torch.from_numpy(slot.index)].sum(1)
        keep.append(np.sort(score.argsort(descending=True, stable=True)[:width].numpy()))
    return keep


def power(weight: Tensor, dims: list[int]) -> dict[int, Tensor]:
    """The sum of squared weights along each of these dimensions; the whole weight is read once."""
    others = [d for d in range(weight.ndim) if d not in dims]
    square = torch.linalg.vector_norm(weight, dim=others, keepdim=True).square() if others else weight.square()
    return {d: square.sum([o for o in range(weight.ndim) if o != d]) if weight.ndim > 1 else square for d in dims}


def torch_pruning(model: nn.Module, inputs: Any) -> nn.Module:
    """Torch-Pruning as its documentation shows it: magnitude, half of each group, the classifier left alone."""
    tp = importlib.import_module("torch_pruning")
    classifiers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d) and m.weight.shape[0] == 1000]
    pruner = tp.pruner.MagnitudePruner(
        model, inputs, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=0.5, ignored_layers=classifiers
    )
    pruner.step()
    return model


def torch_kirigami(model: nn.Module, inputs: Any) -> nn.Module:
    """torch-kirigami's greedy strategy: group magnitude, half of each axis; its limit of trials is lifted."""
    kirigami = importlib.import_module("torch_kirigami")
    pruning = importlib.import_module("torch_kirigami.pruning")
    graph = kirigami.DependencyGraph.build(model, args=(inputs,))
    pruner = pruning.Pruner(model, graph=graph)
    strategy = pruning.Greedy(pruning.GroupMagnitude(p=2), max_trials=1_000_000)
    return pruner.prune(pruner.discover_candidates(), budget=pruning.ChannelRatio(0.5), strategy=strategy)[0]


JOBS: dict[str, Job] = {"reconvene": ours, "torch-pruning": torch_pruning, "torch-kirigami": torch_kirigami}


def as_used(name: str) -> Built:
    """The model as people build it, with one image of its usual size."""
    library, _, model_name = name.partition("/")
    with without_initialization():
        if library == "torchvision":
            models = importlib.import_module("torchvision.models")
            return fill(models.get_model(model_name, weights=None)).eval(), image(1, 3, 224, 224)
        if library == "timm":
            model = importlib.import_module("timm").create_model(model_name, pretrained=False)
            return fill(model).eval(), image(1, *model.default_cfg["input_size"])
    model, inputs = all_architectures()[name].build()
    return model.eval(), inputs


Dead = list[tuple[str, int, NDArray[np.int64]]]
"""Parameter, dimension, and the positions along it that are planted as dead."""


def plant(model: nn.Module, inputs: Any) -> bool:
    """Make a random half of every group dead; whether removing it must leave the output as it is."""
    dead, exact = in_a_fork(lambda: chosen(model, inputs))
    tensors = dict(model.named_parameters())
    with torch.no_grad():
        for name, dim, positions in dead:
            tensors[name].index_fill_(dim, torch.from_numpy(positions), 0)
    return bool(exact)


def chosen(model: nn.Module, inputs: Any) -> tuple[Dead, bool]:
    """What is dead in which parameter, and whether removing it must leave the output as it is."""
    structure = analyse(model, inputs)
    random = np.random.default_rng(0)
    parameters = dict(model.named_parameters())
    dead: Dead = []
    for group in structure.prunable:
        channels = random.permutation(group.width)[: group.width - max(1, group.width // 2)]
        slots = [slot for slot in group.slots if slot.parameter in parameters]
        dead += [(slot.parameter, slot.dim, slot.index[channels].reshape(-1)) for slot in slots]
    # Tools cut grouped convolutions along different lines, and then need not remove what was planted.
    grouped = any(isinstance(m, nn.Conv2d) and 1 < m.groups < m.in_channels for m in model.modules())
    counted = any(isinstance(m, COUNTS_CHANNELS) for m in model.modules())
    return dead, not (structure.balances or grouped or counted)


def in_a_fork(work: Callable[[], Any]) -> Any:
    """The result of ``work``, done in a fork: what it imports and caches must not make a tool's run faster."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with os.fdopen(writing, "wb") as file:
            pickle.dump(work(), file)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        result = pickle.load(file)
    os.waitpid(child, 0)
    return result


def judge_tool(name: str, results: Connection) -> None:
    """Let one tool do the job on one model (``tool|model``), and tell what became of it."""
    warnings.simplefilter("ignore")
    tool, _, model_name = name.partition("|")
    record: dict[str, Any] = {"tool": tool, "model": model_name, "stage": "build"}
    with contextlib.closing(results):
        if tool != "reconvene":
            importlib.import_module(tool.replace("-", "_"))
        model, inputs = as_used(model_name)
        exact = plant(model, inputs)
        with torch.no_grad():
            dense = call(model, inputs)
        total = parameters(model)
        record |= {"stage": "prune", "parameters": total, "peak_rss_mib": peak()}
        results.send(record)
        wall, own = time.perf_counter(), time.process_time()
        try:
            small = JOBS[tool](model, inputs)
            record |= {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - own}
            record["peak_mib_above_model"] = peak() - record["peak_rss_mib"]
            record |= checked(small, inputs, dense, exact=exact) | {"kept": parameters(small) / total}
        except Exception as trouble:  # noqa: BLE001 - whatever a tool raises is its result
            record |= {"seconds": time.perf_counter() - wall, "ok": False}
            record["error"] = f"{type(trouble).__name__}: {str(trouble).strip()[:200]}"
        results.send({**record, "verdict": "done"})


def checked(small: nn.Module, inputs: Any, dense: Any, *, exact: bool) -> dict[str, Any]:
    """Whether what was made runs, keeps the shape of its output, and computes the same where it must."""
    with torch.no_grad():
        output = call(small.eval(), inputs)
    pairs = list(zip(tensors_in(output), tensors_in(dense), strict=True))
    if any(a.shape != b.shape for a, b in pairs):
        return {"ok": False, "error": f"the output has another shape: {[tuple(a.shape) for a, _ in pairs]}"}
    off = max(distance(a, b) for a, b in pairs)
    return {"ok": True, "off": off if exact else None, "lossless": bool(off < LOSSLESS) if exact else None}


def distance(one: Tensor, other: Tensor) -> float:
    """Largest difference relative to the largest value."""
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-12))


def parameters(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())


def peak() -> int:
    """Most memory this process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
