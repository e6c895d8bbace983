"""The attack itself: the clipped, noised gradient of a linear layer follows the law."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits

from lightning_priv.functional.reconstruction import (
    attack_noise_std,
    mse_cdf,
    mse_quantile,
    ncc_sf,
    psnr_quantile,
)

DRAWS = 1500
NOISE = 0.1


def record() -> torch.Tensor:
    """An 8x8 digit with pixels in [0, 1]."""
    return torch.from_numpy(load_digits().data[0] / 16)


def sink_layer(x: torch.Tensor, outputs: int) -> torch.nn.Linear:
    torch.manual_seed(3)
    return torch.nn.Linear(x.numel(), outputs, bias=False, dtype=torch.float64)


def sink_norm(x: torch.Tensor, outputs: int = 8) -> float:
    other = sink_layer(x, outputs)
    (gradient,) = torch.autograd.grad((other(x) ** 2).sum(), [other.weight])
    return float(gradient.norm())


def attack(
    x: torch.Tensor, outputs: int, max_grad_norm: float, sink: int = 0, steps: int = 1
) -> torch.Tensor:
    """Reconstructions from privatised gradients of batches of one, shape (DRAWS, N).

    The reconstruction layer sums its outputs, so that each row of its gradient is the record;
    ``sink`` values of some other layer take part of the gradient's norm.
    """
    layer = torch.nn.Linear(x.numel(), outputs, bias=False, dtype=torch.float64)
    other = sink_layer(x, max(sink, 1))
    loss = layer(x).sum() + (other(x) ** 2).sum() * float(sink > 0)
    gradients = torch.autograd.grad(loss, [layer.weight, other.weight])
    norm = torch.sqrt(sum((g**2).sum() for g in gradients))
    clip = min(1.0, max_grad_norm / float(norm))
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(DRAWS, x.numel(), dtype=torch.float64)
    for _ in range(steps):
        shape = (DRAWS, *gradients[0].shape)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        released = clip * gradients[0] + NOISE * max_grad_norm * noise
        total += released.mean(dim=1) / clip  # over the rows, with the clipping undone
    return total / steps


def errors(x: torch.Tensor, reconstructions: torch.Tensor) -> np.ndarray:
    return ((reconstructions - x) ** 2).mean(dim=1).numpy()


@pytest.mark.parametrize(("outputs", "max_grad_norm"), [(1, 1.0), (64, 20.0)])
def test_the_optimal_attack_attains_the_law(outputs: int, max_grad_norm: float) -> None:
    x = record()
    mse = errors(x, attack(x, outputs, max_grad_norm))
    arguments = (64, NOISE, float(x.norm()))
    expected = (NOISE * float(x.norm())) ** 2
    assert abs(mse.mean() / expected - 1) < 3 * math.sqrt(2 / (64 * DRAWS))
    assert stats.kstest(mse, lambda eta: mse_cdf(eta, *arguments)).pvalue > 1e-3
    low, high = mse_quantile([0.005, 0.995], *arguments)
    inside = np.mean((mse > low) & (mse < high))
    assert abs(inside - 0.99) < 3 * math.sqrt(0.99 * 0.01 / DRAWS)
    psnr = -10 * np.log10(mse)
    low, high = psnr_quantile([0.005, 0.995], *arguments)
    assert np.mean((psnr > low) & (psnr < high)) == pytest.approx(inside)


def test_below_the_clipping_norm_the_attack_is_worse() -> None:
    x = record()
    mse = errors(x, attack(x, 1, 20.0))
    factor = (20.0 / float(x.norm())) ** 2
    assert mse.mean() == pytest.approx((NOISE * float(x.norm())) ** 2 * factor, rel=0.02)
    expected = attack_noise_std(NOISE, float(x.norm()), 20.0) ** 2
    assert mse.mean() == pytest.approx(expected, rel=0.02)


def test_a_norm_sink_makes_the_attack_worse_and_width_overcomes_it() -> None:
    x = record()
    law = (NOISE, float(x.norm()))
    expected = (NOISE * float(x.norm())) ** 2
    measured = errors(x, attack(x, 1, 1.0, sink=8)).mean()
    assert measured > 1.2 * expected
    assert measured == pytest.approx(
        attack_noise_std(*law, 1.0, 1, 1.0, sink_norm(x)) ** 2, rel=0.02
    )
    wide = errors(x, attack(x, 512, 20.0, sink=8)).mean()
    assert expected * 0.97 < wide < 1.1 * expected
    assert wide == pytest.approx(
        attack_noise_std(*law, 20.0, 512, 1.0, sink_norm(x)) ** 2, rel=0.02
    )


def test_averaging_steps() -> None:
    x = record()
    mse = errors(x, attack(x, 1, 1.0, steps=9))
    arguments = (64, NOISE, float(x.norm()), 9)
    assert stats.kstest(mse, lambda eta: mse_cdf(eta, *arguments)).pvalue > 1e-3


def test_clamping_leaves_the_law() -> None:
    """Knowing the pixel range is a prior: compare unclamped reconstructions with the bound."""
    x = record()
    reconstructions = attack(x, 1, 1.0)
    assert errors(x, reconstructions.clamp(0, 1)).mean() < 0.9 * errors(x, reconstructions).mean()


def test_correlation_follows_its_law() -> None:
    x = record()
    reconstructions = attack(x, 1, 1.0)
    centred = x - x.mean()
    moved = reconstructions - reconstructions.mean(dim=1, keepdim=True)
    ncc = (moved @ centred / (moved.norm(dim=1) * centred.norm())).numpy()
    contrast = float(centred.norm() / x.norm())
    law = stats.kstest(ncc, lambda r: 1 - ncc_sf(r, 64, NOISE, 1, contrast))
    assert law.pvalue > 1e-3
    assert np.mean(ncc > 0.9) < ncc_sf(0.9, 64, NOISE)  # contrast 1 bounds every record
