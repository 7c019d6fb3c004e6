"""Least squares, layer by layer: what a cut layer computes from fewer inputs, against what the dense layer gave.

Each cut layer is fitted on what reaches it in the small network, when everything before it is fitted already, so that
errors do not add up (He, Zhang and Sun, 1707.06168). No labels and no gradients: one pass of some hundred examples
through each network.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from reconvene.criteria.batches import samples_in
from reconvene.criteria.gradients import explained
from reconvene.errors import DataError
from reconvene.rectifier.calibration import undisturbed
from reconvene.rectifier.layers import weighted_layers
from reconvene.rectifier.least_squares import Positions, fit_weights, input_rows, output_rows, refusal, spatial_shape
from reconvene.rectifier.recalibrate import following, inputs_of
from reconvene.structure import call, tensors_in
from reconvene.surgery.ranges import from_text
from reconvene.utils.norms import averages_statistics
from reconvene.utils.progress import Stage, stage

if TYPE_CHECKING:
    from reconvene.surgery import Plan

_EXAMPLES = 512
# Of the examples that go through the networks at once.
MOST_VALUES = 2**25
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
    ones. Layers that are no product with a weight, or that run more than once, keep their weights.

    Args:
        small: what ``plan.apply`` gave, with the weights of ``model``.
        plan: the plan.
        model: the dense network, only read.
        data: batches as ``Batches`` takes them; targets are not read.
        example_inputs: as for ``recalibrate``.
        examples: how many are used at most, fewer where their inputs hold more than ``MOST_VALUES`` numbers.
        seed: of what the data draws, and of the positions that are looked at.

    Returns:
        what was done to each cut layer, by its name.

    Raises:
        DataError: there are no data, or they do not fit.
    """
    work = _Work(small, plan, seed)
    with undisturbed(model, seed=seed), stage("reading examples"):  # data may draw
        batch = _gather(inputs_of(model, data, example_inputs, "reconstruct", seed), examples)
    with (
        undisturbed(model, seed=seed),
        work.hooked(model, work.see_dense),
        work.reads_of(model),
        stage("running the model"),
    ):
        _run(model, batch)
    norms = [module for module in small.modules() if averages_statistics(module)]
    with (
        undisturbed(small, seed=seed),
        following(norms, momentum=1.0),
        work.hooked(small, work.fit),
        stage("fitting layers", len(work.small), summary=False) as work.stage,
    ):
        _run(small, batch)
    return work.actions


def _run(model: nn.Module, batch: Any) -> None:
    with explained("rectify how='reconstruct'", 0, DataError):
        call(model, batch)


