import pytest

from lightning_priv.accountants import PlanSettings, epsilon
from lightning_priv.reports.plan import selection_table
from lightning_priv.reports.private_active import (
    CohortSpending,
    budget_figure,
    participation_figure,
    spending_table,
)

PLAN = PlanSettings(500, [300, 100], 100, 5, 4.0, 1e-4, 1.0).make()


def cohorts():
    rows = zip(PLAN.noise_multipliers, PLAN.steps, strict=True)
    phases = list(rows)
    found = [
        CohortSpending(k, n, [(s, PLAN.rates[k][i], t) for i, (s, t) in enumerate(phases)], k)
        for k, n in enumerate(PLAN.sizes)
    ]
    return [*found, CohortSpending(None, 77, [(s, 0.0, t) for s, t in phases], 2)]


def test_table_has_the_costs_of_each_cohort():
    table = spending_table(cohorts(), PLAN.epsilon_round, PLAN.delta)
    assert [row[0] for row in table.rows] == ["0", "1", "2", "never labelled"]
    columns = {name: [row[i] for row in table.rows] for i, name in enumerate(table.columns)}
    assert columns["participations"][:3] == pytest.approx(PLAN.participations)
    assert columns["total basic RDP"][:3] == pytest.approx(PLAN.epsilon_total, abs=1e-9)
    assert columns["selections"] == [0, 0.5, 1.0, 1.0]
    assert columns["training PLD"][1] == epsilon(PLAN.history(1), PLAN.delta, "pld")
    for row in range(4):
        assert columns["total joint PLD"][row] <= columns["total basic RDP"][row] + 1e-9
    seen = [CohortSpending(0, 500, PLAN.history(0), 0, observed=33.0)]
    assert spending_table(seen, 0.5, 1e-4).rows[0][3] == 33.0


def test_figures_show_every_cohort():
    axis = budget_figure(PLAN, cohorts()).axes[0]
    ends = [line.get_ydata()[-1] for line in axis.lines[:4]]
    assert ends[:3] == pytest.approx(PLAN.epsilon_total, abs=1e-6)
    assert ends[3] == 1.0  # scored twice, never trained on
    late = axis.lines[2]
    begin = sum(PLAN.steps[:2])
    before = [y for x, y in zip(late.get_xdata(), late.get_ydata(), strict=True) if x < begin]
    assert max(before) == 0.5  # scored in the first selection, and not chosen
    bars = participation_figure(PLAN, cohorts()).axes[0].containers
    assert [bar.get_height() for bar in bars[0]] == pytest.approx(PLAN.participations)
    assert [bar.get_height() for bar in bars[1]] == [15, 10, 5]  # once an epoch, uniformly


def test_selections_are_foretold_round_by_round():
    table = selection_table(PLAN, 1500)
    assert [row[1:3] for row in table.rows] == [[1000, 300], [700, 100]]
    assert all(row[4] > row[5] for row in table.rows)
    with pytest.raises(ValueError, match="the pool has 800 records, the plan labels 900"):
        selection_table(PLAN, 800)
