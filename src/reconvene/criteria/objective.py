"""What a criterion tries to keep, as a function of masks: cheap enough to ask once per group and width."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from reconvene.criteria.base import Loss, Objective, Scorer, Subject, lost
from reconvene.criteria.registry import criterion as lookup
from reconvene.criteria.weights import Layout
from reconvene.errors import CriterionError, UnknownNameError


def objective(
    model: nn.Module,
    example_inputs: Any,
    criterion: str,
    *,
    data: Iterable[Any] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
) -> Objective:
    """The criterion's objective under masks, as a share of the dense network's: 1 when nothing is masked.

    The returned function takes masks by parameter name, each a tensor that broadcasts to the parameter, or None.
    For ``synflow`` it is ``R`` of the masked network, one forward pass. For the others it is their first-order signal,
    from scores computed once: the kept share of ``sum |w dL/dw|`` (``snip``), of ``sum |w|`` (``magnitude``), of the
    noise (``random``), and the gradient flow ``1 - 2 * sum of lost scores`` for ``grasp``, which may rise above one or
    fall below zero. Masks of parameters that carry no score (biases, norms) change nothing; a name the model does not
    have is an error.
    """
    entry = lookup(criterion)
    subject = Subject(model, example_inputs, Layout.of(model), data, loss, seed, small=True)
    inner = entry.objective(subject) if entry.objective else kept_share(entry.begin, subject)
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}

    def evaluate(masks: Mapping[str, Tensor] | None) -> float:
        for name in masks or {}:
            if name not in names:
                raise UnknownNameError("parameter", name, names)
        return inner(masks)

    return evaluate


def kept_share(begin: Callable[[Subject], Scorer], subject: Subject) -> Objective:
    """Share of the sum of (nonnegative) scores that masks keep."""
    views = subject.layout.views(begin(subject).scores(None).clone())
    total = float(sum(view.double().sum() for view in views.values()))
    if total == 0.0:
        raise CriterionError("every score is zero, so there is nothing a mask could keep.")
    return lambda masks: 1.0 - lost(views, masks) / total
