"""Unstructured masks at initialization, one shot or in rounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from reconvene.criteria.base import Loss, Scorer, Subject
from reconvene.criteria.layerwise import keep_by_layer
from reconvene.criteria.registry import criterion as lookup
from reconvene.criteria.topk import Exact, keep_largest, kept, schedule, with_floor
from reconvene.criteria.weights import Layout
from reconvene.structure.nesting import on_model


@on_model
def masks_at(
    model: nn.Module,
    density: float,
    criterion: str = "synflow",
    *,
    example_inputs: Any,
    data: Iterable[Any] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    rounds: int | None = None,
    layerwise: str | None = None,
) -> dict[str, Tensor]:
    """Masks that keep ``density`` of all weights (``weights(model)``), highest scores first.

    Exactly ``max(1, floor(density * N + 0.5))`` of ``N`` weights are kept, and of every layer the best one at least, as
    long as that many are kept at all: a layer without weights cuts the network, or a way around it.

    With ``rounds`` (default 100 for ``synflow``, else 1) the density falls exponentially, the masked network is scored
    again each round, and no weight comes back. ``layerwise`` fixes each layer's density (``uniform``, ``erk``,
    ``smart_ratio``) instead of one threshold for all.

    ``data`` is an iterable of ``(inputs, target)`` batches and ``loss`` a function of ``(output, target)``, cross
    entropy by default; ``snip`` and ``grasp`` need data. Returns a bool tensor of each weight's shape by name, on the
    CPU. The model is left as it was. Raises ``CriterionError`` and, for a name it does not know, ``UnknownNameError``.
    """
    entry = lookup(criterion)
    subject = Subject(model, example_inputs, Layout.of(model), data, loss, seed)
    rounds = entry.rounds if rounds is None else rounds
    *_, (_, _, alive) = rounds_of(entry.begin(subject), subject.layout, density, rounds, layerwise)
    return {name: view.contiguous() for name, view in subject.layout.views(alive).items()}


def rounds_of(
    scorer: Scorer, layout: Layout, density: float, rounds: int, layerwise: str | None
) -> Iterator[tuple[float, Tensor, Tensor]]:
    """Each pruning round: the density it reaches, the scores before it, the mask ``[N]`` after it."""
    alive: Tensor | None = None
    for target in schedule(density, rounds):
        scores = scorer.scores(alive)
        alive = largest_mask(scores, layout, target, layerwise, alive, scorer.exact)
        yield target, scores, alive


def largest_mask(
    scores: Tensor,
    layout: Layout,
    density: float,
    layerwise: str | None,
    alive: Tensor | None,
    exact: Exact | None,
) -> Tensor:
    """Mask ``[N]`` of the largest scores, among all weights or layer by layer, of which none is emptied."""
    if layerwise is not None:
        return keep_by_layer(scores, layout, density, layerwise, alive=alive)
    keep = kept(density, layout.total)
    mask = keep_largest(scores, keep, alive=alive, exact=exact)
    return with_floor(mask, scores, layout.sizes, keep, alive=alive, exact=exact)
