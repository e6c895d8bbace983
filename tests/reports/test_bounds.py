"""The calculator ``bounds`` through the command line, and its figure."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CONFIGS, CommandLine

from lightning_priv.functional.gaussian_dp import gdp_mu
from lightning_priv.functional.reconstruction import (
    composition_epsilon,
    mse_quantile,
    noise_for_psnr,
    psnr_quantile,
    rero_gaussian,
    rero_subsampled_gaussian,
    risk_corridor,
)
from lightning_priv.reports import bounds, corridor_figure

RUN = ("--noise_multiplier", "1.0", "--sample_rate", "0.01", "--steps", "1000")
RECORD = ("--shape", "3,32,32", "--max_norm", "28")


def answer(command_line: CommandLine, *words: Any) -> dict[str, Any]:
    """The single object of the JSON output."""
    [value] = json.loads(command_line.ok("bounds", *words, "--format", "json"))
    return value


def test_numbers_of_a_sampled_run(command_line: CommandLine) -> None:
    value = answer(command_line, *RUN, *RECORD, "--gamma", "0.05", "--kappa", "0.1")
    assert value["dimension"] == 3072
    assert value["epsilon"] == pytest.approx(composition_epsilon(1e-5, [(1.0, 0.01, 1000)])[1])
    assert value["mse"] == pytest.approx(mse_quantile(0.05, 3072, 1.0, 28.0, 1000, 0.01))
    assert value["identification"] == rero_subsampled_gaussian(0.1, 1.0, 0.01, 1000)[1]
    assert value["informative"] is False


def test_numbers_of_one_full_step(command_line: CommandLine) -> None:
    value = answer(command_line, "--noise_multiplier", "0.5", *RECORD, "--data_range", "2")
    expected = psnr_quantile(0.05, 3072, 0.5, 28.0, 2.0, upper=True)
    assert value["psnr"] == pytest.approx(expected)
    assert value["identification"] == pytest.approx(rero_gaussian(0.1, 0.5), abs=1e-12)
    assert 0.1 < value["identification_direction_unknown"] < value["identification"]


def test_targets_are_solved_for(command_line: CommandLine) -> None:
    value = answer(command_line, "--target_psnr", "20", *RECORD)
    assert value["noise_multiplier"] == pytest.approx(noise_for_psnr(20.0, 0.05, 3072, 28.0))
    assert value["psnr"] == pytest.approx(20.0)
    value = answer(command_line, "--target_mse", "0.01", *RECORD)
    assert value["mse"] == pytest.approx(0.01)
    value = answer(command_line, "--target_epsilon", "8", *RECORD)
    assert 1 / value["noise_multiplier"] == pytest.approx(gdp_mu(8.0, 1e-5))
    value = answer(command_line, "--target_epsilon", "8", *RUN[2:], *RECORD)
    assert value["epsilon"] == pytest.approx(8.0, abs=1e-4)
    value = answer(command_line, "--target_success", "0.2", *RUN[2:], *RECORD)
    assert 0.2 - 1e-6 < value["identification"] <= 0.2


def test_table_for_people(command_line: CommandLine) -> None:
    text = command_line.ok("bounds", *RUN, *RECORD, "--max_grad_norm", "100")
    for words in ("1.82824", "-17.05 dB", "no better than guessing", "at most 0.194201", "13"):
        assert words in text
    assert "image prior" in text
    rare = command_line.ok("bounds", *RUN[:4], "--steps", "3", *RECORD)
    assert "it is used with probability 0.0297" in rare


def test_csv_and_sweeps(command_line: CommandLine) -> None:
    words = ("--sweep", "noise_multiplier", "--values", "[0.1, 1, 10]", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(command_line.ok("bounds", *RECORD, *words))))
    assert [float(row["noise_multiplier"]) for row in rows] == [0.1, 1.0, 10.0]
    psnr = [float(row["psnr"]) for row in rows]
    np.testing.assert_allclose(np.diff(psnr), -20.0)
    identification = [float(row["identification"]) for row in rows]
    np.testing.assert_allclose(identification, rero_gaussian(0.1, [0.1, 1.0, 10.0]), atol=1e-12)


@pytest.mark.parametrize(
    ("sweep", "values", "column", "falls"),
    [
        ("epsilon", "[1, 8]", "psnr", False),
        ("dimension", "[64, 3072]", "guess_mse", True),
        ("steps", "[1, 100]", "psnr", False),
        ("sample_rate", "[0.1, 1.0]", "identification", False),
        ("max_norm", "[1, 28]", "psnr", True),
    ],
)
def test_each_quantity_can_be_swept(
    sweep: str, values: str, column: str, falls: bool, command_line: CommandLine
) -> None:
    noise = () if sweep == "epsilon" else ("--noise_multiplier", "2")
    words = (*noise, *RECORD, "--sweep", sweep, "--values", values, "--gamma", "0.02")
    first, second = json.loads(command_line.ok("bounds", *words, "--format", "json"))
    assert (first[column] > second[column]) == falls
    assert [first[sweep], second[sweep]] == json.loads(values)


def test_files(command_line: CommandLine) -> None:
    out = Path("result")
    text = command_line.ok("bounds", *RUN, *RECORD, "--out", out, "--format", "json")
    assert json.loads((out / "bounds.json").read_text()) == json.loads(text)
    assert (out / "bounds.csv").read_text().startswith("noise_multiplier,")
    assert (out / "corridor.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "corridor.png").stat().st_size > 20_000


REPORTS = {
    "history": {"history": [[1.0, 0.01, 1000]], "delta": 1e-6},
    "cohorts": {
        "delta": 1e-6,
        "cohorts": [
            {"records": 10, "history": [[2.0, 0.01, 1000]]},
            {"records": 90, "history": [[1.0, 0.01, 1000]]},
        ],
    },
}


@pytest.mark.parametrize("layout", REPORTS)
def test_a_finished_run(layout: str, command_line: CommandLine) -> None:
    folder = Path("runs/demo/version_0")
    folder.mkdir(parents=True)
    (folder / "dp_report.json").write_text(json.dumps(REPORTS[layout]))
    for place in (folder, folder.parent, folder / "dp_report.json"):
        value = answer(command_line, "--run", place, *RECORD)
        assert (value["noise_multiplier"], value["steps"]) == (1.0, 1000)
        assert value["delta"] == 1e-6
    assert answer(command_line, "--run", folder, *RECORD, "--delta", "1e-3")["delta"] == 1e-3


def test_a_run_of_several_phases(command_line: CommandLine) -> None:
    report = {"history": [[1.0, 0.01, 500], [2.0, 0.02, 500]], "delta": 1e-5}
    Path("dp_report.json").write_text(json.dumps(report))
    value = answer(command_line, "--run", ".", *RECORD)
    assert value["noise_multiplier"] is None
    assert value["epsilon"] == pytest.approx(1.6151, abs=1e-4)
    assert "phase 2: noise_multiplier" in command_line.ok("bounds", "--run", ".", *RECORD)
    assert command_line.ok("bounds", "--run", ".", *RECORD, "--out", "figures")
    assert Path("figures/corridor.png").exists()


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (None, "does not exist"),
        ("{", "not a report"),
        ('{"history": [[1]]}', "not a report"),
        ('{"history": []}', "holds no step"),
        ("[]", "not a report"),
    ],
)
def test_wrong_runs(report: str | None, message: str, command_line: CommandLine) -> None:
    if report is not None:
        Path("dp_report.json").write_text(report)
    outcome = command_line.run("bounds", "--run", ".", *RECORD)
    assert outcome.code == 1
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*RECORD,), "exactly one of"),
        (("--noise_multiplier", "-1", *RECORD), "noise_multiplier must be"),
        (("--noise_multiplier", "1", *RECORD, "--target_psnr", "3"), "exactly one of"),
        (("--noise_multiplier", "1", "--shape", "3,32,32"), "max_norm is missing"),
        (("--noise_multiplier", "1", "--max_norm", "3"), "either shape"),
        (("--noise_multiplier", "1", "--max_norm", "3", "--shape", "a"), "shape must be"),
        (("--target_success", "0.05", *RECORD), "guessing alone"),
        (("--target_mse", "-1", *RECORD), "eta must be"),
        (("--noise_multiplier", "1", *RECORD, "--gamma", "0"), "gamma must be"),
        (("--noise_multiplier", "1", *RECORD, "--kappa", "1.5"), "kappa must be"),
        (("--noise_multiplier", "1", *RECORD, "--steps", "0"), "at least one phase"),
        (("--noise_multiplier", "1", *RECORD, "--sample_rate", "0"), "sample_rate must be"),
        (("--noise_multiplier", "1", *RECORD, "--sweep", "steps"), "sweep needs values"),
        (("--noise_multiplier", "1", *RECORD, "--values", "[1]"), "without sweep"),
        (("--noise_multiplier", "1", *RECORD, "--max_grad_norm", "0"), "max_grad_norm must be"),
    ],
)
def test_impossible_questions(
    words: tuple[str, ...], message: str, command_line: CommandLine
) -> None:
    outcome = command_line.run("bounds", *words)
    assert outcome.code == 1
    assert message in outcome.err
    assert outcome.out == ""


def test_wrong_options_exit_with_2(command_line: CommandLine) -> None:
    for noise in ("loud", "nan"):
        assert command_line.run("bounds", "--noise_multiplier", noise).code == 2


def test_neither_torch_nor_scipy_stats_is_loaded() -> None:
    """The calculator answers at once: it imports numpy and scipy.special only."""
    program = (
        "import sys; from lightning_priv.cli import main\n"
        "main(['bounds', '--noise_multiplier', '1', '--sample_rate', '0.01', '--steps', '1000',"
        " '--shape', '3,32,32', '--max_norm', '28'])\n"
        "heavy = {'torch', 'lightning', 'scipy.stats', 'matplotlib', 'dp_accounting'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, capture_output=True)


@pytest.mark.parametrize("rate", [1.0, 0.1])
@pytest.mark.parametrize("gamma", [0.05, pytest.param(0.3, marks=pytest.mark.slow)])
def test_figure(rate: float, gamma: float) -> None:
    corridor = risk_corridor(gamma, 0.1, 64, 4.0, 10, 1.0, rate, points=21)
    figure = corridor_figure(corridor, 0.5)
    upper, lower = figure.axes
    assert upper.get_xscale() == "log"
    drawn = next(line for line in upper.lines if "from scratch" in str(line.get_label()))
    np.testing.assert_allclose(drawn.get_ydata(), corridor.psnr)
    worst = next(line for line in lower.lines if "worst case" in str(line.get_label()))
    success = np.asarray(worst.get_ydata(), dtype=float)
    assert np.all(np.diff(success) <= 1e-3)  # certified, so a little above the curve
    assert np.all((success >= 0.1) & (success <= 1))
    verticals = [line for line in upper.lines if "exact match" in str(line.get_label())]
    assert len(verticals) == (0 if gamma == 0.05 else 2 if rate == 1 else 1)


CONFIGURED = {  # file -> column, row and the header's number
    "bounds_cifar10": ("psnr", 1, 40.09808598415),
    "bounds_cifar10_grey": ("mse", 4, 0.005),
    "bounds_corridor": ("noise_multiplier", 0, 6.919203443590083),
    "bounds_dimension": ("guess_mse", 4, 1 / 3072),
    "bounds_epsilon": ("noise_multiplier", 3, 0.60023),
    "bounds_norm": ("mse", 0, 0.0025 * mse_quantile(0.05, 3072, 1.0, 1.0)),
    "bounds_steps": ("identification", 4, 0.510964876),
    "demo/bounds_digits": ("identification_by_dp", 0, 1.0),
}


def test_every_configuration_is_listed() -> None:
    files = [
        path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("bounds_*")
    ]
    assert sorted(files) == sorted(CONFIGURED)


@pytest.mark.parametrize("name", CONFIGURED)
def test_configurations_give_the_published_numbers(name: str, command_line: CommandLine) -> None:
    path = CONFIGS / f"{name}.yaml"
    rows = json.loads(command_line.ok("bounds", "--config", path, "--format", "json"))
    column, row, value = CONFIGURED[name]
    assert rows[row][column] == pytest.approx(value, rel=1e-5)
    if name == "demo/bounds_digits":
        assert Path("runs/bounds_digits/corridor.png").is_file()
        assert rows[row]["identification"] < 0.5


def test_as_a_function() -> None:
    text = bounds(noise_multiplier=1.0, shape=[1, 8, 8], max_norm=4.0, format="csv")
    assert text.splitlines()[0].startswith("noise_multiplier,")
