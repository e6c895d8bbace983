"""Every file in examples/ runs to its end, and is short."""

import ast
import csv
import json
import runpy
from pathlib import Path

import pytest
from command_line import ROOT

from lightning_priv.accountants import epsilon

EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))
LONG = ("all_together", "clinic")  # four and seven trainings


def run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ROOT / "examples" / f"{name}.py"
    monkeypatch.setattr("sys.argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_an_ordinary_project(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 80
    names = [n.module for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ImportFrom)]
    ours = [name for name in names if name and name.startswith("lightning_priv")]
    assert ours
    theirs = {"lightning_priv.cli", "lightning_priv.models", "lightning_priv.trainer"}
    assert theirs.isdisjoint(ours)


@pytest.mark.whole
@pytest.mark.parametrize("name", [path.stem for path in EXAMPLES if path.stem not in LONG])
def test_example(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(name, monkeypatch)


@pytest.mark.whole
def test_all_parts_together(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("all_together", monkeypatch)
    root = Path("runs/all_together")
    summary = json.loads((root / "vote/summary.json").read_text())
    assert summary["members"] == 3
    assert summary["metrics"]["accuracy_mean"] > 0.5  # chance is 0.1
    for member in range(3):
        (report,) = (root / f"member{member}").rglob("dp_report.json")
        assert json.loads(report.read_text())["epsilon"]["pld"] <= 8
    for file in ("scores.csv", "corridor.png", "audit/report.html", "vote/report.html"):
        assert list(root.rglob(file)), file


@pytest.mark.whole
def test_the_clinic(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("clinic", monkeypatch)
    told = capsys.readouterr().out
    found = int(told.split(" of 40 wrong labels corrected")[0].split()[-1])
    assert found >= 30  # 6 at random
    root = Path("runs/clinic")
    history = []
    for member in range(5):
        (report,) = (root / f"member{member}").rglob("dp_report.json")
        history += json.loads(report.read_text())["cohorts"][0]["history"]
    assert len(history) == 5
    assert 7.5 < epsilon([tuple(part) for part in history], 1e-3) <= 8.0
    with (root / "vote/rules.csv").open() as file:
        rules = {row["rule"]: row for row in csv.DictReader(file)}
    wrong = {
        name: round(float(rules[name]["selective_risk"]) * int(rules[name]["kept"]))
        for name in ("majority", "unanimous")
    }
    assert wrong["unanimous"] <= wrong["majority"]  # the unanimous ones are among the others
    assert float(rules["unanimous"]["coverage"]) > 0.3
    assert float(rules["majority"]["selective_risk"]) < 0.2
    (summary,) = root.rglob("audit/summary.json")
    assert not json.loads(summary.read_text())["noise"]["flags"]  # false alarm: once in 1000 runs
