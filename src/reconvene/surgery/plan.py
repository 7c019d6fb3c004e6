"""The plan: which channels of which groups stay.

JSON, made without touching the model, applied to any fresh copy of it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator
from torch import nn

from reconvene.costs import text_of
from reconvene.costs.unit import FLOPS
from reconvene.errors import PlanError
from reconvene.structure import Keep, Structure
from reconvene.structure.pruned_sizes import kept_positions
from reconvene.structure.replay import following_attributes, shrunk_shapes
from reconvene.structure.scalar_args import Numbers
from reconvene.structure.state import StateItem, known_state
from reconvene.surgery.bits import BitPlan
from reconvene.surgery.ranges import Ranges, from_text, to_text
from reconvene.surgery.silence import SilencedCall, restricted_sites
from reconvene.utils import schema
from reconvene.utils.files import read_regular, write_atomic
from reconvene.utils.schema import AnySeed, Count, Name, NonNegative, Number, Plain, Seconds, Size, Text
from reconvene.utils.tables import smaller, text_table

FORMAT, VERSION, WITH_BITS = "reconvene-plan", 1, 2
"""A plan with bits has a version of its own, so that releases that know none say so."""
_FILE_LIMIT = 2**28
"""Bytes of the largest plan that is read; that of a network of 300 million parameters has two millions."""


@schema.closed
@dataclass
class PlanRow:
    """One group in a plan: how wide it was, how wide it stays, and why."""

    name: Name
    dense: Count
    width: Count
    keep: Ranges
    loss: Number | None = None
    density: Number | None = None
    why: Text = ""


def _fixed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _of_both_networks(costs: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    if costs and not (costs.keys() == {"dense", "pruned"} and costs["pruned"].keys() <= costs["dense"].keys()):
        raise ValueError("does not give the cost of the dense network for every one of the pruned network")
    return costs


@schema.opened  # besides its fields a file holds its format and version
@dataclass
class Plan:
    """What stays of a model.

    ``apply`` makes the smaller network, ``mask`` the silenced reference of the same shapes.

    >>> import torch
    >>> import reconvene as rc
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
    >>> x = torch.randn(1, 3, 16, 16)
    >>> plan = rc.plan(model, x, rc.Budget(params="2x"))
    >>> small, silenced = plan.apply(model), plan.mask(model)
    >>> torch.allclose(small(x), silenced(x), atol=1e-6)
    True
    """

    rows: list[PlanRow]
    pinned: list[dict[str, Plain]]
    """Groups nothing of which can leave: ``name``, ``width``, ``why``."""
    shapes: dict[Name, list[Count]]
    """Dense shape of every parameter and buffer, by its first name: the plan fits this model and no other."""
    slices: dict[Name, dict[Count, Ranges]]
    """Kept positions (as ranges) by parameter and dimension; what is not named stays whole."""
    attributes: list[tuple[Name, Name, Annotated[Plain, AfterValidator(_fixed)]]]
    """``(module, attribute, value)`` of the sizes that modules keep beside their tensors."""
    sites: list[SilencedCall] = field(default_factory=list)
    state: list[StateItem] = field(default_factory=list)
    """What a forward pass leaves for the next one, and how it starts afresh in the networks that a plan makes."""
    criterion: Text = ""
    evaluator: Text = ""
    seed: AnySeed = 0
    data: Text | None = None
    budget: dict[str, Plain] = field(default_factory=dict)
    limits: dict[str, NonNegative] = field(default_factory=dict)
    costs: Annotated[dict[str, dict[str, NonNegative]], AfterValidator(_of_both_networks)] = field(default_factory=dict)
    """``dense`` and ``pruned`` cost of every kind."""
    spread: dict[str, NonNegative] = field(default_factory=dict)
    """Activation spread of the dense network per layer, which rectification restores."""
    examples: Size | None = None
    """Training examples of an epoch, if known; the FLOPs of an epoch follow from it."""
    bits: BitPlan | None = None
    """Bits of the small network's weights, where the plan decides them."""
    conditions: dict[str, Text] = field(default_factory=dict)
    """What a cost holds for, where the plan was about a certain device or file: ``{"latency": "measured on ..."}``."""
    notes: list[Text] = field(default_factory=list)
    """What structure analysis had to pin after its trial, and operators it did not know."""
    timings: dict[str, Seconds] = field(default_factory=dict, compare=False)
    """Seconds of each step of this run; never saved, so that a seed gives the same bytes."""
    calibration: Any = field(default=None, init=False, compare=False, repr=False)
    """Inputs of a few examples, where bits were decided on data: exports calibrate on them. Never saved."""

    @property
    def keep(self) -> dict[str, NDArray[np.int64]]:
        """Kept channels by group."""
        return {row.name: from_text(row.keep) for row in self.rows}

    @property
    def widths(self) -> NDArray[np.int64]:
        """Kept width of every group, int64 ``[groups]``."""
        return np.array([row.width for row in self.rows], dtype=np.int64)

    @property
    def remarks(self) -> list[str]:
        """What a reader of the plan should know: that nothing is removed, what costs hold for, and the notes."""
        whole = bool(self.budget and self.rows) and all(row.width == row.dense for row in self.rows)
        nothing = ["nothing is removed: the dense network keeps this budget already"] if whole else []
        conditions = [f"{cost} is {condition}" for cost, condition in self.conditions.items()]
        return [*nothing, *conditions, *self.notes]

    @property
    def summary(self) -> list[dict[str, Any]]:
        """The rows as plain dictionaries, without the channel lists."""
        return [{k: v for k, v in dataclasses.asdict(row).items() if k != "keep"} for row in self.rows]

    @property
    def touched(self) -> list[str]:
        """Modules whose tensors change, in model order."""
        return list(dict.fromkeys(name.rpartition(".")[0] for name in self.slices))

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
    def training_told(self) -> tuple[str, str, str]:
        """``training_flops`` as people read them: dense, pruned, how many times less."""
        dense, pruned = self.training_flops["dense"], self.training_flops["pruned"]
        return FLOPS.text(dense), FLOPS.text(pruned), smaller(dense, pruned)

    def __str__(self) -> str:
        budget_text = ", ".join(f"{cost} {value}" for cost, value in self.budget.items())
        by = " of ".join(dict.fromkeys(name for name in (self.evaluator, self.criterion) if name))
        head = f"plan by {by or 'hand'}: {budget_text or 'no budget'}"
        rows = [[r.name, r.dense, r.width, r.loss, r.why] for r in self.rows]
        dense, pruned = self.costs.get("dense", {}), self.costs.get("pruned", {})
        foot = [
            f"{cost}: {text_of(cost, dense[cost])} -> {text_of(cost, value)} ({smaller(dense[cost], value)})"
            for cost, value in pruned.items()
        ]
        if "pruned" in self.training_flops:
            foot.append("training FLOPs of {}: {} -> {} ({})".format(self.training_unit, *self.training_told))
        foot += [] if self.bits is None else [self.bits.summary]
        return text_table(["group", "dense", "width", "loss", "why"], rows, title=head, foot=[*foot, *self.remarks])

    def apply(self, model: nn.Module) -> nn.Module:
        """A new module of the same classes with the kept slices as weights; ``model`` is untouched.

        Raises:
            PlanError: the plan was made for a model of other parameters.
        """
        from reconvene.surgery.apply import apply

        return apply(self, model)

    def mask(self, model: nn.Module) -> nn.Module:
        """A copy in the original shapes with the removed channels silenced: what ``apply`` must compute, exactly.

        Raises:
            PlanError: the plan was made for a model of other parameters.
        """
        from reconvene.surgery.apply import mask

        return mask(self, model)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        passing = ("timings", "calibration", "bits")
        out = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in passing}
        out["rows"] = [dataclasses.asdict(row) for row in self.rows]
        out["sites"] = [dataclasses.asdict(site) for site in self.sites]
        out["slices"] = {n: {str(d): t for d, t in dims.items()} for n, dims in self.slices.items()}
        out["attributes"] = [list(change) for change in self.attributes]
        out["state"] = [dataclasses.asdict(state) for state in self.state]
        for name in ("conditions", "state"):
            if not out[name]:
                del out[name]  # as in plans of older releases
        if self.bits is None:
            return {"format": FORMAT, "version": VERSION, **out}
        return {"format": FORMAT, "version": WITH_BITS, **out, "bits": self.bits.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """The plan of ``to_dict``.

        Raises:
            PlanError: not a plan, of a newer version, or damaged.
        """
        return cls.from_json(schema.to_json(values, source="the plan", error=PlanError))

    @classmethod
    def from_json(cls, text: str | bytes, source: object = "the plan") -> Plan:
        """The plan of ``to_json``; ``source`` is what errors call it.

        Raises:
            PlanError: not a plan, of a newer version, or damaged.
        """
        values = schema.parse_json(text, source=source, error=PlanError)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise PlanError(f"{source} is not a Reconvene plan (its format is not {FORMAT!r})")
        if values.get("version") not in (VERSION, WITH_BITS):
            raise PlanError(
                f"{source} has version {schema.shown(values.get('version'))}, this release reads {VERSION} "
                f"and {WITH_BITS}; upgrade reconvene"
            )
        known = {"format", "version", *(field.name for field in dataclasses.fields(cls))}
        if unknown := sorted(values.keys() - known):
            raise PlanError(f"{source}: {unknown[0]}: is no field that this release knows; upgrade reconvene")
        return schema.read_json(cls, text, source=source, error=PlanError)

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, whole or not at all; the same plan gives the same bytes.

        Raises:
            PlanError: the file cannot be written; one that was there before is intact.
        """
        write_atomic(Path(path), self.to_json().encode(), error=PlanError, what="the plan")

    def to_json(self) -> str:
        """The plan as JSON text."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan.

        Raises:
            PlanError: the file is missing, is not JSON, or is not a plan this release can read.
        """
        if not isinstance(path, str | Path):
            raise PlanError(f"a plan is read from a path, and {path!r} is none. Try: Plan.load('plan.json')")
        return cls.from_json(read_regular(Path(path), limit=_FILE_LIMIT, error=PlanError, what="the plan"), path)


def make_plan(
    model: nn.Module,
    structure: Structure,
    keep: Keep,
    rows: list[PlanRow],
    *,
    scalars: Mapping[int, Numbers] | None = None,
    **plan_fields: Any,
) -> Plan:
    """The plan that keeps these channels.

    Args:
        model: the dense model, which is only read.
        structure: its structure.
        keep: kept channels per prunable group, ascending.
        rows: one row per prunable group.
        scalars: numbers in the code that follow sizes, as ``replay`` of this choice saw them.
        **facts: the other fields of ``Plan`` (criterion, budget, costs ...).
    """
    kept = structure.kept_atoms(keep)
    slices: dict[str, dict[int, str]] = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in structure.recording.parameters.items():
        shapes[name] = list(tensor.shape)
        for number, dim in enumerate(structure.context.tensors[id(tensor)]):
            positions = kept_positions(dim, kept)
            if len(positions) != tensor.shape[number]:
                slices.setdefault(name, {})[number] = to_text(positions)
    attributes = following_attributes(model, structure, keep, shrunk_shapes(structure, kept))
    pinned = [{"name": g.name, "width": g.width, "why": g.pinned} for g in structure.groups if not g.prunable]
    notes = [*structure.repairs, *(f"{site} has no rule; what it touches stays whole" for site in structure.unknown)]
    notes += plan_fields.pop("notes", [])
    sites = restricted_sites(structure, keep, scalars or {})
    state = list(known_state(model))
    return Plan(rows, pinned, shapes, slices, attributes, sites, state, notes=notes, **plan_fields)
