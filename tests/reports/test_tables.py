import csv
import io
import json
import math

import pytest

from lightning_priv.reports import Table
from lightning_priv.reports.tables import rounded_up

TABLE = Table(
    ["metric", "measured", "source"],
    [["accuracy", 0.123456789, "a | b"], ["steps", 1234567, None], ["epsilon", math.inf, "[x]"]],
    title="results",
)


def test_csv_reads_back_exactly() -> None:
    rows = list(csv.DictReader(io.StringIO(TABLE.render("csv"))))
    assert [row["metric"] for row in rows] == ["accuracy", "steps", "epsilon"]
    assert float(rows[0]["measured"]) == 0.123456789
    assert rows[1] == {"metric": "steps", "measured": "1234567", "source": ""}
    assert float(rows[2]["measured"]) == math.inf


def test_json_is_strict_and_exact() -> None:
    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is no JSON")

    rows = json.loads(TABLE.render("json"), parse_constant=refuse)
    assert rows[0] == {"metric": "accuracy", "measured": 0.123456789, "source": "a | b"}
    assert rows[1] == {"metric": "steps", "measured": 1234567, "source": None}
    assert rows[2]["measured"] == "inf"


def test_markdown_escapes_and_rounds() -> None:
    assert TABLE.render("markdown").splitlines() == [
        "| metric | measured | source |",
        "| --- | --- | --- |",
        "| accuracy | 0.12346 | a \\| b |",
        "| steps | 1234567 |  |",
        "| epsilon | inf | [x] |",
    ]


def test_terminal_table_shows_every_cell() -> None:
    text = TABLE.render()
    for cell in ("results", "metric", "accuracy", "0.12346", "1234567", "a | b", "[x]"):
        assert cell in text
    assert not text.endswith("\n")


def test_wrong_rows_and_formats() -> None:
    with pytest.raises(ValueError, match="row 1 has 1 values for the 2 columns"):
        Table(["a", "b"], [[1, 2], [3]])
    with pytest.raises(ValueError, match="format must be one of table, json, csv, markdown"):
        TABLE.render("yaml")  # type: ignore[arg-type]


def test_a_wide_table_is_turned_and_no_number_is_cut() -> None:
    columns = [f"a_rather_long_column_{i}" for i in range(12)]
    text = Table(columns, [[1.2345 + i for i in range(12)], [7.5] * 12]).render()
    assert all(name in text for name in columns)
    assert "12.23" in text
    assert max(len(line) for line in text.splitlines()) <= 100
    tall = Table([f"column_{i:02}" for i in range(12)], [["x" * 12] * 12] * 30).render()
    assert tall.count("x" * 12) == 360


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (3.0, 4, "3"),
        (3.00001, 4, "3.001"),
        (7.9999999, 4, "8"),
        (1e-5, 6, "1e-05"),
        (math.inf, 4, "inf"),
    ],
)
def test_rounded_up_is_never_below(value: float, digits: int, text: str) -> None:
    assert rounded_up(value, digits) == text
    assert float(text) >= value
