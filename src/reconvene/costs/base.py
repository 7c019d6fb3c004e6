"""What a cost is: a name, a unit, a meaning, a prediction from widths, and a measurement where one is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from reconvene.costs.unit import COUNT, Unit

if TYPE_CHECKING:
    from torch import nn

    from reconvene.structure import Structure
    from reconvene.structure.labels import Dim
    from reconvene.utils.arrays import Widths

    Term = tuple[Sequence[Dim], float]


@dataclass(frozen=True)
class Network:
    """The network whose cost is predicted, for costs that need more than its structure.

    ``data``: batches ``(inputs, target)``, where the caller has some.
    """

    model: nn.Module
    example_inputs: Any
    data: Iterable[Any] | None = None


@dataclass(frozen=True)
class CostFunction:
    """One cost of one network at any widths, int64 ``[groups]`` in the order of ``Structure.prunable``.

    Attributes:
        lower_bound: what the solver keeps below the limit; it must not fall when a width grows.
        exact: the true prediction, where that is more than ``lower_bound``.
    """

    lower_bound: Callable[[Widths], float]
    exact: Callable[[Widths], float] | None = None

    def at(self, widths: Widths) -> float:
        """The prediction at these widths."""
        return (self.exact or self.lower_bound)(widths)


class Cost:
    """A cost that budgets can limit. Subclass it, and add an instance to ``COSTS``: see docs/extending/cost.md.

    Attributes:
        name: its name in budgets, options and files.
        unit: how amounts are read and printed.
        label: its name in tables and on pages.
        plural: what is counted, as in "12 % of the parameters".
        less: the word for a smaller amount ("fewer", "smaller", "faster").
        meaning: one line on what is counted, with examples of budgets; the help of the command line's option.
        condition: what an amount holds for, where that is not always the same (a file format, a device).
        listed: whether every plan tells it; else only plans with a budget on it.
        unknown: why a budget on it cannot be kept where nothing predicts it, and what to do.
    """

    name: str
    unit: Unit = COUNT
    label: str
    plural: str
    less: str = "less"
    meaning: str
    condition: str = ""
    listed: bool = True
    unknown: str = ""

    every_network: ClassVar[bool | None] = None
    """Whether a limit on it is of use for every network, without data or a chip; None: as far as it is ``listed``."""
    needs_data: ClassVar[bool] = False
    """Whether it is about data, so that nothing predicts it without."""

    # Of costs whose true value only a measurement tells; ``planning.feedback`` reads them.
    measured: ClassVar[bool] = False
    """Whether ``measure`` gives the true value, so that plans are corrected until the measured value keeps a budget."""
    dense_is_exact: ClassVar[bool] = False
    """Whether the prediction of the dense network is its true value, so that it need not be measured."""
    shifts: ClassVar[bool] = False
    """Whether prediction and true value differ by a constant; else by a factor."""
    enough: ClassVar[float] = 0.0
    """A plan that uses at least this share of the limit is not widened further."""
    depends_on_values: ClassVar[bool] = False
    """Whether the values of the weights move the measurement, so that the network gets healthy ones before it."""
    margin: ClassVar[float] = 1.0
    """Share of the limit that is aimed at, where measurements of one network vary."""

    def bind(self, structure: Structure, network: Network | None) -> CostFunction:
        """The cost of this network at any widths. ``network`` is ``None`` where only its structure is known."""
        raise NotImplementedError

    def measure(self, model: nn.Module, example_inputs: Any) -> float | None:
        """The true value for a network, dense or pruned; ``None`` where the prediction is exact."""
        return None

    @property
    def measured_condition(self) -> str:
        """``condition`` of an amount that was measured."""
        return self.condition

    @property
    def remark(self) -> str:
        """What a reader of a measured plan should know, or could do where its budget was not kept; mostly nothing."""
        return ""

    def close(self) -> None:
        """Give back what measuring took: called once after planning."""

    def terms(self, structure: Structure) -> Sequence[Term] | None:
        """Sizes and weights of the products that the cost adds up; ``None`` for costs that are no such sum.

        They tell what of the cost can never leave, for error messages.
        """
        return None

    @property
    def option(self) -> str:
        """Its option on the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def axis(self) -> str:
        """Its name on an axis of a plot, where amounts are multiplied by the unit's factor for axes."""
        return self.unit.axis[0] or self.plural


class SumOfProducts(Cost):
    """A cost that is a sum of products of sizes, such as parameters; subclasses give ``terms``."""

    def bind(self, structure: Structure, network: Network | None) -> CostFunction:
        """The sum of the terms at any widths."""
        from reconvene.costs.sizes import Products, sizes_of

        terms = self.terms(structure)
        assert terms is not None, "a sum has terms"
        sizes = sizes_of(structure)
        products = Products(sizes, [dims for dims, _ in terms], [weight for _, weight in terms], self.fixed(structure))
        return CostFunction(lambda widths: products.at(sizes.at(widths)))

    def fixed(self, structure: Structure) -> int:
        """What the cost has beside its terms, at any widths."""
        return 0
