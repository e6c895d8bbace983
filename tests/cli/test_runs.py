"""Short trainings through the command line: files, resuming, precision, loggers, processes."""

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import CONFIGS, CommandLine, digits

REPORTS = [
    {"class_path": "lightning_priv.callbacks.LinearBaseline"},
    {
        "class_path": "lightning_priv.callbacks.Dashboard",
        "init_args": {
            "targets": [{"metric": "test/accuracy", "value": 0.99, "source": "a paper [1]"}]
        },
    },
]


def checkpoint(folder: str | Path) -> dict[str, Any]:
    (path,) = Path(folder).rglob("*.ckpt")
    return torch.load(path, weights_only=True)


def rows(path: str | Path) -> list[dict[str, str]]:
    with Path(path).open() as file:
        return list(csv.DictReader(file))


def logged(path: str | Path, key: str) -> list[float]:
    return [float(row[key]) for row in rows(path) if row.get(key)]


def linear_accuracy() -> dict[str, float]:
    """The best of three logistic regressions, by hand."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    from lightning_priv.data import Digits

    data = Digits()
    data.setup()
    assert data.val_dataset is not None
    sets = {
        "train": data.plain_train_dataset,
        "val": data.val_dataset,
        "test": data.test_dataset,
    }
    x = {name: part.x.flatten(1).numpy() for name, part in sets.items()}
    scale = StandardScaler().fit(x["train"]).transform
    best: dict[str, float] = {"val": -1.0}
    for c in (1.0, 0.1, 0.01):
        model = LogisticRegression(C=c, max_iter=50).fit(scale(x["train"]), sets["train"].targets)
        score = {k: model.score(scale(x[k]), sets[k].targets) for k in ("val", "test")}
        best = score if score["val"] >= best["val"] else best
    return best


def test_fit_then_test_last(command_line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    config = digits(callbacks=REPORTS)
    shown = command_line.ok("fit", "--config", config)
    run = Path("runs/digits/version_0")
    assert f"figure: {run}/media/curves.png" in shown.splitlines()
    assert (run / "media/curves.png").read_bytes().startswith(b"\x89PNG")
    assert yaml.safe_load((run / "config.yaml").read_text())["seed_everything"] == 0

    shown = command_line.ok("test", "--config", config, "--ckpt_path", "last")
    run = Path("runs/digits/version_1")
    table = {row["metric"]: row for row in rows(run / "media/results_test.csv")}["test/accuracy"]
    (accuracy,) = logged(run / "metrics.csv", "test/accuracy")
    assert float(table["measured"]) == accuracy
    assert float(table["published"]) == 0.99
    assert float(table["difference"]) == pytest.approx(accuracy - 0.99)
    assert table["source"] == "a paper [1]"
    expected = linear_accuracy()
    assert float(table["linear baseline"]) == pytest.approx(expected["test"], abs=1e-6)
    (val, *_) = logged("runs/digits/version_0/metrics.csv", "val/accuracy_linear")
    assert val == pytest.approx(expected["val"], abs=1e-6)
    assert shown.splitlines()[-1] == f"figure: {run}/media/test/confusion.png"
    assert "a paper [1]" in shown


@pytest.mark.parametrize(
    ("limit", "steps_in_all"), [(9, 36), pytest.param(1.0, 84, marks=pytest.mark.slow)]
)
def test_resumed_run_equals_unbroken_one(
    command_line: CommandLine, limit: float, steps_in_all: int
) -> None:
    """With shuffling and dropout, bit for bit; the second half continues the curves too."""
    dashboard = [{"class_path": "lightning_priv.callbacks.Dashboard"}]
    config = digits(callbacks=dashboard, limit_train_batches=limit)
    whole = ("--trainer.default_root_dir", "runs/whole", "--trainer.max_epochs", "4")
    command_line.ok("fit", "--config", config, *whole)
    command_line.ok("fit", "--config", config)
    first = checkpoint("runs/digits")
    resumed = ("--trainer.max_epochs", "4", "--ckpt_path", "last")
    command_line.ok("fit", "--config", config, *resumed)
    unbroken = checkpoint("runs/whole")
    continued = checkpoint("runs/digits/version_1")
    assert (continued["epoch"], continued["global_step"]) == (3, steps_in_all)
    assert continued["state_dict"].keys() == unbroken["state_dict"].keys()
    moved = False
    for name, weight in unbroken["state_dict"].items():
        assert torch.equal(continued["state_dict"][name], weight), name
        moved |= not torch.equal(first["state_dict"][name], weight)
    assert moved
    assert continued["callbacks"]["Dashboard"] == unbroken["callbacks"]["Dashboard"]
    steps = [step for step, _ in continued["callbacks"]["Dashboard"]["curves"]["val/loss"]]
    assert steps == [steps_in_all * part // 4 for part in (1, 2, 3, 4)]


def test_seed_changes_the_run(command_line: CommandLine) -> None:
    config = digits(max_epochs=1)
    weights = []
    for seed in (0, 0, 1):
        root = f"runs/{len(weights)}"
        words = ("--seed_everything", seed, "--trainer.default_root_dir", root)
        command_line.ok("fit", "--config", config, *words)
        weights.append(checkpoint(root)["state_dict"]["net.head.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_validate_and_predict(command_line: CommandLine) -> None:
    config = digits(callbacks=REPORTS, limit_predict_batches=2)
    shown = command_line.ok("validate", "--config", config)
    assert "validate results" in shown
    assert rows("runs/digits/version_0/media/results_validate.csv")[0]["linear baseline"] == ""
    command_line.ok("predict", "--config", config)


def test_bf16(command_line: CommandLine) -> None:
    config = digits(callbacks=REPORTS, precision="bf16-mixed", max_epochs=3)
    command_line.ok("fit", "--config", config)
    loss = logged("runs/digits/version_0/metrics.csv", "val/loss")
    assert all(map(math.isfinite, loss))
    assert loss[-1] < loss[0]
    assert checkpoint("runs/digits")["state_dict"]["net.head.weight"].dtype == torch.float32


def test_fast_dev_run_leaves_nothing_behind(command_line: CommandLine) -> None:
    command_line.ok("fit", "--config", digits(callbacks=REPORTS, fast_dev_run=2))
    assert list(Path("runs").rglob("*")) == [] if Path("runs").exists() else True


@pytest.mark.whole
def test_csv_and_wandb_fragments(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = digits(callbacks=REPORTS, max_epochs=1)
    words = ("fit", "--config", config, "--config", CONFIGS / "base/wandb.yaml")
    command_line.ok(*words)
    root = Path("runs/digits")
    (offline,) = root.glob("wandb/offline-run-*")
    assert list(offline.glob("*.wandb"))
    (run,) = (root / "lightning_priv").iterdir()
    assert {path.name for path in run.iterdir()} == {"checkpoints", "media", "report.html"}
    assert (run / "media/curves.png").is_file()
    (copy,) = offline.rglob("curves*.png")
    assert copy.read_bytes() == (run / "media/curves.png").read_bytes()
    assert not Path("wandb").exists()

    # the later file wins, and the checkpoint of the other logger is found
    command_line.ok(*words, "--config", CONFIGS / "base/csv.yaml", "--ckpt_path", "last")
    assert (root / "version_0/config.yaml").is_file()


MODULE = """
import torch
from lightning.pytorch import LightningModule

