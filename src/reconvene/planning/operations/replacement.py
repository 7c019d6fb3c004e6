"""``rc.replace``: cheaper forms in the place of non-linear operations, where they lose least for what they save."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from reconvene.allocation.choices import PricedChoice, choose_within
from reconvene.criteria.base import Loss
from reconvene.errors import ArgumentError, BudgetError, ModelError, UnknownNameError
from reconvene.models import ModelSource
from reconvene.models import example_inputs as inputs_of_shape
from reconvene.planning.operations.losses import FittedSite, fit_sites, is_norm_site
from reconvene.planning.operations.prices import KEPT, price_forms
from reconvene.planning.target import DeviceLike
from reconvene.structure import analyse
from reconvene.structure.copies import copy_model
from reconvene.structure.nesting import on_model
from reconvene.surgery.compose import plan_of_replaced
from reconvene.surgery.history import note_plans, plans_of
from reconvene.surgery.operations import OperationSite, Replacement, find_sites, forms, operations
from reconvene.surgery.operations.forms import POLYNOMIAL, Polynomial
from reconvene.surgery.operations.substitute import set_module
from reconvene.utils.arguments import check_model, check_seed, checked
from reconvene.utils.numbers import seconds
from reconvene.utils.tables import Cell, text_table


@dataclass(frozen=True)
class ReplacementRow:
    """One site: what it was and is (``kept`` where it stays), the estimated loss, and its price before and after."""

    path: str
    operation: str
    form: str
    loss: float
    price_before: float
    price_after: float


@dataclass(frozen=True, eq=False)
class Replaced:
    """A network with other forms.

    Attributes:
        model: a new module.
        replacements: the text of each form by the path of its module, as artifacts keep it.
        rows: one a site.
        largest: by path, the largest input that a polynomial was fitted to.
    """

    model: nn.Module
    replacements: dict[str, str]
    rows: tuple[ReplacementRow, ...]
    largest: dict[str, float]

    def __str__(self) -> str:
        lines: list[list[Cell]] = [
            [row.path, row.operation, row.form, row.loss, seconds(row.price_before), seconds(row.price_after)]
            for row in self.rows
        ]
        before, after = (sum(getattr(row, name) for row in self.rows) for name in ("price_before", "price_after"))
        foot = [f"{len(self.replacements)} of {len(self.rows)} replaced: {seconds(before)} -> {seconds(after)}"]
        return text_table(["site", "operation", "form", "loss", "before", "after"], lines, right=(4, 5), foot=foot)


@checked(model=check_model, seed=check_seed)
def replace(
    model: nn.Module,
    example_inputs: Any,
    *,
    allow: Sequence[str] | None = None,
    budget: float | None = None,
    data: Iterable[Any] | None = None,
    loss: Loss | None = None,
    device: DeviceLike | None = None,
    precision: str = "fp32",
    seed: int = 0,
) -> nn.Module:
    """Replace non-linear operations by cheaper forms, or by those that a chip has; the model is only read.

    Which form stands where is decided by what it is estimated to lose on ``data``, ``1/2 E[(dL/dy)^2 (form(x) -
    act(x))^2]``, against its price on the device, in the solver that decides widths. The table of operations and forms
    is ``surgery/operations/forms.toml``. Nothing is trained here: a recipe
    blends the forms in while it trains (``rc.compress``).

    Args:
        model: the network, best a trained one.
        example_inputs: as for ``rc.groups``.
        allow: operations that the result may have, such as ``["relu", "relu6"]``; additions and multiplications it may
            always have, polynomials of degree two and four where ``"polynomial"`` is among them. By default all but
            those.
        budget: share of the price of all operations that the result may cost, such as ``0.5``. By default no limit, so
            that of the allowed forms the one of least loss is taken.
        data: batches ``(inputs, target)``, of which about 128 examples are read.
        loss: ``loss(output, target)``; cross entropy by default.
        device: whose price it is, as for ``rc.plan``; by default this machine.
        precision: ``fp32`` or ``int8``, of the network whose operations are priced.
        seed: of what ``data`` draws.

    Raises:
        UnknownNameError: no such operation.
        ModelError: an operation that is not allowed cannot be replaced; the message names it and the layer.
        BudgetError: even the cheapest allowed forms cost more; ``error.floor`` says what share.
        CriterionError: no data, or data that do not fit.

    >>> import torch
    >>> import reconvene as rc
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardswish(), nn.Flatten(), nn.Linear(288, 4))
    >>> x, y = torch.randn(16, 3, 8, 8), torch.arange(16) % 4
    >>> rc.replace(model, x[:1], allow=["relu6"], data=[(x, y)])[1]
    ScaledReLU6()
    """
    return choose_replacements(
        model,
        example_inputs,
        allow=allow,
        budget=budget,
        data=data,
        loss=loss,
        device=device,
        precision=precision,
        seed=seed,
    ).model


@on_model
def choose_replacements(
    model: nn.Module,
    example_inputs: Any,
    *,
    allow: Sequence[str] | None = None,
    budget: float | None = None,
    data: Iterable[Any] | None = None,
    loss: Loss | None = None,
    device: DeviceLike | None = None,
    precision: str = "fp32",
    seed: int = 0,
) -> Replaced:
    """Choose the replacements; returns them with losses and prices. Args and errors as for ``rc.replace``."""
    if allow is None and budget is None:
        raise ArgumentError("nothing says what to replace. Give allow=['relu', 'relu6'], or budget=0.5, or both")
    if budget is not None and not 0 < budget <= 1:
        raise ArgumentError(f"budget={budget!r} is not a share of what the operations cost now. Try: budget=0.5")
    allowed = check_operations(allow)
    if data is None:
        raise ArgumentError("replacing is judged on data: pass data=, batches of inputs and targets")
    sites = find_sites(model, example_inputs)
    names = {
        site.path: _candidates(site, model.get_submodule(site.path), allowed) for site in sites if site.replaceable
    }
    sites = _to_decide(sites, names, allowed)
    fitted = fit_sites(model, example_inputs, sites, names, data=data, loss=loss, seed=seed)
    structure = analyse(model, example_inputs)
    prices = price_forms(model, structure, sites, names, device=device, precision=precision)
    chosen = _choose(fitted, prices, allowed, budget)
    network, rows, largest = copy_model(model), [], {}
    for site, choice in zip(fitted, chosen, strict=True):
        path, before = site.site.path, prices[site.site.path][KEPT]
        rows.append(ReplacementRow(path, site.site.operation, choice.name, choice.loss, before, choice.price))
        if choice.name == KEPT:
            continue
        module = site.modules[choice.name].train(model.training)
        set_module(network, path, module)
        if isinstance(module, Polynomial):
            largest[path] = site.largest
    replacements = {row.path: row.form for row in rows if row.form != KEPT}
    note_replacements(network, replacements)
    _require_allowed(network, example_inputs, allowed)
    return Replaced(network, replacements, tuple(rows), largest)


def _require_allowed(model: nn.Module, example_inputs: Any, allowed: frozenset[str]) -> None:
    """Raise ModelError where an operation is left that is not allowed."""
    left = [site for site in find_sites(model, example_inputs) if site.operation not in allowed]
    if left:
        raise ModelError(f"operations that are not allowed are left: {'; '.join(map(str, left[:5]))}")


def check_operations(allow: Sequence[str] | None) -> frozenset[str]:
    """Operations that may be there. Raises UnknownNameError for a name that the table does not have."""
    if allow is None:
        return frozenset(operations()) - {POLYNOMIAL}
    if isinstance(allow, str):
        raise ArgumentError(f"allow={allow!r} is not a list of operations. Try: allow={allow.split(',')!r}")
    for name in allow:
        if name not in operations():
            raise UnknownNameError("operation", name, operations())
    return frozenset(allow)


def note_replacements(model: nn.Module, replacements: Mapping[str, str]) -> None:
    """Remember on the module what was replaced, for ``rc.save``; its plans become those of the network as it is now."""
    source = getattr(model, "reconvene_source", None)
    earlier = getattr(model, "reconvene_replaced", {})
    # object.__setattr__, because these are no parts of the module.
    object.__setattr__(model, "reconvene_replaced", {**earlier, **replacements})
    if not isinstance(source, ModelSource):
        return
    source = dataclasses.replace(source, replaced={**source.replaced, **replacements})
    object.__setattr__(model, "reconvene_source", source)
    if not (before := plans_of(model)) or source.input_shape is None:
        return
    network = source.build(allow_import=True)  # the model is here: whatever it imports was imported
    inputs, plans = inputs_of_shape(source.input_shape), []
    for plan in before:
        plans.append(plan_of_replaced(network, inputs, plan))
        network = plans[-1].apply(network)
    note_plans(model, plans)


_FREE = 1e-12
"""Seconds; a limit is above zero."""


def _candidates(site: OperationSite, module: nn.Module, allowed: frozenset[str]) -> list[str]:
    """Forms that may stand at a site, in the place of this module."""
    return [
        name
        for name, form in forms().items()
        if site.operation in form.operations and allowed.issuperset(form.emits) and _fits(name, site, module)
    ]


def _fits(form: str, site: OperationSite, module: nn.Module) -> bool:
    """Whether a form of a layer norm does what the module does: over one dimension, Newton's over the last one."""
    if not is_norm_site(site):
        return True
    dimensions = len(tuple(getattr(module, "normalized_shape", ())))
    return dimensions == 1 and (site.axis == -1 or form != "newton_layer_norm")


