"""One table, written for the terminal, for Markdown, CSV and JSON."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import rich.table

__all__ = ["Cell", "Table", "rounded_up"]

_WIDTH = 100  # of a terminal

Cell = str | int | float | bool | None
Format = Literal["table", "json", "csv", "markdown"]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of plain values under named columns.

    Args:
        columns: names of the columns.
        rows: one sequence of values for each row; ``None`` is an empty cell.
        title: printed above it in a terminal.

    Raises:
        ValueError: if a row has another length than ``columns``.

    Example:
        >>> print(Table(["metric", "value"], [["accuracy", 0.975]]).render("csv"))
        metric,value
        accuracy,0.975
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"row {number} has {len(row)} values for the {len(self.columns)} columns "
                    f"{list(self.columns)}; give one each, None for an empty cell"
                )

    def render(self, format: Format = "table") -> str:
        """The table as text, without a final line break.

        Args:
            format: ``table`` for a terminal and ``markdown`` round numbers to five digits; ``csv``
                and ``json`` (a list with one object a row) keep them exactly, and write
                infinities and NaN as the words inf, -inf and nan.

        Raises:
            ValueError: if ``format`` is none of these.
        """
        if format == "json":
            return json.dumps(self._records(), indent=2, allow_nan=False)
        if format == "csv":
            return self._csv()
        if format == "markdown":
            return self._markdown()
        if format == "table":
            return self._terminal()
        raise ValueError(f"format must be one of {', '.join(get_args(Format))}, got {format!r}")

    def to_rich(self) -> "rich.table.Table":
        """The table as a rich renderable."""
        from rich.table import Table as RichTable

        table = RichTable(title=self.title or None)
        for position, column in enumerate(self.columns):
            numbers = any(_is_number(row[position]) for row in self.rows)
            table.add_column(
                column,
                justify="right" if numbers else "left",
                overflow="fold",
                no_wrap=position == 0 or numbers,
            )
        for row in self.rows:
            table.add_row(*(_rounded(cell) for cell in row))
        return table

    def _terminal(self) -> str:
        from rich.console import Console

        # never cut a number: a wide table is turned on its side, or printed as wide as it is
        wide = Console(file=io.StringIO(), width=10_000)
        forms = [self.to_rich(), self._turned().to_rich()]
        widths = [wide.measure(form).maximum for form in forms]
        best = 0 if widths[0] <= _WIDTH or widths[0] <= widths[1] else 1
        console = Console(file=io.StringIO(), width=max(_WIDTH, widths[best]))
        with console.capture() as capture:
            console.print(forms[best], markup=False)
        return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())

    def _turned(self) -> "Table":
        """The columns as rows; the first column becomes the heading."""
        if not self.columns:
            return self
        names = [self.columns[0], *(_rounded(row[0]) for row in self.rows)]
        rows = [
            [name, *(row[position] for row in self.rows)]
            for position, name in enumerate(self.columns)
        ]
        return Table(names, rows[1:], self.title)

    def _markdown(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns)]
        lines += [[_rounded(cell).replace("|", "\\|") for cell in row] for row in self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def _csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return text.getvalue().rstrip("\n")

    def _records(self) -> list[dict[str, Cell]]:
        return [
            {name: _finite(cell) for name, cell in zip(self.columns, row, strict=True)}
            for row in self.rows
        ]


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, (int, float)) and not isinstance(cell, bool)


def _rounded(cell: Cell) -> str:
    if isinstance(cell, float):
        return f"{cell:.5g}"
    return "" if cell is None else str(cell)


def _finite(cell: Cell) -> Cell:
    return str(cell) if isinstance(cell, float) and not math.isfinite(cell) else cell


def rounded_up(value: float, digits: int = 6) -> str:
    """A number, such as epsilon, with so many significant digits, and never below its value."""
    up = Context(prec=digits, rounding=ROUND_CEILING).create_decimal(repr(value))
    return f"{float(up):.{digits}g}"
