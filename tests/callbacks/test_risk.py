"""The live corridor, on a stand-in for the private strategy."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.utils.data import DataLoader, TensorDataset

from lightning_priv.callbacks import RiskCorridor
from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.reconstruction import (
    gaussian_prior_mmse,
    mse_quantile,
    rero_subsampled_gaussian,
)


class CountingStrategy(SingleDeviceStrategy):
    """What the callback may expect of a private strategy; each training step counts."""

    noise_multiplier, max_grad_norm, sample_rate, denominator = 1.0, 1.0, 1.0, 4.0
    delta, limit = 1e-5, None

    def __init__(self) -> None:
        super().__init__("cpu")
        self.steps = 0

    @property
    def history(self) -> list[tuple[float, float, int]]:
        return [(self.noise_multiplier, self.sample_rate, self.steps)]

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        self.steps += 1
        return super().training_step(*args, **kwargs)

    def epsilon(self, delta: float | None = None) -> float:
        return math.nan

    def lower_limit(self, max_epsilon: float) -> None:
        raise AssertionError("nothing here lowers the limit")

    def set_phase(self, steps: Any, rates: Any, denominator: Any, noise_multiplier: Any) -> None:
        raise NotImplementedError


class Memory(Logger):
    """Keeps what is logged."""

    name = version = "memory"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []
        self._folder = folder

    @property
    def save_dir(self) -> str:
        return str(self._folder)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


class Module(LightningModule):
    def __init__(self, audit: float | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 1)
        self.audit = audit

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.audit is not None:
            self.log("audit/psnr", self.audit)
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def fit(
    callback: RiskCorridor, tmp_path: Path, strategy: Any = None, audit: float | None = None
) -> Memory:
    logger = Memory(tmp_path)
    trainer = Trainer(
        accelerator="cpu",
        strategy=strategy or CountingStrategy(),
        max_epochs=1,
        logger=logger,
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(audit), DataLoader(TensorDataset(torch.rand(24, 64)), batch_size=4))
    return logger


def rows_of(logger: Memory, key: str) -> list[tuple[int | None, float]]:
    return [(step, row[key]) for step, row in logger.rows if key in row]


def test_live_numbers_and_the_final_media(tmp_path: Path) -> None:
    callback = RiskCorridor(max_norm=4.0, input_shape=[1, 8, 8], max_overhead=0.999)
    strategy = CountingStrategy()
    strategy.sample_rate = 0.5
    logger = fit(callback, tmp_path, strategy)
    identification = rows_of(logger, "risk/identification")
    assert len(identification) >= 2
    values = [value for _, value in identification]
    assert values == sorted(values)
    last = logger.rows[-1][1]
    assert last["risk/identification"] == rero_subsampled_gaussian(0.1, 1.0, 0.5, 6)[1]
    mse = mse_quantile(0.05, 64, 1.0, 4.0, 6, 0.5)
    assert last["risk/mse"] == pytest.approx(mse, rel=1e-9)
    assert last["risk/psnr"] == pytest.approx(-10 * math.log10(mse))
    assert last["risk/guess_psnr"] == pytest.approx(-10 * math.log10(16 / 64))
    assert last["risk/never_used"] == pytest.approx(0.5**6)
    media = tmp_path / "memory" / "memory" / "media" / "risk"
    assert (media / "corridor.png").stat().st_size > 20_000
    table = (media / "corridor.csv").read_text()
    assert "epsilon at delta = 1e-05, certified" in table
    assert "identification, certified bound" in table


def test_overhead_is_limited(tmp_path: Path) -> None:
    """With next to nothing allowed, only the first step and the end are logged."""
    callback = RiskCorridor(max_norm=4.0, input_shape=[1, 8, 8], max_overhead=1e-9)
    logger = fit(callback, tmp_path)
    assert len(rows_of(logger, "risk/identification")) == 2


def test_priors_and_audits_share_the_axis(tmp_path: Path) -> None:
    eigenvalues = [0.2] * 8 + [0.01] * 56
    callback = RiskCorridor(4.0, input_shape=[64], prior_eigenvalues=eigenvalues)
    last = fit(callback, tmp_path, audit=-20.0).rows[-1][1]
    expected = gaussian_prior_mmse(eigenvalues, math.sqrt(last["risk/mse"]))
    assert last["risk/prior_mse"] == pytest.approx(expected)
    assert last["risk/prior_mse"] < last["risk/mse"]
    assert last["risk/measured_psnr"] == -20.0
    assert last["risk/gap"] == pytest.approx(last["risk/psnr"] + 20.0)


def test_without_noise_there_is_no_privacy(tmp_path: Path) -> None:
    strategy = CountingStrategy()
    strategy.noise_multiplier = 0.0
    last = fit(RiskCorridor(4.0, input_shape=[64]), tmp_path, strategy).rows[-1][1]
    assert "risk/mse" not in last
    assert last["risk/identification"] > 0.98


def test_refusals(tmp_path: Path) -> None:
    plain = SingleDeviceStrategy("cpu")
    with pytest.raises(ConfigurationError, match="needs a private training"):
        fit(RiskCorridor(4.0, input_shape=[64]), tmp_path, plain)
    with pytest.raises(ConfigurationError, match="shape of a record"):
        fit(RiskCorridor(4.0), tmp_path)
    for options in ({"max_norm": 0.0}, {"max_norm": 1.0, "kappa": 1.0}, {"max_norm": math.nan}):
        with pytest.raises(ValueError, match="must be"):
            RiskCorridor(**options)
