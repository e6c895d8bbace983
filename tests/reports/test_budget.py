import csv
import io
import json

import pytest
from jsonargparse import auto_cli

from lightning_priv.accountants import epsilon
from lightning_priv.accountants.calculator import solve_budget
from lightning_priv.reports.budget import budget, budget_curves

RUN = ["--noise_multiplier=1", "--sample_rate=0.01", "--steps=1000", "--delta=1e-5"]


def run(*words):
    return auto_cli(budget, args=[*words], as_positional=False)


def test_json_holds_every_number_in_full():
    (record,) = json.loads(run(*RUN, "--format=json"))
    assert record["solved_for"] == "epsilon"
    assert record["epsilon"] == epsilon([(1.0, 0.01, 1000)], 1e-5)
    assert record["guaranteed"] is True
    assert record["expected_batch"] is None


def test_csv_is_one_row_under_its_names():
    (row,) = csv.DictReader(io.StringIO(run(*RUN, "--format=csv", "--accountant=rdp")))
    assert float(row["epsilon"]) == epsilon([(1.0, 0.01, 1000)], 1e-5, "rdp")
    assert row["neighbouring"] == "add_remove"


def test_table_marks_what_was_computed_and_what_is_no_guarantee():
    text = run("--epsilon=2", *RUN[1:], "--accountant=rdp")
    assert "noise_multiplier *" in text
    assert "approximation, not a guarantee" not in text
    assert "approximation, not a guarantee" in run(*RUN, "--accountant=gdp")


def test_numbers_of_the_table_are_safe_to_copy():
    words = ("--epsilon=2", *RUN[1:], "--accountant=rdp")
    rows = [line.split("│")[1:3] for line in run(*words).splitlines() if line.startswith("│")]
    table = {name.strip(): value.strip() for name, value in rows}
    copied = (float(table["noise_multiplier *"]), 0.01, 1000)
    assert epsilon([copied], 1e-5, "rdp") <= 2.0
    assert epsilon([copied], 1e-5, "rdp") <= float(table["epsilon"])


def test_spent_steps_and_sizes():
    words = ["--epsilon=8", "--dataset_size=6000", "--batch_size=60", "--epochs=10"]
    words += ["--spent=[[1.5, 0.02, 40]]", "--accountant=rdp", "--format=json"]
    (record,) = json.loads(run(*words))
    assert (record["sample_rate"], record["steps"]) == (0.01, 1000)
    assert record["spent_epsilon"] == epsilon([(1.5, 0.02, 40)], 1 / 60000, "rdp")
    assert record["epsilon"] <= 8


def test_plot_is_written_and_draws_the_accountants(tmp_path):
    run(*RUN, "--accountant=rdp", f"--plot={tmp_path / 'new' / 'budget.png'}")
    assert (tmp_path / "new" / "budget.png").stat().st_size > 5000
    answer = solve_budget(epsilon=2.0, noise_multiplier=1.0, sample_rate=0.01, delta=1e-5)
    (axis,) = budget_curves(answer, [], points=3).axes
    curves = {line.get_label(): line.get_ydata() for line in axis.lines}
    assert set(curves) == {"pld", "rdp", "gdp (approximation)", "budget"}
    assert curves["pld"][-1] == answer.epsilon <= 2.0 < curves["rdp"][-1]


def test_wrong_types_are_usage_errors(capsys):
    with pytest.raises(SystemExit) as stop:
        run(*RUN, "--accountant=moments")
    assert stop.value.code == 2
    assert "accountant" in capsys.readouterr().err