class Line(LightningModule):
    def __init__(self, slope: float = 0.0) -> None:
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(slope))
    def training_step(self, x, _):
        loss = ((self.slope - 2) * x).square().mean()
        self.log("loss", loss)
        return loss
    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.ones(8), batch_size=2)
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.25)
"""


@pytest.mark.whole
def test_console_script_trains_a_module_of_the_current_folder(tmp_path: Path) -> None:
    """A class of another project, with its own loader and without a data module."""
    (tmp_path / "their_module.py").write_text(MODULE)
    script = Path(sys.executable).with_name("lightning-priv")
    options = "--model their_module.Line --trainer.max_epochs 3 --trainer.accelerator cpu"
    command = [str(script), "fit", *options.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "torch.jit.script" not in done.stderr
    # each step halves the distance to 2; 12 steps
    slope = checkpoint("runs/default")["state_dict"]["slope"]
    assert float(slope) == pytest.approx(2 - 2 * 0.5**12)


@pytest.mark.ddp
def test_two_processes(command_line: CommandLine) -> None:
    """The same commands on two gloo processes: one run directory, one table, the same baseline."""
    config = digits(callbacks=REPORTS, limit_train_batches=1.0)
    command = [sys.executable, "-m", "lightning_priv"]
    fragment = ["--config", str(CONFIGS / "base/ddp_cpu.yaml")]
    for words in (["fit"], ["test", "--ckpt_path", "last"]):
        done = subprocess.run(
            [*command, *words, "--config", str(config), *fragment],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert "distributed_backend=gloo" in done.stderr
        assert done.stdout.count("table: ") == 1
    assert sorted(p.name for p in Path("runs/digits").iterdir()) == ["version_0", "version_1"]
    table = {row["metric"]: row for row in rows("runs/digits/version_1/media/results_test.csv")}
    baseline = float(table["test/accuracy"]["linear baseline"])
    assert baseline == pytest.approx(linear_accuracy()["test"], abs=1e-6)

    # the trained weights score the same in one process
    command_line.ok("test", "--config", config, "--ckpt_path", "last")
    alone = {row["metric"]: row for row in rows("runs/digits/version_2/media/results_test.csv")}
    for metric in ("test/accuracy", "test/loss"):
        measured = float(table[metric]["measured"])
        assert measured == pytest.approx(float(alone[metric]["measured"]), rel=1e-5), metric


@pytest.mark.ddp
def test_two_tasks_of_slurm() -> None:
    """As srun starts them: two processes, which find each other by SLURM's variables."""
    strategy = private_strategy(8.0)
    strategy["class_path"] = "lightning_priv.strategies.DPSGDDDPStrategy"
    strategy["init_args"]["process_group_backend"] = "gloo"
    config = digits(strategy=strategy, devices=2, limit_train_batches=None)
    words = [sys.executable, "-m", "lightning_priv", "fit", "--config", str(config)]
    job = {
        "SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NAME": "fit", "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODELIST": "localhost", "SLURM_NNODES": "1",
        "SLURM_NODEID": "0", "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    tasks = [
        subprocess.Popen(
            [*words, "--trainer.num_nodes", "1"],
            env={**os.environ, **job, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [task.communicate(timeout=300)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    assert "distributed_backend=gloo" in said[0]
    [report] = Path("runs/digits").rglob("dp_report.json")
    facts = json.loads(report.read_text())
    assert facts["world_size"] == 2
    ledger = Path("runs/digits/privacy_ledger.jsonl").read_text().splitlines()
    assert sum('"open"' in line for line in ledger) == 1  # rank zero alone
    assert sum('"step"' in line for line in ledger) == facts["steps"] > 0


def test_report_of_runs(command_line: CommandLine) -> None:
    for name, epsilon in (("plain", None), ("private", 8.0)):
        strategy = {} if epsilon is None else {"strategy": private_strategy(epsilon)}
        config = digits(f"{name}.yaml", default_root_dir=f"runs/{name}", max_epochs=1, **strategy)
        command_line.ok("fit", "--config", config)
    text = command_line.ok("report", "runs", "--format", "csv", "--out", "report.html")
    table = {row["run"]: row for row in csv.DictReader(text.splitlines())}
    assert set(table) == {"plain", "private"}
    assert 0 < float(table["private"]["privacy/epsilon"]) <= 8.0
    assert table["plain"]["privacy/epsilon"] == ""
    assert float(table["plain"]["val/accuracy"]) > 0.1
    assert "DPSGDStrategy" in Path("report.html").read_text()
    assert command_line.run("report", "runs/nothing").code == 1
    # words before the options and the option itself are the same
    assert command_line.ok("report", "--runs=[runs]", "--format", "csv") == text


def private_strategy(epsilon: float) -> dict[str, Any]:
    init = {"target_epsilon": epsilon, "fix_modules": True}
    return {"class_path": "lightning_priv.strategies.DPSGDStrategy", "init_args": init}


STOP = """
import lightning.pytorch as pl


class Stop(pl.Callback):
    def __init__(self, step: int):
        self.step = step

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.step:  # what Lightning's handler of the signal does
            trainer._signal_connector._sigterm_notifier_fn(15, None)
"""


@pytest.mark.parametrize("private", [False, True])
def test_a_run_that_is_told_to_end_does_not_look_like_a_success(
    command_line: CommandLine, private: bool
) -> None:
    Path("stop_at.py").write_text(STOP)
    config = digits(callbacks=[{"class_path": "stop_at.Stop", "init_args": {"step": 5}}])
    words = ["fit", "--config", config]
    if private:
        words += ["--trainer.strategy", "dp_sgd"]
    outcome = command_line.run(*words)
    assert outcome.code == 143
    assert "stopped by SIGTERM after step 5" in outcome.err
    assert "No checkpoint was written" in outcome.err
    checkpoints = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"every_n_train_steps": 2},
    }
    text = yaml.safe_load(config.read_text())
    text["trainer"]["callbacks"].append(checkpoints)
    config.write_text(yaml.safe_dump(text))
    outcome = command_line.run(*words)
    assert outcome.code == 143
    assert "--ckpt_path last" in outcome.err


def test_a_missing_tensorboard_is_named(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_priv.lightning_cli.find_spec", lambda name: None)
    fragment = CONFIGS / "base/tensorboard.yaml"
    outcome = command_line.run("fit", "--config", digits(), "--config", fragment)
    assert outcome.code == 1
    assert "pip install tensorboard" in outcome.err
    assert not Path("runs").exists()
