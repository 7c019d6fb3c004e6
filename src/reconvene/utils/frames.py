"""Results that are tables: HTML in a notebook, a data frame for pandas, and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconvene.errors import MissingExtraError
from reconvene.utils.bar_chart import BarChart
from reconvene.utils.escaping import escape_html
from reconvene.utils.tables import Cell, cell_text, text_table

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Frame:
    """Rows under a header, with a line above and lines below; floats and ``None`` are kept as they are."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    foot: Sequence[str] = ()

    def __str__(self) -> str:
        return text_table(self.columns, self.rows, title=self.title, foot=self.foot)

    def to_html(self) -> str:
        """A table that takes its colours from the page it is in."""
        numeric = [all(not isinstance(row[i], str) for row in self.rows) for i in range(len(self.columns))]
        head = "".join(f"<th>{escape_html(name)}</th>" for name in self.columns)
        lines = [
            "<tr>"
            + "".join(
                f'<td style="text-align:{"right" if right else "left"}">{escape_html(cell_text(cell))}</td>'
                for cell, right in zip(row, numeric, strict=True)
            )
            + "</tr>"
            for row in self.rows
        ]
        notes = "".join(f"<div>{escape_html(line)}</div>" for line in self.foot)
        title = f"<div><b>{escape_html(self.title)}</b></div>" if self.title else ""
        body = "\n".join(lines)
        return f"<div>{title}<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>{notes}</div>"

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a data frame. Raises MissingExtraError without pandas."""
        try:
            import pandas
        except ImportError as error:
            raise MissingExtraError("pandas", "data", "a data frame") from error
        return pandas.DataFrame([list(row) for row in self.rows], columns=list(self.columns))


class Tabular:
    """What results that are tables have in common: ``frame`` says what is in the table."""

    def frame(self) -> Frame:
        """The table as values."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return self.frame().to_html()

    def to_pandas(self) -> pandas.DataFrame:
        """One row a line of the table, numbers as numbers. Raises MissingExtraError without pandas."""
        return self.frame().to_pandas()


class Plottable(Tabular):
    """A table that can be seen as bars."""

    def plot(self) -> BarChart:
        """A picture for a notebook, drawn without any other package; ``plot().save("plan.svg")`` keeps it."""
        raise NotImplementedError
