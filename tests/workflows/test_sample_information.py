"""The subcommand lsi, with a model and, as a calculator, with features of a file."""

import csv
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import CommandLine, digits
from lightning.pytorch import Trainer

from lightning_priv.callbacks import LSIProbe
from lightning_priv.data import Digits
from lightning_priv.errors import ConfigurationError
from lightning_priv.functional import auroc, contrastive_lsi, lsi_scores
from lightning_priv.models import Classifier
from lightning_priv.nn import MLP
from lightning_priv.trainer import PrivacyTrainer
from lightning_priv.workflows import sample_information

pytestmark = pytest.mark.whole

FEW = ("--max_samples", "150", "--figures", "false", "--baselines", "[el2n]")


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_options_are_those_of_the_callback() -> None:
    ours = inspect.signature(PrivacyTrainer.lsi).parameters
    theirs = inspect.signature(LSIProbe.__init__).parameters
    own = {"self", "model", "datamodule", "ckpt_path", "train"}
    assert set(ours) - own == set(theirs) - {"self", "when", "every_n_epochs", "fail"}
    for name in set(ours) - own:
        assert ours[name] == theirs[name], name


def test_scores_without_a_training(command_line: CommandLine) -> None:
    shown = command_line.ok("lsi", "--config", digits(), *FEW, "--corrupt.frac", "0.2")
    assert "lsi_full by class" in shown
    assert "finding 30 corrupted of 150" in shown
    (folder,) = Path("runs/digits").glob("version_*/lsi/epoch=00")
    assert len(table(folder / "scores.csv")) == 150
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["corrupt"]["frac"] == 0.2
    assert summary["feature_layer"] == "net.head"
    assert summary["data"] == "Digits"
    assert set(summary["detection"]) >= {"lsi_full", "lsi_diag", "el2n"}


def test_takes_a_checkpoint_and_trains_on_request(command_line: CommandLine) -> None:
    command_line.ok("fit", "--config", digits())
    (checkpoint,) = Path("runs/digits").rglob("*.ckpt")
    command_line.ok("lsi", "--config", digits(), *FEW, "--ckpt_path", "last", "--dirpath", "a")
    command_line.ok("lsi", "--config", digits(), *FEW, "--dirpath", "b")
    command_line.ok("lsi", "--config", digits(), *FEW, "--train", "true", "--dirpath", "c")
    a, b, c = (
        [float(row["lsi_full"]) for row in table(next(Path(name).rglob("scores.csv")))]
        for name in "abc"
    )
    assert a == c  # the seed of both trainings is the same
    assert a != b
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    net = MLP(64, 10, dropout=0.2).eval()
    net.load_state_dict({k.removeprefix("net."): v for k, v in state.items() if "net." in k})
    data = Digits()
    data.setup()
    rows = table(next(Path("a").rglob("scores.csv")))
    where = {int(i): place for place, i in enumerate(data.train_dataset.ids)}
    places = [where[int(row["index"])] for row in rows]
    with torch.no_grad():
        x = net.body(data.plain_train_dataset.inputs()[places].flatten(1))
    expected = lsi_scores(x, data.train_dataset.targets[places], num_classes=10).scores
    np.testing.assert_allclose(a, expected, rtol=1e-4)


def test_sets_forgetting_and_projections_from_yaml(command_line: CommandLine) -> None:
    Path("more.yaml").write_text(
        "train: true\nsets: classes\nbaselines: [forgetting, trak]\nsketch_dim: 64\n"
        "memory_gib: 0.0\nchunk_rows: 50\nkeep_features: true\nfigures: false\nmax_samples: 150\n"
        "dirpath: more\ncovariance: [full]\n"
    )
    shown = command_line.ok("lsi", "--config", digits(), "--config", "more.yaml")
    assert "information of whole sets" in shown
    (folder,) = Path("more/lsi").iterdir()
    rows = table(folder / "scores.csv")
    assert len(rows) == 150
    assert all(float(row["trak"]) >= 0 and float(row["forgetting"]) >= 0 for row in rows)
    assert len(table(folder / "sets.csv")) == 10
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["streamed"]
    assert {"trak", "forgetting"} <= set(summary["spearman"])
    # what was kept can be scored again without the network, in pieces
    (kept,) = Path("runs/digits/lsi_features").iterdir()
    words = ("--features", kept, "--num_classes", "10", "--out", "again", "--figures", "false")
    shown = command_line.ok("lsi", *words, "--memory_gib", "0", "--sets", "classes")
    assert "information of whole sets" in shown
    again = table(Path("again/scores.csv"))
    assert [row["index"] for row in again] == [row["index"] for row in rows]
    for a, b in zip(again, rows, strict=True):
        assert float(a["lsi_full"]) == pytest.approx(float(b["lsi_full"]), rel=1e-9)
    Path("empty").mkdir()
    assert "holds no complete features" in command_line.run("lsi", "--features", "empty").err
    untrained = ("--baselines", "[forgetting]", "--max_samples", "50", "--figures", "false")
    assert "train: true" in command_line.run("lsi", "--config", digits(), *untrained).err


