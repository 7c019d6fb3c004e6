"""Which layer int8 hurts most: every layer is quantised alone, and the network's output says what that cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reconvene.deploy.model_io import batch_size, in_inference, outputs_of, take_samples
from reconvene.deploy.quantisation import quantised_layers
from reconvene.quantiser import quantise, to_steps
from reconvene.structure.copies import copy_model
from reconvene.utils.tables import text_table

_SAMPLES = 64


@dataclass(frozen=True)
class LayerNoise:
    """``sqnr`` in dB at the network's output with only this layer in int8; infinite where nothing changed."""

    layer: str
    sqnr: float


def layerwise_sqnr(model: nn.Module, samples: Any, *, batch: int | None = None) -> list[LayerNoise]:
    """Signal to quantisation noise of every convolution and linear layer by itself, the worst first.

    In PyTorch, on up to 64 of ``samples``: the layer's weight is rounded to int8 per output channel (symmetric), its
    input to uint8 by its smallest and largest value in these samples. The runtimes calibrate on more data, fuse, and
    quantise a few other operators too: this ranks the layers, it does not predict a runtime's own number. ``batch`` is
    how many samples the model takes, where it does not take any number: ranges are then those of each such batch.
    """
    count = min(_SAMPLES, batch_size(samples))
    inputs = [take_samples(samples, start, batch or count) for start in range(0, count, batch or count)]
    # on a copy: neither hooks nor rounded weights may be seen by whoever holds the model
    network = copy_model(model)
    with in_inference(network):
        plain = _all_outputs(network, inputs)
        noises = []
        for name, layer in quantised_layers(network).items():
            weight = layer.weight
            assert isinstance(weight, Tensor)
            before = weight.detach().clone()
            hook = layer.register_forward_pre_hook(lambda _, args: (_rounded_input(args[0]), *args[1:]))
            try:
                weight.data.copy_(_rounded_weight(before, layer))
                noisy = _all_outputs(network, inputs)
            finally:
                weight.data.copy_(before)
                hook.remove()
            noises.append(LayerNoise(name, sqnr(plain, noisy)))
    return sorted(noises, key=lambda noise: noise.sqnr)


def _all_outputs(model: nn.Module, batches: list[Any]) -> list[Tensor]:
    return [value for batch in batches for value in outputs_of(model, batch).values()]


def sqnr(plain: list[Tensor], noisy: list[Tensor]) -> float:
    """``10 log10(sum of squares / sum of squared differences)`` in dB over all floating point outputs."""
    signal = noise = 0.0
    for a, b in zip(plain, noisy, strict=True):
        if a.is_floating_point():
            finite = torch.isfinite(a) & torch.isfinite(b)
            a, b = a[finite].double(), b[finite].double()
            signal += float(a.square().sum())
            noise += float((a - b).square().sum())
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def worst(noises: list[LayerNoise], count: int = 3) -> str:
    """The first of them as a table."""
    rows = [(noise.layer, f"{noise.sqnr:.1f}") for noise in noises[:count]]
    return text_table(("layer alone in int8", "SQNR dB"), rows, right=(1,))


def _rounded_input(values: Tensor) -> Tensor:
    if not values.is_floating_point() or not values.numel():
        return values
    low, high = values.amin().clamp(max=0), values.amax().clamp(min=0)
    scale = ((high - low) / 255).clamp(min=torch.finfo(values.dtype).tiny)
    return to_steps(values, scale, torch.round(-low / scale), 0, 255)


def _rounded_weight(weight: Tensor, layer: nn.Module) -> Tensor:
    return quantise(weight, 8, axis=1 if getattr(layer, "transposed", False) else 0).values
