"""Measured reconstructions against the law, on one process and on two."""

import math
from typing import Any

import pytest
import torch
from gloo_pool import GlooPool

from lightning_priv.functional.reconstruction import reconstruction_risk
from lightning_priv.metrics import ReconstructionBoundCoverage, ReconstructionRisk

NOISE = 0.2


def attacked(count: int, seed: int = 0, worse: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Reconstructions of an optimal attack (``worse`` 1) on records of different norm."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(count, 1, 8, 8, generator=generator)
    scale = worse * NOISE * target.flatten(1).norm(dim=1)[:, None, None, None]
    return target + scale * torch.randn(target.shape, generator=generator), target


def measured(preds: torch.Tensor, target: torch.Tensor, **options: Any) -> dict[str, float]:
    metric = ReconstructionBoundCoverage(NOISE, **options)
    for start in range(0, len(preds), 100):
        metric.update(preds[start : start + 100], target[start : start + 100])
    return {key: value.item() for key, value in metric.compute().items()}


def test_an_optimal_attack_covers_the_law() -> None:
    values = measured(*attacked(2000))
    for level in (0.05, 0.5, 0.95):
        error = math.sqrt(level * (1 - level) / 2000)
        assert values[f"coverage_{level:g}"] == pytest.approx(level, abs=4 * error)
    assert values["ks"] < 1.95 / math.sqrt(2000)
    assert values["gap"] == pytest.approx(0.0, abs=0.02)
    assert values["violated"] == 0
    assert values["count"] == 2000


def test_a_worse_attack_leaves_a_gap() -> None:
    values = measured(*attacked(500, worse=1.2))
    assert values["gap"] == pytest.approx(0.44, abs=0.05)
    assert values["coverage_0.5"] < 0.2
    assert values["ks"] > 0.5
    assert values["violated"] == 0


def test_clamping_uses_a_prior_and_is_found() -> None:
    preds, target = attacked(500)
    values = measured(preds.clamp(0, 1), target)
    assert values["violated"] == 1
    assert values["gap"] < -0.1


def test_steps_and_given_norms() -> None:
    preds, target = attacked(500, worse=1 / 3)
    assert abs(measured(preds, target, steps=9)["gap"]) < 0.03
    metric = ReconstructionBoundCoverage(NOISE / 2)
    metric.update(*attacked(500), max_norm=2 * target.flatten(1).norm(dim=1))
    assert abs(metric.compute()["gap"].item()) < 0.03


def test_order_of_the_samples_does_not_matter() -> None:
    preds, target = attacked(300)
    order = torch.randperm(300)
    first, second = measured(preds, target), measured(preds[order], target[order])
    assert first == pytest.approx(second)


@pytest.mark.parametrize(
    ("preds", "target", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), "one shape"),
        (torch.zeros(3), torch.zeros(3), "batch dimension"),
        (torch.full((2, 3), math.nan), torch.ones(2, 3), "NaN"),
        (torch.zeros(2, 3), torch.zeros(2, 3), "max_norm must be"),
    ],
)
def test_wrong_batches(preds: torch.Tensor, target: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReconstructionBoundCoverage(NOISE).update(preds, target)


def test_wrong_arguments() -> None:
    for options in ({"noise_multiplier": 0.0}, {"noise_multiplier": 1.0, "levels": [1.0]}):
        with pytest.raises(ValueError, match="must be"):
            ReconstructionBoundCoverage(**options)
    with pytest.raises(ValueError, match="call update"):
        ReconstructionBoundCoverage(1.0).compute()


HISTORY = [(1.0, 0.01, 300), (1.0, 0.01, 700)]


def test_risk_of_a_run() -> None:
    metric = ReconstructionRisk(dimension=64, max_norm=4.0)
    metric.update(HISTORY[:1])
    metric.update(HISTORY)  # the whole history again: not a sum
    values = metric.compute()
    expected = reconstruction_risk([(1.0, 0.01, 1000)], 64, 4.0)
    for name in ("mse", "psnr", "identification", "epsilon", "never_used"):
        assert values[name].item() == pytest.approx(getattr(expected, name), rel=1e-12)
    metric.reset()
    with pytest.raises(ValueError, match="at least one phase"):
        metric.compute()
    with pytest.raises(ValueError, match="kappa must be"):
        ReconstructionRisk(dimension=64, max_norm=4.0, kappa=2.0)


def on_each_rank(rank: int, preds: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    share = slice(rank * 120, None) if rank else slice(0, 120)  # uneven on purpose
    coverage = ReconstructionBoundCoverage(NOISE)
    coverage.update(preds[share], target[share])
    risk = ReconstructionRisk(dimension=64, max_norm=4.0)
    risk.update(HISTORY)
    values = coverage.compute() | risk.compute()
    return {key: value.item() for key, value in values.items()}


@pytest.mark.ddp
def test_two_processes_give_what_one_gives(gloo_pool: GlooPool) -> None:
    preds, target = attacked(200)
    one = measured(preds, target)
    risk = ReconstructionRisk(dimension=64, max_norm=4.0)
    risk.update(HISTORY)
    one |= {key: value.item() for key, value in risk.compute().items()}
    for other in gloo_pool.run(on_each_rank, preds, target):
        assert other == pytest.approx(one)