def test_errors_of_the_workflow(command_line: CommandLine) -> None:
    def failed(*words: Any) -> str:
        outcome = command_line.run("lsi", "--config", digits(), *FEW, *words)
        assert outcome.code != 0
        return outcome.err

    assert "no such file" in failed("--ckpt_path", "nowhere.ckpt")
    torch.save({"state_dict": {"other": torch.zeros(1)}}, "other.ckpt")
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[LSIProbe()])
    model = Classifier(MLP(64, 10), 10)
    with pytest.raises(ConfigurationError, match="brings its own"):
        sample_information.run(trainer, model, Digits(), LSIProbe())
    plain = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    with pytest.raises(ConfigurationError, match="does not fit Classifier"):
        sample_information.run(plain, model, Digits(), LSIProbe(), "other.ckpt")
    assert "covariance" in failed("--covariance", "[round]")
    assert "prior_precision" in failed("--prior_precision", "-1")


# -- the calculator --------------------------------------------------------------------------------


@pytest.fixture
def arrays(tmp_path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 4))
    y = (x[:, 0] + 0.3 * generator.normal(size=60) > 0).astype(np.int64)
    np.savez("feats.npz", features=x, labels=y, ids=np.arange(60) + 100)
    return x, y


def test_features_of_a_file_need_no_model(
    arrays: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]], command_line: CommandLine
) -> None:
    x, y = arrays
    expected = lsi_scores(torch.from_numpy(x), torch.from_numpy(y), 2.0)
    words = ("--features", "feats.npz", "--prior_precision", "2.0", "--out", "found")
    shown = command_line.ok("lsi", *words, "--corrupt_frac", "0.1")
    assert "most and least informative" in shown
    assert "finding 6 corrupted" in shown
    assert Path("found/ranking.png").is_file()
    words = (*words, "--figures", "false")
    csv_text = command_line.ok("lsi", *words, "--format", "csv")
    rows = list(csv.DictReader(csv_text.splitlines()))
    assert [int(row["index"]) for row in rows] == list(range(100, 160))
    np.testing.assert_allclose([float(r["lsi_full"]) for r in rows], expected.scores, rtol=1e-9)
    summary = json.loads(command_line.ok("lsi", *words, "--format", "json"))
    assert summary["prior_precision"] == 2.0
    Path("calc.yaml").write_text(
        "features: feats.npz\nout: again\ncovariance: [diag]\nfigures: false\n"
    )
    command_line.ok("lsi", "--config", "calc.yaml")
    assert "lsi_diag" in Path("again/scores.csv").read_text().splitlines()[0]


def test_calculator_loads_no_lightning(
    arrays: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]],
) -> None:
    code = (
        "import sys; from lightning_priv.cli import main; main(sys.argv[1:]);"
        "print('loaded', [m for m in ('lightning', 'wandb', 'geoopt') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "lsi", "--features", "feats.npz", "--figures", "false"],
        capture_output=True,
        text=True,
    )
    assert "loaded []" in done.stdout, done.stderr


