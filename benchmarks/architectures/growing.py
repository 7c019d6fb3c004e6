"""Networks of growing depth, and large ones: on the meta device for structure, with weights for whole plans."""

from __future__ import annotations

import contextlib
import functools
import resource
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import nn

import reconvene as rc
from architectures.entry import Built, without_initialization
from reconvene.errors import ReconveneError
from reconvene.structure import analyse


def residual(depth: int) -> Built:
    """A residual network with this many bottleneck blocks in each of four stages."""
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, [depth] * 4), torch.zeros(1, 3, 64, 64)


def transformer(depth: int) -> Built:
    """A vision transformer of this many blocks."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(img_size=64, embed_dim=192, depth=depth, num_heads=3), torch.zeros(1, 3, 64, 64)


def dense(depth: int) -> Built:
    """A densely connected network: every layer reads all before it, so the calls' sizes grow, too."""
    from torchvision.models import DenseNet

    return DenseNet(block_config=(depth, depth, depth)), torch.zeros(1, 3, 64, 64)


def named(name: str) -> Built:
    """A model of timm with its usual input."""
    import timm

    model = timm.create_model(name, pretrained=False)
    return model, torch.zeros(1, *model.default_cfg["input_size"])


def decoder(**options: Any) -> Built:
    """A language model of the Llama kind."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(use_cache=False, **options)), torch.zeros(1, 64, dtype=torch.int64)


SERIES: dict[str, tuple[Callable[[int], Built], tuple[int, ...]]] = {
    "residual": (residual, (2, 4, 8, 16, 32, 64)),
    "transformer": (transformer, (3, 6, 12, 24, 48, 96)),
    "dense": (dense, (4, 8, 16, 32)),
}
LARGE: dict[str, Callable[[], Built]] = {
    "large/vit_giant_patch14_dinov2": functools.partial(named, "vit_giant_patch14_dinov2"),
    "large/vit_gigantic_patch14_224": functools.partial(named, "vit_gigantic_patch14_224"),
    "large/llama_1b": functools.partial(
        decoder, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256, tie_word_embeddings=True,
    ),
}  # fmt: skip


def chain(layers: int, width: int = 64) -> Built:
    """So many linear layers with rectifiers between them."""
    return nn.Sequential(*(part for _ in range(layers) for part in (nn.Linear(width, width), nn.ReLU()))), torch.randn(
        1, width
    )


PLANNED: dict[str, Callable[[], Built]] = {
    **{f"chain/{layers} layers": functools.partial(chain, layers) for layers in (125, 250, 500, 1000, 2000)},
    **{f"wide/8 layers of {width}": functools.partial(chain, 8, width) for width in (768, 1536, 3072, 6144)},
    **{
        f"timm/{name}": functools.partial(named, name)
        for name in ("vgg16_bn", "resnet50", "swin_s3_tiny_224", "vit_large_patch16_224")
    },
}


def judge_plan(name: str, results: Connection) -> None:
    """Plan one network to half of its parameters, by the default and by magnitude, and tell what it cost."""
    warnings.simplefilter("ignore")
    with contextlib.closing(results):
        results.send({"stage": "build"})
        torch.manual_seed(0)
        model, inputs = PLANNED[name]()
        try:
            found = planned(model.eval(), torch.randn_like(inputs))
        except ReconveneError as trouble:
            found = {"verdict": f"failed ({str(trouble).splitlines()[0]})"}
        results.send({"stage": "plan"} | found)


def planned(model: nn.Module, inputs: Any) -> dict[str, Any]:
    """Wall seconds of two plans, the share of the final comparison, and how much memory the first took."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    with torch.no_grad():
        model(inputs)
    before = _peak()
    start = time.perf_counter()
    plan = rc.plan(model, inputs, rc.Budget(params="2x"))
    seconds = time.perf_counter() - start
    memory = (_peak() - before) * 2**20 + weights
    start = time.perf_counter()
    rc.plan(model, inputs, rc.Budget(params="2x"), criterion="magnitude")
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "plan_seconds": round(seconds, 3),
        "magnitude_seconds": round(time.perf_counter() - start, 3),
        "verify_share": round(plan.timings.get("verify", 0.0) / seconds, 3),
        "timings": {step: round(value, 3) for step, value in plan.timings.items()},
        "memory_ratio": round(memory / weights, 2),
        "verdict": "done",
    }


def judge_size(name: str, results: Connection) -> None:
    """Analyse one model and tell what it cost."""
    warnings.simplefilter("ignore")
    series, _, size = name.partition("/")
    build = LARGE[name] if name in LARGE else functools.partial(SERIES[series][0], int(size))
    with contextlib.closing(results):
        results.send({"stage": "build"})
        with without_initialization(), torch.device("meta"):
            model, inputs = build()
        try:
            found = measured(model.eval(), torch.zeros_like(inputs, device="cpu"))
        except ReconveneError as trouble:
            found = {"verdict": f"failed ({str(trouble).splitlines()[0]})"}
        results.send({"stage": "structure"} | found)


def measured(model: nn.Module, inputs: Any) -> dict[str, Any]:
    """The least of two runs in seconds, and what the process grew by."""
    before = _peak()
    runs = []
    for _ in range(2):
        wall, own = time.perf_counter(), time.thread_time()
        structure = analyse(model, inputs)
        runs.append((time.thread_time() - own, time.perf_counter() - wall))
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "ops": len(structure.recording.ops),
        "groups": len(structure.prunable),
        "cpu_seconds": round(min(runs)[0], 4),
        "seconds_structure": round(runs[0][1], 4),
        "mib_above_start": _peak() - before,
        "notes": f"{len(structure.repairs)} repairs, {len(structure.unknown)} unknown",
        "verdict": "done",
    }


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
