"""The plan: which channels of which groups stay.

JSON, made without touching the model, applied to any fresh copy of it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from reconvene.costs import text_of
from reconvene.errors import PlanError
from reconvene.structure import Keep, Structure
from reconvene.structure.pruned_sizes import kept_positions
from reconvene.structure.replay import following_attributes, shrunk_shapes
from reconvene.structure.scalar_args import Numbers
from reconvene.structure.state import known_state
from reconvene.surgery.bits import BitPlan
from reconvene.surgery.cut import Cut, PlanRow
from reconvene.surgery.provenance import Accounting, Provenance
from reconvene.surgery.ranges import to_text
from reconvene.surgery.silence import restricted_sites
from reconvene.utils import invalid_values, schema
from reconvene.utils.bar_chart import Bar, BarChart
from reconvene.utils.files import read_regular, write_atomic
from reconvene.utils.frames import Frame, Plottable
from reconvene.utils.notes import Note, StoredNote
from reconvene.utils.tables import smaller

FORMAT, VERSION, WITH_BITS = "reconvene-plan", 1, 2
"""A plan with bits has a version of its own, so that releases that know none say so."""
_UNSAVED = {"timings", "calibration"}
"""Fields of one run, which no file has."""
_FILE_LIMIT = 2**28
"""Bytes of the largest plan that is read; that of a network of 300 million parameters has two millions."""


@schema.opened  # besides its fields a file holds its format and version
@dataclass(frozen=True)
class Plan(Accounting, Provenance, Cut, Plottable):  # fields come in the order of Cut, Provenance, Accounting
    """What stays of a model: the cut, where it comes from, and what it costs.

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

    notes: list[StoredNote] = field(default_factory=list)
    """Remarks, each about a subject: what structure analysis pinned, unknown operators, weights, the budget."""
    calibration: Any = field(default=None, compare=False, repr=False)
    """Inputs of a few examples, where bits were decided on data: exports calibrate on them. Never saved."""

    @property
    def kept_weights(self) -> bool:
        """Whether ``rc.prune`` kept trained weights when it applied this plan."""
        return any(note.about == "kept weights" for note in self.notes)

    @property
    def remarks(self) -> list[str]:
        """What a reader of the plan should know: that nothing is removed, what costs hold for, and the notes."""
        whole = bool(self.budget and self.rows) and self.is_whole
        why = "the dense network keeps this budget already" if self.bits is None else "fewer bits are enough"
        nothing = [f"nothing is removed: {why}"] if whole else []
        nothing += ["no channel may leave: bits alone are decided"] if self.bits and not self.rows else []
        conditions = [f"{cost}: {condition}" for cost, condition in self.conditions.items()]
        return [*nothing, *conditions, *self.notes]

    def frame(self) -> Frame:
        """The table: a row a group, costs and remarks below."""
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
            foot.append("training FLOPs of {}: {} -> {} ({})".format(self.training_unit, *self.training_text))
        foot += [] if self.bits is None else [self.bits.summary]
        return Frame(("group", "dense", "width", "loss", "why"), rows, head, [*foot, *self.remarks])

    def __str__(self) -> str:
        return str(self.frame())

    def __repr__(self) -> str:
        kept, dense = sum(row.width for row in self.rows), sum(row.dense for row in self.rows)
        before, after = self.costs.get("dense", {}), self.costs.get("pruned", {})
        less = [f"{name} {smaller(before[name], value)}" for name, value in after.items() if value != before[name]]
        return f"Plan({', '.join([f'{len(self.rows)} groups, {kept:,} of {dense:,} channels', *less])})"

    def plot(self) -> BarChart:
        """A bar a group: the channels that stay, on a track as long as the dense width."""
        bars = [Bar(row.name, row.width, f"{row.width:,} of {row.dense:,}", of=row.dense) for row in self.rows]
        return BarChart("channels kept", bars)

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
        apart = {*_UNSAVED, "bits"}
        out = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in apart}
        out["rows"] = [dataclasses.asdict(row) for row in self.rows]
        out["sites"] = [dataclasses.asdict(site) for site in self.sites]
        out["slices"] = {n: {str(d): t for d, t in dims.items()} for n, dims in self.slices.items()}
        out["attributes"] = [list(change) for change in self.attributes]
        out["state"] = [state.to_dict() for state in self.state]
        out["notes"] = [note.to_dict() for note in self.notes]
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
                f"{source} has version {invalid_values.shown(values.get('version'))}, this release reads {VERSION} "
                f"and {WITH_BITS}; upgrade reconvene"
            )
        fields = {"format", "version", *(field.name for field in dataclasses.fields(cls))} - _UNSAVED
        if unknown := sorted(values.keys() - fields):
            raise PlanError(f"{source}: {unknown[0]} is not a field that this release knows; upgrade reconvene")
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
    provenance: Provenance = Provenance(),  # noqa: B008  # frozen
    accounting: Accounting = Accounting(),  # noqa: B008  # frozen
    notes: Sequence[Note] = (),
    bits: BitPlan | None = None,
) -> Plan:
    """The plan that keeps these channels.

    Args:
        model: the dense model, which is only read.
        structure: its structure.
        keep: kept channels per prunable group, ascending.
        rows: one row per prunable group.
        scalars: numbers in the code that follow sizes, as ``replay`` of this choice saw them.
        provenance: how the channels were chosen.
        accounting: the costs of both networks.
        notes: beside those of the structure.
        bits: of the small network's weights, where they are decided.
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
    unknown = [Note(f"{site} has no rule; what it touches stays whole", "operator") for site in structure.unknown]
    sites = restricted_sites(structure, keep, scalars or {})
    state = list(known_state(model))
    cut = Cut(rows, pinned, shapes, slices, attributes, sites, state, bits)
    parts = {**vars(cut), **vars(provenance), **vars(accounting)}
    return Plan(**parts, notes=[*structure.repairs, *unknown, *notes])
