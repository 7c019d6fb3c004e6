"""Least squares, layer by layer: what a cut layer computes from fewer inputs, against what the dense layer gave.

Each cut layer is fitted on what reaches it in the small network, when everything before it is fitted already, so that
errors do not add up (He, Zhang and Sun, 1707.06168). No labels and no gradients: one pass of some hundred examples
through each network.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from reconvene.criteria.batches import batch_count, samples_in
from reconvene.criteria.few_examples import few_of, gathered
from reconvene.criteria.gradients import explained
from reconvene.errors import DataError
from reconvene.rectifier.calibration import undisturbed
from reconvene.rectifier.layers import (
    original_weights,
    parametrised_layers,
    put_weight,
    takes_weight,
    tied_to,
    weighted_layers,
)
from reconvene.rectifier.least_squares import Positions, fit_weights, input_rows, output_rows, refusal, spatial_shape
from reconvene.rectifier.readers import Readers
from reconvene.rectifier.recalibrate import following, inputs_of
from reconvene.structure import call
from reconvene.structure.fresh import know_state
from reconvene.surgery.ranges import from_text
from reconvene.utils.norms import averages_statistics
from reconvene.utils.progress import Stage, stage

if TYPE_CHECKING:
    from reconvene.surgery import Plan

_EXAMPLES = 512
# Rows of a least squares problem: so many an unknown, within bounds.
ROWS_EACH, FEWEST_ROWS, MOST_ROWS = 8, 2048, 16384


def reconstruct(
    small: nn.Module,
    plan: Plan,
    model: nn.Module,
    data: Iterable[Any] | None,
    example_inputs: Any = None,
    *,
    examples: int = _EXAMPLES,
    seed: int = 0,
) -> dict[str, str]:
    """Fit the weights and biases of every cut layer of ``small`` to the outputs of ``model``, in place.

    Norms that keep statistics see those of the examples meanwhile, and keep them; ``recalibrate`` gives them better
    ones. Layers that are no product with a weight, that run more than once, or that share their weight with another
    module keep their weights, as do frozen ones (``requires_grad`` is False) where others are not.

    Data may be sorted by class, so examples are spread evenly over data that say how many batches they hold. Others may
    never end: of these the first examples are taken. Where batches differ in shape, all examples pass through the small
    network once for every layer, not once in all.

    Args:
        small: what ``plan.apply`` gave, with the weights of ``model``.
        plan: the plan.
        model: the dense network, only read.
        data: batches as ``Batches`` takes them; targets are not read.
        example_inputs: as for ``recalibrate``.
        examples: how many are used at most, fewer where their inputs hold more than ``examples.MOST_VALUES`` numbers.
        seed: of what the data draws, and of the positions that are looked at.

    Returns:
        what was done to each cut layer, by its name.

    Raises:
        DataError: there are no data, or they do not fit.
    """
    work = _Work(small, plan, seed)
    with undisturbed(model, seed=seed), stage("reading examples"):  # data may draw
        few = data if data is None else few_of(data, examples)
        batches = inputs_of(model, few, example_inputs, "reconstruct", seed)
        parts = _without_single(gathered(batches, examples, to_the_end=batch_count(few) is not None))
    with work.reads_of(model), stage("running the model"):
        for number, (part, share) in enumerate(zip(parts, _shares(parts), strict=True)):
            work.begin(number, share)
            know_state(model, part)
            with undisturbed(model, seed=seed), work.hooked(model, work.see_dense):
                _run(model, part)
    with stage("fitting layers", len(work.small), summary=False) as work.stage:
        if len(parts) == 1:
            _run_small(small, work, work.fit, parts[0])
        else:
            _fit_in_turns(small, work, parts)
    return work.actions | {
        name: f"kept: tied to {other}"
        for name, other in work.tied.items()
        if other in work.small and name not in work.small
    }


def _run(model: nn.Module, batch: Any) -> None:
    with explained("rectify how='reconstruct'", 0, DataError):
        call(model, batch)


def _run_small(small: nn.Module, work: _Work, see: Any, part: Any) -> None:
    norms = [module for module in small.modules() if averages_statistics(module)]
    with undisturbed(small, seed=work.seed), following(norms, momentum=1.0), work.hooked(small, see):
        _run(small, part)


def _fit_in_turns(small: nn.Module, work: _Work, parts: Sequence[Any]) -> None:
    """Examples of several shapes do not go through a network at once: all of them go up to one layer, then the next."""
    another = True
    while another:
        for number, part in enumerate(parts):
            work.part = number
            with suppress(_Arrived):
                _run_small(small, work, work.collect, part)
        another = work.end_turn()


def _without_single(parts: list[Any]) -> list[Any]:
    """Batches of the examples, without single ones beside larger batches: these may have no variance for a norm."""
    if not parts:
        raise DataError("rectify how='reconstruct' got no data. Give some hundred examples")
    largest = max(map(samples_in, parts))
    return [part for part in parts if samples_in(part) > 1 or largest == 1]


def _shares(parts: Sequence[Any]) -> list[float]:
    sizes = [samples_in(part) for part in parts]
    return [size / sum(sizes) for size in sizes]


class _Arrived(BaseException):
    """The inputs of the layer whose turn it is were seen; nothing else catches this on its way out of a model."""


@dataclass(eq=False)
class _Target:
    """What a dense layer gave for one part of the examples, at which positions."""

    positions: Positions
    rows: Tensor


class _Work:
    """One reconstruction under way."""

    def __init__(self, small: nn.Module, plan: Plan, seed: int) -> None:
        self.plan, self.seed = plan, seed
        self.stage: Stage
        layers = weighted_layers(small) | parametrised_layers(small)
        self.small = {name: layer for name, layer in layers.items() if self._is_cut(name, layer)}
        self.tied = tied_to(small)
        # A network of which nothing may be trained is one in use: no single layer was frozen by choice.
        self._chosen_frozen = any(parameter.requires_grad for parameter in small.parameters())
        self.actions: dict[str, str] = {}
        self.part = 0
        """Which part of the examples goes through a network."""
        self._share = 1.0
        self._targets: defaultdict[str, dict[int, _Target]] = defaultdict(dict)
        self._seen: set[tuple[str, int]] = set()
        self._repeated: set[str] = set()
        self._readers = Readers()
        self._turn: str | None = None
        self._reads: dict[int, Tensor] = {}

    def begin(self, part: int, share: float) -> None:
        """The dense network runs on this part of the examples, a share of all of them."""
        self.part, self._share = part, share

    def _is_cut(self, name: str, layer: nn.Module) -> bool:
        """Whether the layer reads fewer channels than in the dense network."""
        return (0 if isinstance(layer, _ConvTransposeNd) else 1) in self._kept(name)

    def _kept(self, name: str) -> dict[int, str]:
        """What the plan keeps of each dimension of a weight, or of the parameters that it is computed from."""
        whole = [f"{name}.{own}" for own in ("weight", "weight_v", "weight_orig")]
        parts = f"{name}.parametrizations.weight.original"
        paths = [path for path in self.plan.slices if path in whole or path.startswith(parts)]
        return {dim: kept for path in paths for dim, kept in self.plan.slices[path].items()}

    @contextmanager
    def hooked(self, network: nn.Module, see: Any) -> Iterator[None]:
        """Within: ``see`` sees the outputs of the cut layers."""
        with ExitStack() as stack:
            for name, module in network.named_modules():
                if name in self.small:
                    stack.callback(module.register_forward_hook(_named(see, name), with_kwargs=True).remove)
            yield

    @contextmanager
    def reads_of(self, network: nn.Module) -> Iterator[None]:
        """Within: every read of a cut layer's output is counted."""
        with ExitStack() as stack:
            for module in network.modules():
                if averages_statistics(module):
                    stack.callback(module.register_forward_pre_hook(self._readers.enter_norm).remove)
                    stack.callback(module.register_forward_hook(self._readers.leave_norm).remove)
            stack.enter_context(self._readers)
            yield

    def see_dense(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Keep what the dense layer gives at some positions."""
        call_of_part = name, self.part
        self._repeated |= {name} if call_of_part in self._seen else set()
        self._seen.add(call_of_part)
        layer = self.small[name]
        if refusal(module) is not None or not isinstance(output, Tensor) or not takes_weight(layer):
            return
        weight, out = layer.weight, 1 if isinstance(layer, _ConvTransposeNd) else 0
        assert isinstance(weight, Tensor)
        unknowns = weight.numel() // weight.shape[out]
        count = min(max(ROWS_EACH * unknowns, FEWEST_ROWS), MOST_ROWS)
        count = max(int(count * self._share), 1)
        positions = Positions.drawn(spatial_shape(module, output), count, self.seed)
        rows = output_rows(module, output, positions)
        outputs_kept = self._kept(name).get(out)
        self._targets[name][self.part] = _Target(
            positions, rows if outputs_kept is None else rows[:, torch.from_numpy(from_text(outputs_kept))]
        )
        self._readers.watch(name, output)

    def fit(self, name: str, layer: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """Fit the layer to what reaches it; its new output goes on to the next one."""
        if self._keeps(name, layer):
            return None
        self._look(name, layer, args, kwargs)
        self._finish(name, layer)
        return layer.forward(*args, **kwargs)

    def collect(self, name: str, layer: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Look at what reaches the first layer that is not done yet, then stop; ``end_turn`` fits it."""
        if name in self.actions or self._keeps(name, layer) or self.part not in self._targets[name]:
            return
        self._turn = self._turn or name
        if name == self._turn:
            self._look(name, layer, args, kwargs)
            raise _Arrived

    def end_turn(self) -> bool:
        """Fit the layer that was looked at; False where there was none left."""
        name, self._turn = self._turn, None
        if name is not None:
            self._finish(name, self.small[name])
        return name is not None

    def _keeps(self, name: str, layer: nn.Module) -> bool:
        """Whether the layer keeps its weights, which is noted with its reason."""
        trouble = refusal(layer) or (None if takes_weight(layer) else "parametrised")
        if trouble is None and name in self.tied:  # the other module would get weights that do not fit what it reads
            trouble = f"tied to {self.tied[name]}"
        if trouble is None and any(map(self._is_frozen, original_weights(layer))):
            trouble = "frozen"
        if trouble is None and name in self._repeated:
            trouble = "it runs more than once"
        if trouble is None and not self._targets[name]:
            trouble = "the dense network does not run it"
        if trouble is not None:
            self.actions[name] = f"kept: {trouble}"
        return trouble is not None

    def _is_frozen(self, tensor: Any) -> bool:
        return self._chosen_frozen and not tensor.requires_grad

    def _look(self, name: str, layer: nn.Module, args: Any, kwargs: Any) -> None:
        value = args[0] if args else kwargs["input"]
        self._reads[self.part] = input_rows(layer, value, self._targets[name][self.part].positions)

    @torch.no_grad()
    def _finish(self, name: str, layer: nn.Module) -> None:
        """Fit the layer to all that was looked at."""
        targets, looked, self._reads = self._targets.pop(name), self._reads, {}
        reads, wants = torch.cat([*looked.values()]).double(), torch.cat([targets[p].rows for p in looked]).double()
        if len(looked) > 1:  # one half of the rows judges the other: both are of all parts
            reads, wants = (torch.cat([rows[::2], rows[1::2]]) for rows in (reads, wants))
        share = self._fit(layer, reads, wants, normed=self._readers.is_norm_alone(name))
        if share is None:
            self.actions[name] = "kept: parametrised"
        else:
            self.actions[name] = f"reconstructed, {share:.0%} of its error less" if share else "kept: no better weights"
        self.stage.move_to(len(self.actions), detail=name)

    def _fit(self, layer: Any, reads: Tensor, wants: Tensor, *, normed: bool) -> float | None:
        """New weight and bias; the share of the error that is gone. ``normed``: a norm alone reads what it gives.

        None, and no change, where the layer computes its weight and cannot arrive at the new one.
        """
        bias = layer.bias
        moves_bias = bias is not None and not self._is_frozen(bias)
        centred = moves_bias or normed
        transposed = isinstance(layer, _ConvTransposeNd)
        groups = layer.groups if isinstance(layer, _ConvNd) else 1
        # A matrix [in, out] of every group of a convolution.
        old = (
            [layer.weight.double().flatten(1)]
            if transposed
            else [piece.flatten(1).mT for piece in layer.weight.double().chunk(groups)]
        )
        if transposed and bias is not None:
            wants = wants - bias.double()[:, None]
        elif bias is not None:
            wants = wants - bias.double()
        pieces = zip(reads.chunk(groups, 1), wants.flatten(1).chunk(groups, 1), old, strict=True)
        shared = wants[0, 0].numel() if transposed and centred else 1
        fitted = [(fit_weights(x, y, w, centred=centred, shared=shared), x, y) for x, y, w in pieces]
        new = [weight for (weight, _), _, _ in fitted]
        weight = (new[0] if transposed else torch.cat([w.mT for w in new])).reshape(layer.weight.shape)
        if not put_weight(layer, weight):
            return None
        if moves_bias:
            rest = torch.cat([(y - x @ w).mean(dim=0) for w, (_, x, y) in zip(new, fitted, strict=True)])
            bias.add_(rest.reshape(len(bias), -1).mean(dim=1))
        return sum(share for (_, share), _, _ in fitted) / groups


def _named(see: Any, name: str) -> Any:
    return lambda module, args, kwargs, output: see(name, module, args, kwargs, output)
