"""Tables and figures of learning curves."""

import math

import pytest
import torch

from lightning_priv.acquisition import Query
from lightning_priv.reports.labelling import (
    Curves,
    curve_table,
    curves_figure,
    queries_table,
    saving_table,
    tiles,
)

LABELS = torch.tensor([100, 200, 400])
RANDOM = Curves("Random", LABELS, torch.tensor([[0.5, 0.6, 0.8], [0.7, 0.8, 1.0]]))
BETTER = Curves("Entropy", LABELS, torch.tensor([[0.5, 0.8, 0.9], [0.7, 1.0, 1.0]]))


def test_bands_over_seeds():
    assert RANDOM.mean.tolist() == pytest.approx([0.6, 0.7, 0.9])
    error = math.sqrt(2 * 0.1**2) / math.sqrt(2)
    assert RANDOM.standard_error.tolist() == pytest.approx([error] * 3)
    assert RANDOM.quantiles(0.5).tolist() == pytest.approx([0.6, 0.7, 0.9])
    assert Curves("one", LABELS, RANDOM.values[:1]).standard_error.tolist() == [0, 0, 0]
    assert RANDOM.areas.tolist() == pytest.approx([(0.55 + 2 * 0.7) / 3, (0.75 + 2 * 0.9) / 3])


def test_labels_to_a_level_and_what_is_saved():
    table = saving_table([RANDOM, BETTER], full=1.0, levels=(0.8, 0.99))
    cells = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert cells[0]["labels to 80%"] == pytest.approx(300)
    assert cells[1]["labels to 80%"] == pytest.approx(100 + 100 * 0.2 / 0.3)
    assert cells[1]["saved at 80%"] == pytest.approx(1 - cells[1]["labels to 80%"] / 300)
    assert cells[0]["saved at 80%"] == 0
    assert cells[1]["labels to 99%"] is cells[1]["saved at 99%"] is None
    assert "all labels" in table.title
    alone = saving_table([BETTER], full=None)
    assert "saved at 90%" not in alone.columns
    assert "0.9500, the value of the best value" in alone.title
    loss = saving_table([RANDOM, BETTER], full=None, levels=())
    assert loss.columns == ["acquisition", "area", "standard error", "last", "seeds"]
    assert not loss.title


def test_other_tables():
    rows = curve_table([{"round": 0, "a": 1.0}, {"round": 1, "b": 2.0}])
    assert rows.render("csv") == "round,a,b\n0,1.0,\n1,,2.0"
    asked = [Query(1, (7, 3), "BALD", (0.5, 0.25)), Query(2, (9,), "Random")]
    assert queries_table(asked).render("csv").splitlines() == [
        "round,rank,index,score,acquisition",
        *("1,0,7,0.5,BALD", "1,1,3,0.25,BALD", "2,0,9,,Random"),
    ]


@pytest.mark.parametrize("band", ["standard error", "quantiles"])
def test_figure(band):
    axis = curves_figure([RANDOM, BETTER], "accuracy", 0.97, band).axes[0]
    assert [line.get_label() for line in axis.lines] == ["Random", "Entropy", "all labels"]
    assert len(axis.collections) == 2
    with pytest.raises(ValueError, match="give one or more"):
        curves_figure([], "accuracy")


def test_tiles():
    a, b = torch.zeros(2, 3), torch.full((2, 3), 0.5)
    grid = tiles([[a, b], [b]])
    assert grid.shape == (1, 5, 7)
    assert grid[0, 0].tolist() == [0, 0, 0, 1, 0.5, 0.5, 0.5]
    assert grid[0, 4].tolist() == [0.5, 0.5, 0.5, 1, 1, 1, 1]
    assert tiles([[torch.zeros(2, 2, 3)]]).shape == (3, 2, 2)
    with pytest.raises(ValueError, match="all of one size"):
        tiles([[a], [torch.zeros(1, 1)]])
