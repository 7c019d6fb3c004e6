"""The calibration pass: one fixed batch through the network in eval mode, and how wide every output spreads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from reconvene.criteria.batches import Batches, argument_names
from reconvene.errors import MODEL_REFUSALS, DataError, ModelError
from reconvene.rectifier.layers import weighted_layers
from reconvene.structure import call, map_tensors, tensors_in
from reconvene.structure.fresh import know_state
from reconvene.structure.neurons import neurons
from reconvene.structure.patches import exclusive
from reconvene.structure.restore import accelerators, kept_attributes, kept_random_state
from reconvene.structure.state import fresh_passes
from reconvene.utils.module_tree import device_of

# A calibration batch holds about this many input values, between 2 and 8 samples: few values suffice for a spread.
_VALUES = 2**17
_SAMPLES = (2, 8)
# Of data: spikes are rare, so more samples than noise needs.
_DATA_SAMPLES = 32


def output_spread(
    model: nn.Module, example_inputs: Any, *, seed: int = 0, data: Iterable[Any] | None = None
) -> dict[str, float]:
    """Standard deviation of the output of every layer that holds a weight, by module name, in the order of first calls.

    Measured over all values of the first call's output (the first tensor of it), in eval mode, on
    ``calibration_batch``; for a model that does not run on more samples than its example inputs hold, on as many as
    they do. A layer that is never called by itself is absent, and so is one whose output is not finite. Mode, hooks and
    random state are as before afterwards.

    Of a network with spiking neurons it is the input current before the spike, over the calls of all time steps: in the
    first step few layers have had an input. It is measured on the first samples of ``data`` where there are some, since
    neurons spike less on noise than on data.

    Raises ``ModelError`` when the model does not run on the calibration batch, ``DataError`` for data without samples.
    """
    return measure_spreads(model, example_inputs, seed=seed, data=data)[0]


def measure_spreads(
    model: nn.Module, example_inputs: Any, *, seed: int, data: Iterable[Any] | None = None
) -> tuple[dict[str, float], Any]:
    """The spreads, and the batch they were measured on."""
    if data is not None and neurons(model):
        batch = _first_samples(model, example_inputs, data, seed=seed)
        return spread_on(model, batch, seed=seed), batch
    batch = calibration_batch(example_inputs, seed=seed)
    try:
        return spread_on(model, batch, seed=seed), batch
    except ModelError:
        single = calibration_batch(example_inputs, seed=seed, samples=1)
        if [t.shape for t in tensors_in(single)] == [t.shape for t in tensors_in(batch)]:
            raise
        return spread_on(model, single, seed=seed), single


def spread_on(model: nn.Module, batch: Any, *, seed: int) -> dict[str, float]:
    """The spreads on this batch."""
    if neurons(model):
        return {name: drive.spread for name, drive in drives_on(model, batch, seed=seed).items() if drive.finite}
    spreads: dict[str, float] = {}
    scratch = _Scratch()

    def note(name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        value = spread_of(output, scratch)
        if value is not None:
            spreads[name] = value

    run_hooked(model, batch, note, seed=seed)
    return spreads


@dataclass
class Drive:
    """What a layer gives in all calls of a pass: count, sum and sum of squares, and of one layer the outputs."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    outputs: list[Tensor] = field(default_factory=list)

    @property
    def spread(self) -> float:
        """Standard deviation over all values."""
        mean = self.total / self.count
        return math.sqrt(max(self.squares / self.count - mean * mean, 0.0))

    @property
    def finite(self) -> bool:
        """Whether there are values, and none is infinite or no number."""
        return self.count > 1 and math.isfinite(self.squares)


