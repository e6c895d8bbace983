import json
import os
from pathlib import Path
from typing import Any

import pytest

from lightning_priv.errors import ConfigurationError
from lightning_priv.reports.comparison import find_runs, read_run, report


def write(path: Path, text: str, age: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def account(epsilon: Any, **more: Any) -> str:
    facts = {"epsilon": {"pld": epsilon, "rdp": 9.0}, "epsilon_by": "pld", "delta": 1e-5}
    return json.dumps({**facts, "steps": 150, "abandoned_steps": 0, **more})


def private(root: Path, epsilon: float, accuracy: float) -> Path:
    """A private training and, later, a test of it."""
    write(root / "privacy_ledger.jsonl", "{}\n", age=11)
    write(root / "version_0/dp_report.json", account(epsilon), age=10)
    log = "epoch,val/accuracy,train/loss\n0,0.5,1.0\n1,0.7,\n"
    write(root / "version_0/metrics.csv", log, age=10)
    write(root / "version_0/config.yaml", "seed_everything: <0>\n", age=10)
    write(root / "version_1/metrics.csv", f"epoch,test/accuracy\n0,{accuracy}\n")
    return root


def test_the_newest_version_that_has_a_number_counts(tmp_path: Path) -> None:
    run = read_run(private(tmp_path / "a", 3.0, 0.9))
    assert {key: found.value for key, found in run.numbers.items()} == {
        "val/accuracy": 0.7,
        "test/accuracy": 0.9,
        "privacy/epsilon": 3.0,
        "privacy/delta": 1e-5,
        "privacy/steps": 150,
    }
    assert run.numbers["test/accuracy"].file == tmp_path / "a/version_1/metrics.csv"
    assert run.config == tmp_path / "a/version_0/config.yaml"
    assert run.notes == []
    write(tmp_path / "a/version_2/metrics.csv", "epoch,test/accuracy\n0,0.8\n", age=-5)
    assert read_run(tmp_path / "a").numbers["test/accuracy"].value == 0.8


def test_a_test_older_than_the_training_is_told(tmp_path: Path) -> None:
    root = private(tmp_path / "a", 3.0, 0.9)
    write(root / "version_2/metrics.csv", "epoch,val/accuracy\n0,0.75\n", age=-5)
    assert any("test is older" in note for note in read_run(root).notes)


def test_epsilon_is_not_stated_below_what_the_ledger_holds(tmp_path: Path) -> None:
    root = private(tmp_path / "a", 3.0, 0.9)
    write(root / "privacy_ledger.jsonl", "{}\n{}\n", age=2)
    run = read_run(root)
    assert run.numbers["privacy/epsilon"].value == "more than 3"
    assert any("resume" in note for note in run.notes)
    version = read_run(root / "version_0")  # its ledger lies one folder above
    assert version.numbers["privacy/epsilon"].value == "more than 3"
    assert "privacy/epsilon" not in read_run(root / "version_1").numbers
    (root / "version_0/dp_report.json").unlink()
    run = read_run(root)
    assert run.numbers["privacy/epsilon"].value == "unknown"
    assert any("killed" in note for note in run.notes)


def test_several_private_trainings_add_up(tmp_path: Path) -> None:
    root = private(tmp_path / "a", 3.0, 0.9)
    write(root / "version_2/dp_report.json", account(4.0, abandoned_steps=2), age=-3)
    run = read_run(root)
    assert run.numbers["privacy/epsilon"].value == 4.0
    assert any("add up" in note for note in run.notes)
    assert any("paid for" in note for note in run.notes)


def test_epsilon_is_never_rounded_down(tmp_path: Path) -> None:
    root = private(tmp_path / "a", 3.00001, 0.9)
    assert "3.001" in report([root])
    assert json.loads(report([root], format="json"))[0]["privacy/epsilon"] == 3.00001
    report([root], out=tmp_path / "page.html")
    assert ">3.001<" in (tmp_path / "page.html").read_text()


def test_infinite_epsilon(tmp_path: Path) -> None:
    assert "inf" in report([private(tmp_path / "a", "inf", 0.9)])  # type: ignore[arg-type]


def test_study_and_information(tmp_path: Path) -> None:
    study = {
        "metrics": {"unanimous_coverage": 0.9, "ambiguity": 0.1},
        "abstain": {"coverage": 0.8, "selective_risk": None},
        "members": 5,
        "account": {"epsilon": 15.0},
        "notes": ["few members"],
    }
    write(tmp_path / "study/report/summary.json", json.dumps(study))
    scores = {"difficulty": {"mean": 0.02, "max": 0.5}}
    write(tmp_path / "lsi/version_0/metrics.csv", "epoch,val/loss\n")
    write(tmp_path / "lsi/version_0/private/lsi/epoch=01/summary.json", json.dumps(scores))
    lsi, found = find_runs([tmp_path])
    values = {key: e.value for key, e in found.numbers.items()}
    assert values["multiplicity/coverage"] == 0.8
    assert values["privacy/epsilon"] == 15.0
    assert "multiplicity/selective_risk" not in values
    assert "few members" in found.notes
    assert lsi.numbers["lsi/max"].value == 0.5
    assert any("no epsilon" in note for note in lsi.notes)


def test_page_needs_no_other_file_and_shows_text_as_text(tmp_path: Path) -> None:
    from PIL import Image

    for name, epsilon in (("a", 1.0), ("b", 8.0)):
        private(tmp_path / "runs" / name, epsilon, 0.8 + epsilon / 80)
    Image.new("L", (4, 4)).save(tmp_path / "runs/a/version_0/metrics.png")
    (tmp_path / "runs/a/version_0/media").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "runs/a/version_0/media/curves.png")
    text = report([tmp_path / "runs"], out=tmp_path / "out/page.html")
    assert "page:" in text
    page = (tmp_path / "out/page.html").read_text()
    assert "&lt;0&gt;" in page
    assert "What privacy costs" in page
    assert page.count("<img") == 2
    assert "http" not in page.replace("http-equiv", "").split("<body>")[1].split("base64")[0]
    assert 'title="version_1/metrics.csv"' in page


def test_chosen_numbers(tmp_path: Path) -> None:
    root = private(tmp_path / "a", 3.0, 0.9)
    assert report([root], numbers=["privacy/s*", "test/*"], format="csv") == (
        "run,privacy/steps,test/accuracy\na,150,0.9"
    )
    with pytest.raises(ConfigurationError, match=r"they have .*val/accuracy"):
        report([root], numbers=["nothing"])


def test_one_folder_named_twice_is_one_run(tmp_path: Path) -> None:
    root = private(tmp_path / "a", 3.0, 0.9)
    assert len(find_runs([root, tmp_path])) == 1


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("version_0/dp_report.json", "{", "damaged"),
        ("version_0/dp_report.json", "[1]", "damaged"),
        ("version_0/dp_report.json", '{"epsilon": {}}', "damaged"),
        ("version_1/metrics.csv", "epoch,test/accuracy\n0,x\n", "no number"),
        ("report/summary.json", "{}", "damaged"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, text: str, match: str) -> None:
    root = private(tmp_path / "a", 3.0, 0.9)
    write(root / name, text)
    with pytest.raises(ConfigurationError, match=match):
        read_run(root)


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no run in"):
        find_runs([tmp_path])
    with pytest.raises(ConfigurationError, match="no folder"):
        find_runs([tmp_path / "missing"])
