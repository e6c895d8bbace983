import csv
import io
import json

import pytest
from jsonargparse import auto_cli

from lightning_priv.accountants import AmplificationPlan, plan_step_amplification
from lightning_priv.reports.plan import plan

TOY = ["--initial=500", "--queries=[500]", "--batch_size=100", "--epochs=10", "--epsilon=4"]
TOY += ["--delta=1e-4"]


def run(*words):
    return auto_cli(plan, args=[*words], as_positional=False)


def test_json_is_the_plan_that_a_run_reads(tmp_path):
    text = run(*TOY, "--format=json", f"--out={tmp_path}/new/plan.json")
    expected = plan_step_amplification(500, [500], 100, 10, 4.0, 0.0, 1e-4)
    assert AmplificationPlan.from_json(text) == expected
    assert json.loads((tmp_path / "new" / "plan.json").read_text()) == json.loads(text)


def test_csv_has_one_row_a_cohort():
    rows = list(csv.DictReader(io.StringIO(run(*TOY, "--format=csv"))))
    assert [row["records"] for row in rows] == ["500", "500"]
    assert float(rows[1]["epsilon total"]) == pytest.approx(4.0, abs=1e-3)


def test_table_says_what_is_not_covered():
    text = run(*TOY)
    assert "241 steps" in text
    assert "only a random selection is covered" in text
    assert "WARNING" not in text
    published = [*TOY[:1], "--queries=[300,200]", *TOY[2:], "--epsilon_acquisition=1"]
    text = run(*published, "--mode=official")
    assert "WARNING: this plan spends more than epsilon 4" in text
    assert "only a random selection" not in text
    rough = run(*TOY, "--accountant=pld", "--certify=false")
    assert "Not certified" in rough


def test_pool_foretells_what_selections_find():
    words = [*TOY, "--epsilon_acquisition=1"]
    assert "at random" not in run(*words)
    text = run(*words, "--pool=2000")
    assert "of the best" in text
    assert "gain" in text
    narrow = run(*words, "--pool=2000", "--score_shape=[50,50]")
    assert narrow != text