def drives_on(model: nn.Module, batch: Any, *, seed: int, keep: str | None = None) -> dict[str, Drive]:
    """The drives of all layers, in the order of first calls; the outputs themselves of the layer ``keep``."""
    drives: dict[str, Drive] = {}

    def note(name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        drive = drives.setdefault(name, Drive())
        tensors = [tensor for tensor in tensors_in(output) if tensor.is_floating_point()]
        if not tensors:
            return
        values = tensors[0].detach().double()
        drive.count += values.numel()
        drive.total += float(values.sum())
        drive.squares += float(values.square().sum())
        if name == keep:
            drive.outputs.append(tensors[0].detach())

    run_hooked(model, batch, note, seed=seed, every_call=True)
    return drives


def _first_samples(model: nn.Module, example_inputs: Any, data: Iterable[Any], *, seed: int) -> Any:
    """The first samples of data, at most ``_DATA_SAMPLES``, where the model is."""
    device = device_of(model)
    names = argument_names(model, example_inputs)
    options: dict[str, Any] = {"names": names, "labelled": False, "error": DataError}
    with kept_random_state():
        inputs, _ = next(iter(Batches(data, user="rectification", device=device, seed=seed, **options)))
    return map_tensors(lambda tensor: tensor[:_DATA_SAMPLES] if tensor.ndim else tensor, inputs)


def calibration_batch(example_inputs: Any, *, seed: int, samples: int | None = None) -> Any:
    """The inputs spreads are measured on: the example inputs, if they are a batch, else seeded noise in their shapes.

    - If dimension 0 of every tensor is 1, it is taken for the batch: floating tensors become N(0, 1) draws of
      ``samples`` (2 to 8 by default, fewer for large inputs), others are repeated. One sample says too little.
    - A floating tensor of one single value (zeros, ones) becomes N(0, 1) draws of its own shape: nothing spreads from
      it.
    - Everything else stays as given. The same seed gives the same batch.
    """
    tensors = tensors_in(example_inputs)
    single = bool(tensors) and all(t.ndim >= 2 and t.shape[0] == 1 for t in tensors)
    largest = max((t.numel() for t in tensors), default=1)
    count = samples or min(max(_VALUES // max(largest, 1), _SAMPLES[0]), _SAMPLES[1])
    generator = torch.Generator().manual_seed(seed)

    def drawn(tensor: Tensor) -> Tensor:
        shape = (count, *tensor.shape[1:]) if single else tuple(tensor.shape)
        if not tensor.is_floating_point():
            return tensor.expand(shape)
        if not single and (tensor.numel() < 2 or bool((tensor != tensor.flatten()[0]).any())):
            return tensor
        return torch.randn(shape, generator=generator).to(device=tensor.device, dtype=tensor.dtype)

    return map_tensors(drawn, example_inputs)


Hook = Callable[[str, nn.Module, tuple[Any, ...], dict[str, Any], Any], Any]
PreHook = Callable[[str, nn.Module], None]


def run_hooked(
    model: nn.Module,
    batch: Any,
    after: Hook,
    *,
    seed: int,
    before: PreHook | None = None,
    every_call: bool = False,
) -> None:
    """One calibration pass: ``before`` and ``after`` see each layer's first call; ``after`` may replace its output.

    With ``every_call`` ``after`` sees all of them.
    """
    visited: set[str] = set()
    know_state(model, batch)  # before the hooks, which the recorded pass must not meet
    with ExitStack() as stack:
        for name, module in weighted_layers(model).items():
            first, then = _first_call(name, visited, before, after, every_call)
            stack.callback(module.register_forward_pre_hook(first).remove)
            stack.callback(module.register_forward_hook(then, with_kwargs=True).remove)
        stack.enter_context(undisturbed(model, seed=seed))
        try:
            call(model, batch)
        except MODEL_REFUSALS as error:
            shapes = ", ".join(str(tuple(t.shape)) for t in tensors_in(batch))
            raise ModelError(
                f"{type(model).__name__} does not run on the calibration batch of shapes {shapes}: {error}. "
                "If dimension 0 of its inputs is not the batch, or the batch is fixed, give example inputs "
                "of the batch it takes, with more than one sample"
            ) from error


def _first_call(
    name: str, visited: set[str], before: PreHook | None, after: Hook, every_call: bool
) -> tuple[Callable[..., None], Callable[..., Any]]:
    def first(module: nn.Module, args: Any) -> None:
        if name not in visited and before is not None:
            before(name, module)

    def then(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        if name in visited and not every_call:
            return None
        visited.add(name)
        return after(name, module, args, kwargs, output)

    return first, then


@contextmanager
def undisturbed(model: nn.Module, *, seed: int) -> Iterator[None]:
    """Eval mode, no gradients, a seeded random state; modes, attributes and the random state come back afterwards."""
    devices = accelerators(model)
    with exclusive(), kept_random_state(devices), torch.no_grad(), kept_attributes(model), fresh_passes(model):
        torch.manual_seed(seed)
        model.eval()
        yield


class _Scratch:
    """Memory in which outputs become float64 in turn: fresh memory for each takes as long as many a layer."""

    def __init__(self) -> None:
        self._values = torch.empty(0, dtype=torch.float64)

    def double(self, tensor: Tensor) -> Tensor:
        """The values in float64, until the next call."""
        if not tensor.is_contiguous() or tensor.device.type != "cpu":
            return tensor.double()
        if len(self._values) < tensor.numel():
            self._values = torch.empty(tensor.numel(), dtype=torch.float64)
        return self._values[: tensor.numel()].view(tensor.shape).copy_(tensor)


def spread_of(output: Any, scratch: _Scratch | None = None) -> float | None:
    """Standard deviation over all values of the first tensor in ``output``; ``None`` without one, or if not finite."""
    tensors = [tensor for tensor in tensors_in(output) if tensor.is_floating_point() and tensor.numel() > 1]
    if not tensors:
        return None
    values = tensors[0].detach()
    value = float((values.double() if scratch is None else scratch.double(values)).std(correction=0))
    return value if math.isfinite(value) else None