def test_marginal_likelihood_and_regression(
    arrays: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]], command_line: CommandLine
) -> None:
    x, _ = arrays
    summary = json.loads(
        command_line.ok(
            *("lsi", "--features", "feats.npz", "--prior_precision", "marglik"),
            *("--format", "json", "--baselines", "[]", "--figures", "false"),
        )
    )
    assert 1e-3 < summary["prior_precision"] < 1e3
    np.savez("line.npz", features=x, labels=x @ np.array([1.0, 2.0, 0.0, -1.0]) + 0.1)
    summary = json.loads(
        command_line.ok(
            *("lsi", "--features", "line.npz", "--format", "json", "--baselines", "[]"),
            *("--figures", "false"),
        )
    )
    assert summary["head"] == "regression"
    assert "detection" not in summary


def test_calculator_says_what_is_missing(
    arrays: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]], command_line: CommandLine
) -> None:
    np.save("bare.npy", arrays[0])
    assert "holds no labels" in command_line.run("lsi", "--features", "bare.npy").err
    assert "there is no file" in command_line.run("lsi", "--features", "none.npz").err
    np.save("labels.npy", arrays[1])
    words = ("--labels", "labels.npy", "--figures", "false")
    assert "mean information" in command_line.ok("lsi", "--features", "bare.npy", *words)


def test_pairs_of_two_views(command_line: CommandLine) -> None:
    """The halves of digits are views of each other; some pairs do not belong together."""
    from sklearn.datasets import load_digits

    x = load_digits().data[:60] / 16
    upper, lower = x[:, :32], x[:, 32:].copy()
    swapped = np.arange(0, 60, 12)
    lower[swapped] = lower[np.roll(swapped, 1)]
    np.save("upper.npy", upper)
    np.savez("lower.npz", features=lower, ids=np.arange(60) + 5)
    words = ("--features", "upper.npy", "--pairs", "lower.npz", "--dim", "3", "--out", "pairs")
    words = (*words, "--prior_precision", "0.1")
    shown = command_line.ok("lsi", *words)
    assert "most and least informative pairs" in shown
    rows = table(Path("pairs/scores.csv"))
    assert [int(row["index"]) for row in rows] == list(range(5, 65))
    expected = contrastive_lsi(
        torch.from_numpy(upper), torch.from_numpy(lower), 0.1, dim=3, temperature=0.5
    )
    found = [float(row["lsi_contrastive"]) for row in rows]
    np.testing.assert_allclose(found, expected.scores, rtol=1e-6)
    parts = [float(row["lsi_first"]) + float(row["lsi_second"]) for row in rows]
    np.testing.assert_allclose(found, parts, rtol=1e-9)
    best = min(rows, key=lambda row: int(row["lsi_rank"]))
    assert float(best["lsi_contrastive"]) == max(found)
    assert Path("pairs/views.png").is_file()
    wrong = torch.zeros(60, dtype=torch.bool)
    wrong[swapped] = True
    assert auroc(torch.tensor(found), wrong) > 0.6
    full = json.loads(command_line.ok("lsi", *words, "--covariance", "[full]", "--format", "json"))
    assert (full["covariance"], full["estimator"]) == ("full", "alo")
    np.save("short.npy", upper[:9])
    short = ("lsi", "--features", "short.npy", "--pairs", "lower.npz")
    assert "both views of the same samples" in command_line.run(*short).err


@pytest.mark.ddp
def test_two_processes_write_the_scores_of_one() -> None:
    more = ("--sets", "classes", "--memory_gib", "0", "--batch_size", "64")  # three unequal batches
    words = (
        "lsi",
        "--config",
        str(digits()),
        *FEW,
        "--trainer.enable_progress_bar",
        "false",
        *more,
    )
    found, classes = [], []
    for devices in ("1", "2"):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "lightning_priv", *words, "--dirpath", f"out{devices}"),
                *("--trainer.devices", devices, "--trainer.accelerator", "cpu"),
                *(("--trainer.strategy", "ddp") if devices == "2" else ()),
            ],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        folder = Path(f"out{devices}/lsi/epoch=00")
        found.append(table(folder / "scores.csv"))
        classes.append(table(folder / "sets.csv"))
    for a, b in zip(*classes, strict=True):
        assert float(a["information"]) == pytest.approx(float(b["information"]), rel=1e-9)
    one, two = found
    assert [row["index"] for row in one] == [row["index"] for row in two]
    for a, b in zip(one, two, strict=True):
        assert float(a["lsi_full"]) == pytest.approx(float(b["lsi_full"]), rel=1e-9)