def _to_decide(
    sites: Sequence[OperationSite], names: Mapping[str, Sequence[str]], allowed: frozenset[str]
) -> list[OperationSite]:
    """Sites with a choice. Raises ModelError for operations that must go and cannot."""
    stuck = [site for site in sites if site.operation not in allowed and not names.get(site.path)]
    if stuck:
        reasons = "; ".join(f"{site}: {_why_not(site)}" for site in stuck[:3])
        more = f", and {len(stuck) - 3} more" if len(stuck) > 3 else ""
        raise ModelError(f"operations that are not allowed cannot be replaced: {reasons}{more}")
    return [site for site in sites if names.get(site.path)]


def _why_not(site: OperationSite) -> str:
    known = [name for name, form in forms().items() if site.operation in form.operations]
    if not known:
        return f"nothing can stand in the place of {site.operation}; allow it, or change the model"
    if not site.replaceable:
        return "it is computed in a module that does more. Give it a module of its own, such as nn.GELU(), or allow it"
    emitted = {name: " and ".join(forms()[name].emits) or "nothing" for name in known}
    return "its forms need more: " + ", ".join(f"{name} needs {needs}" for name, needs in emitted.items())


def _choose(
    fitted: Sequence[FittedSite],
    prices: Mapping[str, Mapping[str, float]],
    allowed: frozenset[str],
    budget: float | None,
) -> list[PricedChoice]:
    """One choice a site. Raises BudgetError where even the cheapest are above the budget."""
    places = []
    for site in fitted:
        price = prices[site.site.path]
        choices = [PricedChoice(text, loss, price[Replacement.parse(text).form]) for text, loss in site.losses.items()]
        if site.site.operation in allowed:
            choices.append(PricedChoice(KEPT, 0.0, price[KEPT]))
        places.append(choices)
    now = sum(prices[site.site.path][KEPT] for site in fitted)
    chosen = choose_within(places, float("inf") if budget is None else max(budget * now, _FREE))
    if chosen is None and not now:
        raise BudgetError(
            "the operations cost nothing now: each is fused with the layer before it. Leave the price out"
        )
    if chosen is None:
        floor = sum(min(choice.price for choice in choices) for choices in places) / now
        raise BudgetError(
            f"operations cannot cost {budget:.0%} of what they do: with the cheapest allowed forms it is {floor:.0%}. "
            "Ask for no less, or allow more operations",
            {"share": floor},
        )
    return chosen
