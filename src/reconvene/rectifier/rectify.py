"""Give every touched layer of a smaller network the dense network's activation spread again, layer by layer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from reconvene.criteria.batches import repeatable
from reconvene.errors import ModelError, PlanError, UnknownNameError
from reconvene.rectifier.calibration import drives_on, measure_spreads, run_hooked, spread_on
from reconvene.rectifier.layers import is_constant, parametrised_layers, reset_norm, weight_matrices, weighted_layers
from reconvene.rectifier.recalibrate import recalibrate
from reconvene.rectifier.reconstruct import reconstruct
from reconvene.rectifier.report import RectifyReport, SpreadRow
from reconvene.rectifier.scaling import scale_output, scale_over_time
from reconvene.structure.nesting import on_model
from reconvene.structure.neurons import neurons
from reconvene.utils.norms import is_norm

if TYPE_CHECKING:
    from reconvene.surgery import Plan

# An untouched layer answers to what touched layers feed it, which only drawing again can change. The best of so many.
_DRAWS = 8
# Layers whose output channel ``c`` comes from row ``c`` of the weight alone.
_LINEAR = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@on_model
def rectify(
    small: nn.Module,
    plan: Plan,
    example_inputs: Any,
    how: str = "reinit",
    *,
    seed: int | None = None,
    everywhere: bool = False,
    model: nn.Module | None = None,
    data: Iterable[Any] | None = None,
) -> RectifyReport:
    """Rectify ``small`` in place and report the spread of every layer against the dense network's.

    - ``reinit``: every touched layer draws fresh N(0, 1/fan_in) weights, scaled in one calibration pass, in the order
      of calls, so that its output spreads as the dense layer's did. Touched norms are reset (scale 1, shift 0, fresh
      statistics). Where an untouched layer then leaves [0.8, 1.25], the weights are drawn again, at most eight
      times, and the draw whose worst ratio is nearest to 1 stays.
    - ``rescale``: touched layers keep the kept weights and biases, scaled so; norms stay.
    - ``keep``: nothing changes; the report still measures.
    - ``recalibrate``, for trained networks: norms take their statistics from ``data`` again (``recalibrate``).
    - ``reconstruct``, for trained networks: cut layers are fitted by least squares to what the dense network ``model``
      gives on ``data`` (``reconstruct``), then norms are recalibrated.

    In a network with spiking neurons spreads are those of input currents, before the spike, over all time steps, and a
    layer takes passes of its own. They are measured on the first samples of ``data``: give those that the plan was made
    with.

    Untouched layers keep every byte, unless ``everywhere``, which takes all layers for touched. What was chosen rather
    than drawn stays: a bias of one single value (others become zero in ``reinit``), a norm's constant scale (a zero one
    starts a residual branch silent), all-zero and frozen weights (``reconstruct`` ignores that where all are frozen).
    ``seed`` (the plan's by default) decides the fresh weights; the calibration batch always comes from the plan's seed,
    as the dense spreads did. Layers that cannot be scaled keep the weights they have by then, and the report says why.

    Raises ``UnknownNameError`` for an unknown ``how``, ``PlanError`` when the plan touches modules that ``small`` does
    not have, ``ModelError`` when it does not run or the dense network is missing, ``DataError`` without data.
    """
    if how not in RECTIFICATIONS:
        raise UnknownNameError("way to rectify", how, RECTIFICATIONS)
    if how in TRAINED_WAYS and everywhere:
        raise PlanError(f"rectify how={how!r} fits what the plan cut; it cannot work everywhere")
    module_names = {name for name, _ in small.named_modules()}
    missing = [name for name in plan.touched if name not in module_names]
    if missing:
        raise PlanError(
            f"the plan changed module {missing[0]!r}, which this model does not have. Rectify plan.apply(model)"
        )
    drawn_with = plan.seed if seed is None else seed
    data = None if data is None else repeatable(data, seed=drawn_with)  # it is read more than once
    before, batch = measure_spreads(small, example_inputs, seed=plan.seed, data=data)
    if how in TRAINED_WAYS:
        actions = _follow_data(small, plan, example_inputs, how, model, data, drawn_with)
        after = spread_on(small, batch, seed=plan.seed)
        return RectifyReport(how, drawn_with, _rows(small, plan, actions, before, after))
    touched = module_names if everywhere else _touched(plan)
    best: RectifyReport | None = None
    for draw in range(_DRAWS if how == "reinit" else 1):
        report = _attempt(small, plan, batch, how, drawn_with, draw, before, touched)
        if best is None or report.worst < best.worst:
            best = report
        if not best.outside:
            return best
    if best is None or best.draw == report.draw:
        return report
    return _attempt(small, plan, batch, how, drawn_with, best.draw, before, touched)


def _attempt(
    small: nn.Module,
    plan: Plan,
    batch: Any,
    method: str,
    seed: int,
    draw: int,
    before: dict[str, float],
    touched: set[str],
) -> RectifyReport:
    """One rectification with the ``draw``-th stream of weights; it starts over whatever an earlier one left."""
    work = _Work(small, plan.spread, touched, f"{seed}:{draw}", _CHANGES[method])
    after = work.run(batch, calibration_seed=plan.seed) if _CHANGES[method] else before
    for name in work.layers:
        if name in touched and name not in work.actions:
            work.actions[name] = "kept" if name in before else "kept: never called by itself, or not finite"
    for name in parametrised_layers(small):
        if name in touched and name not in work.actions:
            work.actions[name] = "kept: parametrised"
    return RectifyReport(method, seed, _rows(small, plan, work.actions, before, after, touched), draw)


def _touched(plan: Plan) -> set[str]:
    """Modules that the plan changed; a layer whose weight is computed owns none of the parameters that were cut."""
    return {name.removesuffix(".parametrizations.weight") for name in plan.touched} | set(plan.touched)


def _rows(
    small: nn.Module,
    plan: Plan,
    actions: Mapping[str, str],
    before: Mapping[str, float],
    after: Mapping[str, float],
    touched: Collection[str] | None = None,
) -> tuple[SpreadRow, ...]:
    """A row for every layer with a weight, and for everything else that something was done to."""
    touched = _touched(plan) if touched is None else touched
    with_weights = weighted_layers(small) | parametrised_layers(small)
    return tuple(
        SpreadRow(
            name,
            type(module).__name__,
            name in touched,
            actions.get(name, "kept" if name in touched else "untouched"),
            *(plan.spread.get(name), before.get(name), after.get(name)),
        )
        for name, module in small.named_modules()
        if name in with_weights or name in actions
    )


def _follow_data(
    small: nn.Module,
    plan: Plan,
    example_inputs: Any,
    how: str,
    model: nn.Module | None,
    data: Iterable[Any] | None,
    seed: int,
) -> dict[str, str]:
    """``recalibrate`` or ``reconstruct``: what was done to which module."""
    actions: dict[str, str] = {}
    if how == "reconstruct":
        if model is None:
            raise ModelError("rectify how='reconstruct' compares with the dense network. Pass model=, that was pruned")
        actions = reconstruct(small, plan, model, data, example_inputs, seed=seed)
    norms = recalibrate(small, data, example_inputs, seed=seed)
    return actions | dict.fromkeys(norms, "norm recalibrated")


class _Work:
    """One rectification under way: what to do at each layer's first call, and what was done."""

    def __init__(
        self, small: nn.Module, dense: dict[str, float], touched: set[str], stream: str, change: _WeightChange | None
    ) -> None:
        self.small, self.dense, self.touched, self.stream, self.change = small, dense, touched, stream, change
        self.layers = weighted_layers(small)
        self.actions: dict[str, str] = {}
        self._done: dict[int, str] = {}

    def run(self, batch: Any, *, calibration_seed: int) -> dict[str, float]:
        """Change what is to be changed; the spread of every layer afterwards."""
        if self.change is _reinit:
            for name, module in self.small.named_modules():
                if name in self.touched and is_norm(module):
                    reset_norm(module)
                    self.actions[name] = "norm reset"
        if neurons(self.small):
            self._run_over_time(batch, calibration_seed)
        else:
            run_hooked(self.small, batch, self._after, seed=calibration_seed, before=self._before)
        return spread_on(self.small, batch, seed=calibration_seed)

    @torch.no_grad()
    def _run_over_time(self, batch: Any, seed: int) -> None:
        """Layer by layer, a pass for each: the spread of a drive is over all time steps, and none knows the others.

        A layer's drive is what its neurons integrate; neither reads the weights of layers that come later.
        """
        for name in drives_on(self.small, batch, seed=seed):
            module = self.layers[name]
            self._before(name, module)
            if name not in self.touched or name in self.actions or self.change is None:
                continue
            verb = "reinitialized" if self.change is _reinit else "rescaled"
            if self.change is _reinit:
                outputs = drives_on(self.small, batch, seed=seed, keep=name)[name].outputs
                _balance_signs(module, torch.cat(outputs))
            trouble = scale_over_time(self.small, name, batch, self.dense[name], seed)
            self.actions[name] = f"{verb}, {trouble}" if trouble else verb

    def _before(self, name: str, module: nn.Module) -> None:
        """Decide, and put the new weights in, before the layer is first called."""
        if name not in self.touched or self.change is None:
            return
        reason = self._barred(name, module)
        if reason is None:
            self._done[id(weight_matrices(module)[0])] = name
            self.change(module, _generator(self.stream, name))
        else:
            self.actions[name] = f"kept: {reason}"

    def _barred(self, name: str, module: nn.Module) -> str | None:
        """Why the layer must keep its weights, if it must."""
        weights = weight_matrices(module)
        if len(weights) > 1:
            return "it holds several weights"
        if id(weights[0]) in self._done:
            return f"tied to {self._done[id(weights[0])]}"
        if not weights[0].requires_grad:
            return "frozen"
        if not bool((weights[0] != 0).any()):
            return "all zero by choice"
        if name not in self.dense:
            return "the dense spread is not known"
        return "silent in the dense network" if self.dense[name] == 0 else None

    def _after(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Scale the layer to the dense spread; its new output goes on to the next layer."""
        if name not in self.touched or name in self.actions or self.change is None:
            return None
        verb = "reinitialized" if self.change is _reinit else "rescaled"
        if self.change is _reinit and _balance_signs(module, output):
            output = module.forward(*args, **kwargs)
        output, trouble = scale_output(module, args, kwargs, output, self.dense[name])
        self.actions[name] = f"{verb}, {trouble}" if trouble else verb
        return output


def _reinit(module: nn.Module, generator: torch.Generator) -> None:
    """Fresh zero-mean Gaussian weights at fan-in scale, drawn on the processor; a drawn bias becomes zero."""
    weight = weight_matrices(module)[0]
    fan_in = max(weight.numel() // max(weight.shape[0], 1), 1)
    fresh = torch.randn(weight.shape, generator=generator) * fan_in**-0.5
    padding = getattr(module, "padding_idx", None)
    if isinstance(module, nn.Embedding) and padding is not None:
        fresh[padding] = 0.0
    weight.copy_(fresh)
    bias = getattr(module, "bias", None)
    if isinstance(bias, Tensor) and bias.numel() and not is_constant(bias):
        bias.zero_()


def _rescale(module: nn.Module, generator: torch.Generator) -> None:
    """The kept weights stay what they are until they are scaled."""


def _balance_signs(module: nn.Module, output: Any) -> bool:
    """Mirror some filters so that half of the output's energy is positive, as it is in wide layers; whether any was.

    A narrow layer's few filters may be mostly negative on all inputs, and a ReLU behind it would silence it. The draw
    is symmetric, so a mirrored filter is as good a draw. ``sum(z * |z|)`` of a channel is its positive energy less its
    negative; the largest keeps its sign, and each next one takes the sign that brings the total nearer to zero.
    """
    if not isinstance(module, _LINEAR) or not isinstance(output, Tensor):
        return False
    axis = output.ndim - 1 if isinstance(module, nn.Linear) else output.ndim - 1 - len(module.kernel_size)
    other_axes = [dim for dim in range(output.ndim) if dim != axis]
    energy = (output.double() * output.double().abs()).sum(dim=other_axes).tolist()
    mirrored, total = [], 0.0
    for channel in sorted(range(len(energy)), key=lambda c: -abs(energy[c])):
        flip = total * energy[channel] > 0
        total += -energy[channel] if flip else energy[channel]
        if flip:
            mirrored.append(channel)
    if len(energy) == 1 and energy[0] < 0:
        mirrored = [0]
    module.weight[mirrored] = -module.weight[mirrored]
    return bool(mirrored)


def _generator(stream: str, name: str) -> torch.Generator:
    """A stream of its own for every layer, so that one layer's width does not move another's draw."""
    digest = hashlib.sha256(f"{stream}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


_WeightChange = Callable[[nn.Module, torch.Generator], None]
_CHANGES: dict[str, _WeightChange | None] = {"reinit": _reinit, "rescale": _rescale, "keep": None}
TRAINED_WAYS = ("recalibrate", "reconstruct")
"""What keeps the weights of a trained network, and repairs it from data."""
RECTIFICATIONS = (*_CHANGES, *TRAINED_WAYS)