def _gather(batches: Iterable[Any], examples: int) -> Any:
    """The first ``examples`` of some batches of inputs in one."""
    parts: list[Any] = []
    count = values = 0
    for inputs in batches:
        size = samples_in(inputs)
        each = sum(tensor.numel() for tensor in tensors_in(inputs)) // max(size, 1)
        room = min(examples - count, max((MOST_VALUES - values) // max(each, 1), 0 if parts else 1), size)
        if room <= 0:
            break
        parts.append(pytree.tree_map_only(Tensor, lambda t, n=room: t[:n] if t.ndim else t, inputs))  # type: ignore[misc]
        count, values = count + room, values + room * each
    if not parts:
        raise DataError("rectify how='reconstruct' got no data. Give some hundred examples")
    return pytree.tree_map(
        lambda *same: torch.cat(same) if isinstance(same[0], Tensor) and same[0].ndim else same[0], *parts
    )


@dataclass(eq=False)
class _Target:
    """What a dense layer gave, at which positions; ``normed``: a norm that follows its data alone reads it."""

    positions: Positions
    rows: Tensor
    normed: bool = False


class _Readers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Who reads the outputs of cut layers: norms that follow their data, or anything else."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._outputs: dict[int, tuple[str, weakref.ref[Tensor]]] = {}
        self._by_norms: Counter[str] = Counter()
        self._by_others: Counter[str] = Counter()
        self._in_norm = False

    def watch(self, name: str, output: Tensor) -> None:
        """Count who reads this from now on."""
        self._outputs[id(output)] = name, weakref.ref(output)

    def enter_norm(self, _: nn.Module, args: Any) -> None:
        """Count the norm as one reader of its input, however many operations it has."""
        self._in_norm = True
        for name in self._names(args):
            self._by_norms[name] += 1

    def leave_norm(self, *_: Any) -> None:
        """Other modules follow."""
        self._in_norm = False

    def is_norm_alone(self, name: str) -> bool:
        """Whether one norm read this output, and nothing else did."""
        return self._by_norms[name] == 1 and not self._by_others[name]

    def _names(self, args: Any) -> set[str]:
        """The watched outputs among arguments; an address may belong to another tensor by now."""
        found = ((self._outputs.get(id(tensor)), tensor) for tensor in tensors_in(args))
        return {entry[0] for entry, tensor in found if entry is not None and entry[1]() is tensor}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count the reads of a call, then make it."""
        if not self._in_norm:
            self._by_others.update(self._names((args, kwargs)))
        return func(*args, **(kwargs or {}))


class _Work:
    """One reconstruction under way."""

    def __init__(self, small: nn.Module, plan: Plan, seed: int) -> None:
        self.plan, self.seed = plan, seed
        self.stage: Stage
        self.small = {name: layer for name, layer in weighted_layers(small).items() if self._is_cut(name, layer)}
        self.actions: dict[str, str] = {}
        self._targets: dict[str, _Target] = {}
        self._calls: Counter[str] = Counter()
        self._readers = _Readers()

    def _is_cut(self, name: str, layer: nn.Module) -> bool:
        """Whether the layer reads fewer channels than in the dense network."""
        dims = self.plan.slices.get(f"{name}.weight", {})
        return (0 if isinstance(layer, _ConvTransposeNd) else 1) in dims

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
        """Within: every read of a cut layer's output is counted; afterwards targets know whether a norm alone reads."""
        with ExitStack() as stack:
            for module in network.modules():
                if averages_statistics(module):
                    stack.callback(module.register_forward_pre_hook(self._readers.enter_norm).remove)
                    stack.callback(module.register_forward_hook(self._readers.leave_norm).remove)
            stack.enter_context(self._readers)
            yield
        for name, target in self._targets.items():
            target.normed = self._readers.is_norm_alone(name)

    def see_dense(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Keep what the dense layer gives at some positions."""
        self._calls[name] += 1
        if refusal(module) is not None or not isinstance(output, Tensor):
            return
        layer = self.small[name]
        weight = layer.weight
        assert isinstance(weight, Tensor)
        unknowns = weight.numel() // weight.shape[1 if isinstance(layer, _ConvTransposeNd) else 0]
        count = min(max(ROWS_EACH * unknowns, FEWEST_ROWS), MOST_ROWS)
        positions = Positions.drawn(spatial_shape(module, output), count, self.seed)
        rows = output_rows(module, output, positions)
        dims = self.plan.slices[f"{name}.weight"]
        inputs_kept = dims.get(1 if isinstance(layer, _ConvTransposeNd) else 0)
        self._targets[name] = _Target(
            positions, rows if inputs_kept is None else rows[:, torch.from_numpy(from_text(inputs_kept))]
        )
        self._readers.watch(name, output)

    def fit(self, name: str, layer: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """Fit the layer to what reaches it; its new output goes on to the next one."""
        trouble = refusal(layer) or ("it runs more than once" if self._calls[name] != 1 else None)
        if trouble is None and name not in self._targets:
            trouble = "the dense network does not run it"
        if trouble is not None:
            self.actions[name] = f"kept: {trouble}"
            return None
        share = self._fit(layer, args[0] if args else kwargs["input"], self._targets.pop(name))
        self.actions[name] = f"reconstructed, {share:.0%} of its error less" if share else "kept: no better weights"
        self.stage.move_to(len(self.actions), detail=name)
        return layer.forward(*args, **kwargs)

    def _fit(self, layer: Any, value: Tensor, target: _Target) -> float:
        """New weight and bias; the share of the error that is gone."""
        reads = input_rows(layer, value, target.positions).double()
        wants = target.rows.double()
        bias = layer.bias
        centred = bias is not None or target.normed
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
        fitted = [(fit_weights(x, y, w, centred=centred), x, y) for x, y, w in pieces]
        new = [weight for (weight, _), _, _ in fitted]
        layer.weight.copy_((new[0] if transposed else torch.cat([w.mT for w in new])).reshape(layer.weight.shape))
        if bias is not None:
            rest = torch.cat([(y - x @ w).mean(dim=0) for w, (_, x, y) in zip(new, fitted, strict=True)])
            bias.add_(rest.reshape(len(bias), -1).mean(dim=1))
        return sum(share for (_, share), _, _ in fitted) / groups


def _named(see: Any, name: str) -> Any:
    return lambda module, args, kwargs, output: see(name, module, args, kwargs, output)
