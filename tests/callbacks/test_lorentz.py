import csv
import math
import random
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_priv.callbacks import ManifoldMonitor
from lightning_priv.callbacks.lorentz import _complaints, _limits
from lightning_priv.data import Digits
from lightning_priv.errors import DivergenceError, OffManifoldError, UnsupportedModuleError
from lightning_priv.models import Classifier
from lightning_priv.nn import MLP, HyperbolicResNet
from lightning_priv.nn.lorentz.observation import StageReport
from lightning_priv.optim import RiemannianSGD

ROOT = Path(__file__).parents[2]


class Dropping(nn.Module):
    """A hyperbolic network behind layers with random numbers and running statistics."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.entry = nn.Sequential(nn.Dropout(0.2), nn.BatchNorm2d(1))
        self.body = HyperbolicResNet(10, 10, variant="l", in_channels=1, width=4, **options)

    def forward(self, x: Tensor) -> Tensor:
        # Python's and NumPy's generators too
        scale = 1 + 1e-3 * random.random() + 1e-3 * np.random.rand()  # noqa: NPY002
        return self.body(self.entry(x) * scale)


class Generators(Callback):
    """Notes what the next random number would be, at each step."""

    def __init__(self) -> None:
        self.states: list[Tensor] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.states.append(torch.get_rng_state())


def fit(
    *callbacks: Callback, net: nn.Module | None = None, lr: float = 0.05, **options: Any
) -> tuple[Classifier, Trainer]:
    seed_everything(3, verbose=False)
    model = Classifier(
        net or Dropping(),
        num_classes=10,
        optimizer=lambda p: RiemannianSGD(p, lr=lr, momentum=0.9),
    )
    settings = {
        "max_epochs": 2,
        "limit_train_batches": 5,
        "logger": CSVLogger("logs", name=None, version=0),
        "accelerator": "cpu",
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    trainer = Trainer(callbacks=[*callbacks], **{**settings, **options})
    trainer.fit(model, Digits(batch_size=32, val_size=0))
    return model, trainer


def logged(prefix: str = "lorentz/") -> list[dict[str, str]]:
    """The rows of the CSV log that the monitor wrote."""
    with Path("logs/version_0/metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row.get(f"{prefix}k")]


def test_training_is_the_same_to_the_bit() -> None:
    seen = [Generators(), Generators()]
    without, _ = fit(seen[0])
    watched, _ = fit(seen[1], ManifoldMonitor(every_n_steps=3))
    assert [row["step"] for row in logged()] == ["0", "3", "6", "9"]
    state = watched.state_dict()
    for name, value in without.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert any("running_spread" in name for name in state)
    assert len(seen[0].states) == 10
    for a, b in zip(seen[0].states, seen[1].states, strict=True):
        assert torch.equal(a, b)


def test_what_is_logged() -> None:
    net = Dropping(k=2.0, learn_k=True)
    model, trainer = fit(ManifoldMonitor(every_n_steps=4, max_samples=8), net=net)
    rows = logged()
    assert [row["step"] for row in rows] == ["0", "4", "8"]
    first = {k: float(v) for k, v in rows[0].items() if k.startswith("lorentz/") and v}
    assert first["lorentz/k"] == pytest.approx(2.0, rel=1e-6)
    assert float(rows[-1]["lorentz/k"]) != first["lorentz/k"]
    stage = {k.rsplit("/", 1)[1]: v for k, v in first.items() if "/encoder.stages.3/" in k}
    assert set(stage) == {
        *("radius_q05", "radius_q50", "radius_q95", "radius_max"),
        *("reach", "centre", "spread", "cut"),
    }
    assert 0 <= stage["radius_q05"] <= stage["radius_q50"] <= stage["radius_q95"]
    assert stage["radius_q95"] <= stage["radius_max"] <= stage["reach"]
    assert stage["spread"] > 0
    assert stage["cut"] == 0
    head = {k.rsplit("/", 1)[1] for k in first if "/head/" in k}
    assert "spread" not in head
    assert Path("logs/version_0/media/lorentz/radius.png").stat().st_size > 1000
    # nothing in a healthy network raises a warning
    centre, reach = _limits(trainer, model)
    assert (centre, reach) == (pytest.approx(6.0, abs=0.1), pytest.approx(22.5, abs=0.2))


def test_limits_follow_from_the_arithmetic() -> None:
    half = Trainer(accelerator="cpu", logger=False, precision="bf16-mixed")
    model = Classifier(Dropping(), num_classes=10)
    assert _limits(half, model)[1] == pytest.approx(22.5, abs=0.2)  # the range of float32
    assert _limits(half, model.double())[0] == pytest.approx(16.1, abs=0.1)
    # the reason of the first limit: relative error of distances next to a far centre
    for dtype, limit in ((torch.float32, 6.0), (torch.float64, 16.1)):
        error = torch.finfo(dtype).eps * math.exp(2 * limit) / 4
        assert 2e-3 < error < 1e-2


@pytest.mark.parametrize(
    "precision", ["32-true", pytest.param("bf16-mixed", marks=pytest.mark.slow)]
)
def test_a_warning_comes_before_the_failure(precision: str) -> None:
    monitor = ManifoldMonitor(every_n_steps=1)

    class Grow(Callback):
        """Multiply the weights of the first layer, as a diverging training does."""

        def on_train_batch_end(self, trainer: Trainer, model: LightningModule, *_: Any) -> None:
            with torch.no_grad():
                model.net.body.encoder.stem.conv.weight.mul_(1e3)  # type: ignore[union-attr, operator]
                model.net.body.encoder.stem.conv.time_weight.mul_(1e3)  # type: ignore[union-attr, operator]

    options: dict[str, Any] = {"max_epochs": 5, "limit_train_batches": 20, "precision": precision}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises((DivergenceError, OffManifoldError)):
            fit(monitor, Grow(), lr=1e-12, **options)
    texts = [str(w.message) for w in caught if "ManifoldMonitor" in str(w.message)]
    failed = int(logged()[-1]["step"])
    early = [text for text in texts if "encoder.stem" in text and "at radius" in text]
    assert early
    step = int(early[0].split("at step ")[1].split(",")[0])
    assert step < failed, (step, failed)
    assert Path("logs/version_0/media/lorentz/radius.png").is_file()  # drawn all the same


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        ({"centre": 6.1}, "centre"),
        ({"reach": 23.0}, "reach"),
        ({"cut": 0.02}, "cut"),
        ({"spread": 5e-4}, "spread"),
        ({"reach": math.nan}, "nan"),
        ({"reach": math.inf}, "nan"),
    ],
)
def test_each_reason(report: dict[str, float], reason: str) -> None:
    healthy = {"low": 0.1, "median": 1.0, "high": 2.0, "top": 3.0, "reach": 4.0, "centre": 1.0}
    healthy |= {"spread": 0.5, "cut": 0.0}
    assert _complaints(StageReport(**healthy), 6.0, 22.0) == {}
    assert reason in _complaints(StageReport(**{**healthy, **report}), 6.0, 22.0)
    headlike = {**healthy, "spread": math.nan, "cut": math.nan, "centre": math.nan}
    assert _complaints(StageReport(**headlike), 6.0, 22.0) == {}
    assert _complaints(StageReport(), 6.0, 22.0) == {}  # a stage that was not called


def test_accumulated_batches_are_one_step() -> None:
    monitor = ManifoldMonitor(every_n_steps=1)
    fit(monitor, limit_train_batches=4, max_epochs=1, accumulate_grad_batches=2)
    assert [row["step"] for row in logged()] == ["0", "1"]


def test_a_network_without_lorentz_layers() -> None:
    with pytest.raises(UnsupportedModuleError, match=r"no Lorentz layer in Classifier; use a"):
        fit(ManifoldMonitor(), net=MLP(64, 10))


def test_a_batch_without_a_tensor() -> None:
    class Words(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            raise AssertionError("the monitor is asked before")

    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[ManifoldMonitor()],
    )
    loader = DataLoader([{"x": torch.zeros(1, 8, 8)}] * 4, batch_size=2)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedModuleError, match="batch of type dict without a tensor"):
        trainer.fit(Words(Dropping(), num_classes=10), loader)


@pytest.mark.parametrize("options", [{"every_n_steps": 0}, {"max_samples": 1}])
def test_wrong_arguments(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}="):
        ManifoldMonitor(**options)


def test_a_resumed_run_has_one_figure() -> None:
    monitor = ManifoldMonitor(every_n_steps=5)
    fit(monitor)
    again = ManifoldMonitor()
    again.load_state_dict(monitor.state_dict())
    assert again.state_dict() == monitor.state_dict()
    steps = [row[0] for row in again.state_dict()["history"]["encoder.stem"]]
    assert steps == [0, 5]


class Private(SingleDeviceStrategy):
    """A strategy that looks private."""

    noise_multiplier = max_grad_norm = sample_rate = denominator = 1.0
    steps = 0
    delta, limit = 1e-5, None
    history: list[tuple[float, float, int]] = []  # noqa: RUF012

    def epsilon(self, delta: float | None = None) -> float:
        return 1.0

    def lower_limit(self, max_epsilon: float) -> None:
        raise AssertionError

    def set_phase(self, *args: Any) -> None:
        raise AssertionError


@pytest.mark.parametrize("log_private", [False, True])
def test_private_training(log_private: bool) -> None:
    monitor = ManifoldMonitor(every_n_steps=5, log_private=log_private)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(monitor, strategy=Private(device=torch.device("cpu")), accelerator="auto")
    hidden = [w for w in caught if "epsilon does not cover them" in str(w.message)]
    assert len(hidden) == (not log_private)
    (first, _) = logged("private/lorentz/")
    assert any("radius" in key for key in first) == log_private
    assert not any(key.startswith("lorentz/") for key in first)
    figure = Path("logs/version_0/media/private/lorentz/radius.png")
    assert figure.is_file() == log_private


@pytest.mark.ddp
def test_two_processes(tmp_path: Path) -> None:
    words = {
        "--config": ROOT / "configs/demo/hcnn_digits.yaml",
        "--trainer.devices": 2,
        "--trainer.strategy": "ddp",
        "--trainer.max_epochs": 2,
        "--trainer.limit_train_batches": 4,
        "--trainer.enable_progress_bar": "false",
        "--trainer.callbacks+": "lightning_priv.callbacks.ManifoldMonitor",
        "--trainer.callbacks.every_n_steps": 3,
        "--data.init_args.batch_size": 16,
        "--model.init_args.net.init_args.width": 4,
    }
    command = [str(word) for pair in words.items() for word in pair]
    done = subprocess.run(
        [sys.executable, "-m", "lightning_priv", "fit", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.rglob("metrics.csv")
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["lorentz/k"]]
    assert [row["step"] for row in rows] == ["0", "3", "6"]
    assert float(rows[0]["lorentz/encoder.stem/radius_max"]) > 0
