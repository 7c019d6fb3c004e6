"""Where a plan comes from, and what its networks cost: read by people and reports, never by surgery."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated

from pydantic import AfterValidator

from reconvene.costs.unit import FLOPS
from reconvene.utils.schema import AnySeed, NonNegative, Plain, Seconds, Size, Text
from reconvene.utils.tables import smaller


def _of_both_networks(costs: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    if costs and not (costs.keys() == {"dense", "pruned"} and costs["pruned"].keys() <= costs["dense"].keys()):
        raise ValueError("does not give the cost of the dense network for every one of the pruned network")
    return costs


@dataclass(frozen=True)
class Provenance:
    """How the channels were chosen, from which data, and for which budget."""

    criterion: Text = ""
    evaluator: Text = ""
    seed: AnySeed = 0
    data: Text | None = None
    budget: dict[str, Plain] = field(default_factory=dict)
    limits: dict[str, NonNegative] = field(default_factory=dict)

    @property
    def provenance(self) -> Provenance:
        """How the channels were chosen, without the rest of the plan."""
        return Provenance(**{entry.name: getattr(self, entry.name) for entry in fields(Provenance)})


@dataclass(frozen=True)
class Accounting:
    """The costs of both networks, and what was measured of the dense one on the way."""

    costs: Annotated[dict[str, dict[str, NonNegative]], AfterValidator(_of_both_networks)] = field(default_factory=dict)
    """``dense`` and ``pruned`` cost of every kind."""
    spread: dict[str, NonNegative] = field(default_factory=dict)
    """Activation spread of the dense network per layer, which rectification restores."""
    examples: Size | None = None
    """Training examples of an epoch, if known; the FLOPs of an epoch follow from it."""
    conditions: dict[str, Text] = field(default_factory=dict)
    """What a cost holds for, where the plan was about a certain device or file: ``{"latency": "measured on ..."}``."""
    timings: dict[str, Seconds] = field(default_factory=dict, compare=False)
    """Seconds of each step of this run; never saved, so that a seed gives the same bytes."""

    @property
    def training_flops(self) -> dict[str, float]:
        """FLOPs of an epoch in training, ``dense`` and ``pruned``; of one example where ``examples`` is not known.

        Forward, and the gradients of inputs and weights: six a multiply-accumulate, two each in three products of the
        same size. Norms, elementwise work and the optimizer are not in it.
        """
        examples = self.examples or 1
        return {network: 6.0 * costs["macs"] * examples for network, costs in self.costs.items() if "macs" in costs}

    @property
    def training_unit(self) -> str:
        """What ``training_flops`` are of, in words."""
        return f"an epoch of {self.examples:,} examples" if self.examples else "an example"

    @property
    def training_text(self) -> tuple[str, str, str]:
        """``training_flops`` as people read them: dense, pruned, how many times less."""
        dense, pruned = self.training_flops["dense"], self.training_flops["pruned"]
        return FLOPS.text(dense), FLOPS.text(pruned), smaller(dense, pruned)
