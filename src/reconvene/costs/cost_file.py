"""Costs as data files: what a chip charges for layers of any sizes and bits. See docs/extending/cost-file.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconvene.costs.base import Cost, CostFunction, Network
from reconvene.costs.file_fields import (
    bit_width,
    bits,
    layer_rule,
    number_table,
    read_values,
    require_known,
    require_section,
    text,
)
from reconvene.costs.formula import FUNCTIONS, Formula
from reconvene.costs.layer_rule import SIZES, LayerCosts, LayerRule
from reconvene.costs.unit import BITS, BYTES, COUNT, CYCLES, SECONDS, Unit, metric_unit
from reconvene.errors import BudgetError, CostFileError, UnknownNameError

if TYPE_CHECKING:
    from reconvene.costs.layers import Layer
    from reconvene.structure import Structure
    from reconvene.utils.arrays import Ints

FORMAT = "reconvene-costs 1"
COMPILERS = ("vela",)
FOLDER = Path(__file__).with_name("targets")
JOULES = metric_unit("J", "joules")
UNITS: dict[str, Unit] = {
    "bits": BITS,
    "bytes": BYTES,
    "count": COUNT,
    "cycles": CYCLES,
    "joules": JOULES,
    "seconds": SECONDS,
}
_ENTRIES = (
    "format",
    "name",
    "title",
    "source",
    "weights",
    "activations",
    "single_precision",
    "compiler",
    "tables",
    "costs",
)


class CostFile:
    """A cost file, read and checked.

    Attributes:
        name: its name.
        title: the chip, in words.
        weights: bits that weights may have, ascending.
        activation_choices: bits that activations may have, ascending.
        activations: the most of them, which they have where nothing else is decided.
        costs: the costs that it defines, by name.
        compiler: the compiler that tells the true costs of a network, and its settings; ``None``: formulas are all.

    Raises:
        CostFileError: the file is missing or damaged; the message names the entry.
    """

    def __init__(self, path: str | Path) -> None:
        values, self.path = read_values(Path(path)), Path(path).name
        require_known(values, _ENTRIES, self.path)
        if values.get("format") != FORMAT:
            raise CostFileError(f"{self.path}: format is {values.get('format')!r}, and this release reads {FORMAT!r}")
        self.name, self.title = text(values, "name", self.path), text(values, "title", self.path)
        self.weights = bits(values.get("weights"), f"{self.path}: weights")
        self.activation_choices = _activations(values.get("activations"), f"{self.path}: activations")
        self.activations = max(self.activation_choices)
        self.compiler = None if "compiler" not in values else _compiler(values["compiler"], f"{self.path}: compiler")
        self._single = values.get("single_precision", False)
        if not isinstance(self._single, bool):
            raise CostFileError(f"{self.path}: single_precision={self._single!r} is neither true nor false")
        tables, costs = values.get("tables", {}), values.get("costs", {})
        for section, entries in (("tables", tables), ("costs", costs)):
            require_section(entries, f"{self.path}: {section}")
        for section, entries, taken in (("tables", tables, {*FUNCTIONS, *SIZES}), ("costs", costs, {*FUNCTIONS})):
            if clash := sorted(taken & set(entries)):
                name = f"{self.path}: {section}.{clash[0]}"
                raise CostFileError(f"{name}: {clash[0]} is a function or a size of a layer. Take another name")
        self._tables = {name: number_table(table, f"{self.path}: tables.{name}") for name, table in tables.items()}
        if not costs:
            raise CostFileError(f"{self.path} defines no cost. Add a section such as [costs.cycles]")
        self.costs: dict[str, Cost] = {}
        for name, table in costs.items():
            self.costs[name] = self._cost(name, table, f"{self.path}: costs.{name}")

    def rounded(self, amount: float) -> float:
        """A sum over layers, in single precision where the file asks for that."""
        import numpy as np

        return float(np.float32(amount)) if self._single else amount

    def _cost(self, name: str, table: Mapping[str, Any], place: str) -> Cost:
        require_known(table, ("label", "unit", "meaning", "layers", "of", "total"), place)
        if ("layers" in table) == ("total" in table):
            raise CostFileError(f"{place} needs either layers, or a total and of, the cost it is computed from")
        if "layers" in table and "of" in table:
            raise CostFileError(f"{place}.of is the cost that a total is computed from, and this is a sum over layers")
        if "layers" in table:
            rules = table["layers"]
            if not isinstance(rules, list) or not rules:
                raise CostFileError(f"{place}.layers is not a list of sections: write [[costs.{name}.layers]]")
            return LayerSum(
                self, name, table, [layer_rule(r, self._tables, f"{place}.layers[{i}]") for i, r in enumerate(rules)]
            )
        inner = self.costs.get(str(table.get("of")))
        if not isinstance(inner, LayerSum):
            sums = ", ".join(other for other, cost in self.costs.items() if isinstance(cost, LayerSum)) or "none"
            raise CostFileError(f"{place}.of={table.get('of')!r} is not an earlier sum over layers: {sums}")
        return Total(self, name, table, inner, Formula(table["total"], [inner.name], place=f"{place}.total"))


def _activations(value: object, place: str) -> tuple[int, ...]:
    """One number of bits, or a list of them."""
    return bits(value, place) if isinstance(value, list) else (bit_width(value, place),)


@dataclass(frozen=True)
class CompilerSettings:
    """How a network is compiled for a chip: the ``name`` of the compiler, and what it calls the chip and its memory."""

    name: str
    accelerator: str
    system: str
    memory: str


def _compiler(table: object, place: str) -> CompilerSettings:
    names = ("name", "accelerator", "system", "memory")
    require_known(table, names, place)
    assert isinstance(table, Mapping)
    if table.get("name") not in COMPILERS:
        raise CostFileError(f"{place}.name={table.get('name')!r} is none of {', '.join(COMPILERS)}")
    return CompilerSettings(*(text(table, name, place) for name in names))


class FileCost(Cost):
    """One cost of a file, of bits as well as of widths; where no bits are decided, every weight has the most bits."""

    listed = False

    def __init__(self, file: CostFile, name: str, table: Mapping[str, Any]) -> None:
        place = f"{file.path}: costs.{name}"
        self.file, self.name = file, name
        self.label, self.meaning = text(table, "label", place), text(table, "meaning", place)
        if not isinstance(table.get("unit"), str) or table["unit"] not in UNITS:
            raise CostFileError(f"{place}.unit={table.get('unit')!r} is none of {', '.join(UNITS)}")
        self.unit, self.plural = UNITS[table["unit"]], self.label.lower()
        self.condition = f"on {file.title}"

    def layer_costs(self, layers: Sequence[Layer]) -> LayerCosts:
        """The cost as a sum over these layers. Raises CostFileError where the file says nothing of one of them."""
        raise NotImplementedError

    def bind(self, structure: Structure, network: Network | None) -> CostFunction:
        """The cost at any widths, every weight of the most bits that the file knows."""
        from reconvene.costs.layers import LayerTable

        table, most = LayerTable(structure), max(self.file.weights)
        costs = self.layer_costs(table.layers)

        def at(widths: Ints) -> float:
            sizes = table.at(widths)
            return costs.at(sizes, [((most, size.outputs),) for size in sizes])

        return CostFunction(at)


class LayerSum(FileCost):
    """A cost that adds up over layers."""

    def __init__(self, file: CostFile, name: str, table: Mapping[str, Any], rules: Sequence[LayerRule]) -> None:
        super().__init__(file, name, table)
        self._rules = rules

    def layer_costs(self, layers: Sequence[Layer]) -> LayerCosts:
        """See FileCost."""
        rules = [self._rule(layer) for layer in layers]
        return LayerCosts(layers, rules, self.file.activations, self.file.rounded)

    def _rule(self, layer: Layer) -> LayerRule:
        for rule in self._rules:
            if rule.fits(layer):
                return rule
        kernel = f" with a kernel of {'x'.join(map(str, layer.kernel))}" if layer.kernel else ""
        raise CostFileError(
            f"{self.file.path} says nothing of {self.name} for the {layer.kind} {layer.name or 'of the model'}{kernel}"
            f". Add an entry to costs.{self.name}.layers, or choose another target"
        )


class Total(FileCost):
    """A cost that is a formula of another cost of the whole network, as energy is of cycles."""

    def __init__(self, file: CostFile, name: str, table: Mapping[str, Any], inner: LayerSum, formula: Formula) -> None:
        super().__init__(file, name, table)
        self._inner, self._formula = inner, formula

    def layer_costs(self, layers: Sequence[Layer]) -> LayerCosts:
        """See FileCost."""
        costs = self._inner.layer_costs(layers)
        inner, name = costs.finish, self._inner.name
        return LayerCosts(layers, costs.rules, costs.activations, lambda sum_: self._formula({name: inner(sum_)}))


class ChipCost(Cost):
    """A cost that no network has without a chip; the target of a plan says which."""

    listed = False

    def __init__(self, name: str, label: str, unit: Unit, meaning: str) -> None:
        self.name, self.label, self.unit, self.meaning, self.plural = name, label, unit, meaning, label.lower()
        self.unknown = (
            f"{label.lower()} depend on a chip. Name it: target='mpic', 'ne16', 'ethos-u55-128', or the path of a file "
            "of costs"
        )

    def bind(self, structure: Structure, network: Network | None) -> CostFunction:
        """Raises BudgetError: a target has to be named."""
        raise BudgetError(f"{self.name}: {self.unknown}")


def targets() -> dict[str, Path]:
    """The cost files that come with Reconvene, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def cost_file(target: str | Path) -> CostFile:
    """The cost file that has this name, or that lies at this path.

    Raises:
        UnknownNameError: there is no such name, and no such file.
        CostFileError: the file cannot be read.
    """
    models = targets()
    if str(target) not in models and not Path(target).is_file():
        raise UnknownNameError("target", str(target), [*models, "the path of a cost file"])
    return CostFile(models.get(str(target), Path(target)))
