"""What replacing non-linear operations loses, estimated on data; forms are fitted to what their sites see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reconvene.criteria.base import Loss
from reconvene.criteria.batches import Batches, argument_names, samples_in
from reconvene.criteria.gradients import explained, loss_of
from reconvene.structure.copies import copy_model
from reconvene.structure.fresh import call_afresh, know_state
from reconvene.structure.inputs import map_tensors, tensors_in
from reconvene.surgery.operations import OperationSite, Replacement
from reconvene.utils.module_tree import device_of
from reconvene.utils.sampling import spread_places

EXAMPLES = 128
"""Examples that losses are estimated on, and forms fitted to."""
POINTS = 4096
"""Numbers, or vectors of channels, that a form is fitted to at one site."""
WITHIN = 4.0
"""Standard deviations around the mean between which polynomials are fitted."""
_USER = "replace"


@dataclass(frozen=True)
class FittedSite:
    """A site with the forms that can stand there: modules and losses by the text that artifacts keep.

    ``largest``: the largest input that polynomials were fitted to.
    """

    site: OperationSite
    modules: dict[str, nn.Module]
    losses: dict[str, float]
    largest: float


def fit_sites(
    model: nn.Module,
    example_inputs: Any,
    sites: Sequence[OperationSite],
    names: Mapping[str, Sequence[str]],
    *,
    data: Iterable[Any],
    loss: Loss | None,
    seed: int,
) -> list[FittedSite]:
    """Fit every form that ``names`` lists for a site's path, and estimate its loss.

    ``1/2 E[(dL/dy)^2 (form(x) - act(x))^2]``, summed over the elements of one example: the second-order term of the
    loss with the squared gradient for its curvature. Raises CriterionError for data that do not fit.
    """
    model = copy_model(model).eval()
    know_state(model, example_inputs)  # before the hooks, which the recorded pass must not meet
    for parameter in model.parameters():  # frozen layers lose by a form as well
        parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
    batches = _batches(model, example_inputs, data, seed)
    samples = {site.path: _Sample(site, -(-POINTS // len(batches))) for site in sites}
    with torch.no_grad(), _hooks(model, sites, lambda path, x, y: samples[path].add(x, y)):
        for number, (inputs, _) in enumerate(batches):
            with explained(_USER, number):
                call_afresh(model, inputs)
    fitted = {}
    for site in sites:
        before, sample = model.get_submodule(site.path), samples[site.path]
        fitted[site.path] = dict(_fitted(name, before, site, sample) for name in names[site.path])
    losses = _losses(model, batches, sites, fitted, loss)
    return [FittedSite(site, fitted[site.path], losses[site.path], samples[site.path].largest) for site in sites]


class _Sample:
    """What a site read and gave: numbers ``[n]``, or of norms vectors of channels ``[n, C]``."""

    def __init__(self, site: OperationSite, points: int) -> None:
        self._site, self._points = site, points
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take some of one batch, spread over it."""
        for tensor, parts in ((x, self._inputs), (y, self._outputs)):
            rows = tensor.movedim(self._site.axis, -1).flatten(0, -2) if is_norm_site(self._site) else tensor.flatten()
            places = torch.from_numpy(spread_places(len(rows), self._points)).to(rows.device)
            parts.append(rows[places].detach().double())

    @property
    def inputs(self) -> Tensor:
        """What was read, float64."""
        return torch.cat(self._inputs)

    @property
    def outputs(self) -> Tensor:
        """What was given, float64."""
        return torch.cat(self._outputs)

    @property
    def largest(self) -> float:
        """The largest input that polynomials are fitted to."""
        return abs(float(self.inputs.mean())) + WITHIN * float(self.inputs.std())


def is_norm_site(site: OperationSite) -> bool:
    """Whether the operation is over vectors of channels."""
    return site.operation == "layer_norm"


def _batches(model: nn.Module, example_inputs: Any, data: Iterable[Any], seed: int) -> list[tuple[Any, Any]]:
    """Batches until there are ``EXAMPLES``."""
    device = device_of(model)
    names = argument_names(model, example_inputs)
    batches: list[tuple[Any, Any]] = []
    count = 0
    for inputs, target in Batches(data, user="replacing operations", device=device, seed=seed, names=names):
        batches.append((inputs, target))
        count += samples_in(inputs, target)
        if count >= EXAMPLES:
            break
    return batches


