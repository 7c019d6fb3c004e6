"""Fake quantisation of activations: unsigned integers with an integer zero point, as int8 runtimes have them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from reconvene.quantiser.steps import to_steps
from reconvene.utils.module_tree import device_of

Range = tuple[float, int]
"""Scale and zero point of one quantised tensor: it stands for ``(integer - zero point) * scale``."""

BITS = 8
"""Bits of activations, where nothing else is decided."""
STEADY = 0.95
"""How much of a range stays when a new batch is seen."""


class ActivationRange(nn.Module):
    """The range of one activation, followed over batches; calling it rounds a tensor to ``2^bits`` steps of that range.

    The range includes zero, and zero is one of the steps, so that padding is exact. Rounding is to even. The gradient
    passes straight through within the range and is zero beyond it.
    """

    low: Tensor
    high: Tensor
    seen: Tensor

    def __init__(self, bits: int = BITS) -> None:
        super().__init__()
        self.largest = (1 << bits) - 1
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self._held: Range | None = None

    def hold(self, scale: float, zero_point: int) -> None:
        """Let the steps be these from now on, whatever is seen."""
        self._held = scale, zero_point
        self.seen += 1

    def follow(self, values: Tensor) -> None:
        """Take a batch into the range: the first as it is, later ones into a moving average of the extremes.

        A recorded pass on meta has no values, and is not seen.
        """
        if values.is_meta:
            return
        low, high = torch.aminmax(values.detach())
        low, high = low.clamp_max(0.0).float(), high.clamp_min(0.0).float()
        stays = STEADY if self.seen else 0.0
        self.low.mul_(stays).add_(low, alpha=1 - stays)
        self.high.mul_(stays).add_(high, alpha=1 - stays)
        self.seen += 1

    def cover(self, values: Tensor) -> None:
        """Widen the range to hold a batch, as calibration by extremes does."""
        low, high = torch.aminmax(values.detach())
        self.low.copy_(torch.minimum(self.low, low.float()))
        self.high.copy_(torch.maximum(self.high, high.float()))
        self.seen += 1

    @property
    def scale(self) -> Tensor:
        """Width of a step, float32."""
        if self._held is not None:
            return self.low.new_tensor(self._held[0])
        return ((self.high - self.low) / self.largest).clamp_min(torch.finfo(torch.float32).tiny)

    @property
    def zero_point(self) -> Tensor:
        """The integer that stands for zero, int32."""
        if self._held is not None:
            return self.low.new_tensor(self._held[1], dtype=torch.int32)
        return torch.round(-self.low / self.scale).clamp(0, self.largest).to(torch.int32)

    def forward(self, values: Tensor) -> Tensor:
        """The values that the steps stand for."""
        if not self.seen:
            return values
        return to_steps(values, self.scale, self.zero_point, 0, self.largest)


class RoundedInputs(nn.Module):
    """Rounds what some layers of a network read, while ``rounding`` is entered; ``ranges`` are its buffers.

    Args:
        network: whose layers they are; it gets a hook at each of them, which does nothing outside of ``rounding``.
        layers: their names.
        bits: of what layers read, by name, where these are not 8.
    """

    def __init__(
        self, network: nn.Module, layers: Iterable[str], bits: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        super().__init__()
        self.names = tuple(layers)
        self._ranges = [ActivationRange(bits.get(name, BITS)) for name in self.names]
        self.ranges = nn.ModuleList(self._ranges)
        self._state = {"rounds": False, "follows": False}  # in a dict: no attribute that hooks would have to reach
        for name, of_layer in zip(self.names, self._ranges, strict=True):
            network.get_submodule(name).register_forward_pre_hook(self._hook(of_layer), with_kwargs=True)
        self.to(device_of(network))

    @contextmanager
    def rounding(self, *, follow: bool) -> Iterator[None]:
        """Within: inputs of the layers are rounded; with ``follow`` their ranges move with what is seen."""
        self._state.update(rounds=True, follows=follow)
        try:
            yield
        finally:
            self._state.update(rounds=False, follows=False)

    def hold(self, ranges: Mapping[str, Range]) -> None:
        """Fix scale and zero point of what some of the layers read, as ``scales`` gives them."""
        for name, of_layer in zip(self.names, self._ranges, strict=True):
            if name in ranges:
                of_layer.hold(*ranges[name])

    def scales(self) -> dict[str, Range]:
        """Scale and zero point of what each layer reads."""
        return {
            name: (float(of_layer.scale), int(of_layer.zero_point))
            for name, of_layer in zip(self.names, self._ranges, strict=True)
        }

    def _hook(self, of_layer: ActivationRange) -> Any:
        def round_inputs(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if not self._state["rounds"]:
                return None
            quantised: dict[int, Tensor] = {}  # one tensor that is query, key and value stays one

            def rounded(value: Any) -> Any:
                if not isinstance(value, Tensor) or value.dtype != torch.float32:
                    return value
                if id(value) not in quantised:
                    if self._state["follows"]:
                        of_layer.follow(value)
                    quantised[id(value)] = of_layer(value)
                return quantised[id(value)]

            return tuple(rounded(value) for value in args), {name: rounded(value) for name, value in kwargs.items()}

        return round_inputs