@contextmanager
def _hooks(
    model: nn.Module, sites: Sequence[OperationSite], see: Callable[[str, Tensor, Tensor], None]
) -> Iterator[None]:
    """Call ``see(path, input, output)`` for every call of a site's module; the input is as it was before the call."""
    with ExitStack() as stack:
        for site in sites:
            module, inputs = model.get_submodule(site.path), list[Tensor]()

            def before(
                _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: list[Tensor] = inputs
            ) -> None:
                inputs.append(tensors_in((args, kwargs))[0].detach().clone())  # the module may write into it

            def after(
                _: nn.Module, args: Any, output: Tensor, inputs: list[Tensor] = inputs, path: str = site.path
            ) -> None:
                see(path, inputs.pop(), output)

            stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(after).remove)
        yield


def _fitted(name: str, before: nn.Module, site: OperationSite, sample: _Sample) -> tuple[str, nn.Module]:
    """A form in the place of a module, and the text that artifacts keep of it."""
    numbers: tuple[float, ...] = ()
    if name.startswith("polynomial"):
        numbers = _polynomial(sample, degree=int(name.removeprefix("polynomial")))
    elif name == "newton_layer_norm":
        largest = float(sample.inputs.var(1, unbiased=False).max())
        numbers = ((1.5 * max(largest, 1e-12)) ** -0.5,)
    elif name == "batch_norm" and site.axis == 1:
        numbers = (1.0, float(site.rank))
    elif name == "integer_softmax":
        numbers = (float(site.axis),)
    replacement = Replacement(name, numbers)
    module = replacement.module(before)
    if isinstance(module, _BatchNorm):
        _fit_batch_norm(module, sample)
    return str(replacement), module.eval()


def _polynomial(sample: _Sample, *, degree: int) -> tuple[float, ...]:
    """Least squares on the inputs within ``WITHIN`` standard deviations, in powers of ``x``, the constant first."""
    x, y = sample.inputs, sample.outputs
    near = (x - x.mean()).abs() <= WITHIN * x.std()
    scale = max(float(x[near].abs().max()), 1e-12)
    powers = torch.stack([(x[near] / scale) ** power for power in range(degree + 1)], dim=1)
    solution = torch.linalg.lstsq(powers, y[near, None], driver="gelsd").solution.flatten()
    return tuple(float(value) / scale**power for power, value in enumerate(solution))


def _fit_batch_norm(norm: _BatchNorm, sample: _Sample) -> None:
    """Statistics of the inputs, and for each channel the scale and shift that are nearest to what the norm gave."""
    x, y = sample.inputs, sample.outputs
    mean, variance = x.mean(0), x.var(0, unbiased=False)
    slope = ((x - mean) * (y - y.mean(0))).mean(0) / variance.clamp_min(1e-12)
    assert norm.running_mean is not None and norm.running_var is not None, "built with statistics"
    with torch.no_grad():
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_(slope * (variance + norm.eps).sqrt())
        norm.bias.copy_(y.mean(0))


def _losses(
    model: nn.Module,
    batches: Sequence[tuple[Any, Any]],
    sites: Sequence[OperationSite],
    fitted: Mapping[str, Mapping[str, nn.Module]],
    loss: Loss | None,
) -> dict[str, dict[str, float]]:
    """The estimated loss of every form at every site."""
    totals = {path: dict.fromkeys(modules, 0.0) for path, modules in fitted.items()}
    count = 0

    def see(path: str, x: Tensor, y: Tensor) -> None:
        if not y.requires_grad:
            return  # no weight before it, and none of the loss depends on it

        given = y.detach().clone()

        def add(gradient: Tensor) -> None:
            with torch.no_grad():
                for text, module in fitted[path].items():
                    totals[path][text] += float(((module(x) - given) * gradient).double().square().sum()) / 2

        y.register_hook(add)  # type: ignore[no-untyped-call]

    with _hooks(model, sites, see), torch.enable_grad():
        for number, (inputs, target) in enumerate(batches):
            size = samples_in(inputs, target)
            with explained(_USER, number):
                output = call_afresh(model, map_tensors(_with_gradient, inputs))
                # The loss is a mean over examples that do not depend on each other in eval mode: times their number,
                # the gradient at one example's output is that of its own loss.
                total = loss_of(loss, output, target, user=_USER) * size
                total.backward()  # type: ignore[no-untyped-call]
            model.zero_grad(set_to_none=True)
            count += size
    return {path: {text: value / count for text, value in by_form.items()} for path, by_form in totals.items()}


def _with_gradient(tensor: Tensor) -> Tensor:
    """The same numbers with a gradient, and no leaf: the first layer may write into them."""
    return tensor.detach().requires_grad_() * 1 if tensor.is_floating_point() else tensor
