"""Divergence and entropy of Gaussians against torch.distributions and high precision."""

import mpmath
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from lightning_priv.functional import gaussian_entropy, gaussian_kl
from lightning_priv.functional.gaussian import (
    kl_parts,
    log1p_gap,
    log_det,
    low_rank_kl,
    low_rank_log_det,
)


def precision(k: int, seed: int) -> Tensor:
    root = torch.randn(k, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.mT + torch.eye(k, dtype=torch.float64)


def vector(k: int, seed: int) -> Tensor:
    return torch.randn(k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_divergence_is_that_of_torch() -> None:
    p, q, m, v = precision(4, 0), precision(4, 1), vector(4, 2), vector(4, 3)
    expected = kl_divergence(
        MultivariateNormal(m, precision_matrix=p), MultivariateNormal(v, precision_matrix=q)
    )
    torch.testing.assert_close(gaussian_kl(m, p, v, q), expected, rtol=1e-12, atol=0)
    a, b = p.diagonal(), q.diagonal()
    diagonal = gaussian_kl(m, a, v, b, "diag")
    torch.testing.assert_close(diagonal, gaussian_kl(m, a.diag(), v, b.diag()))
    single = gaussian_kl(m.float(), p.float(), v.float(), q.float())
    assert single.dtype == torch.float32
    assert float(gaussian_kl(m, p, m, p)) == 0


def test_tiny_divergences_keep_their_digits() -> None:
    p, change, zero = precision(3, 0), 1e-9 * precision(3, 1), torch.zeros(3, dtype=torch.float64)
    found = float(gaussian_kl(zero, p, zero, p + change))
    mpmath.mp.dps = 50
    old, new = (mpmath.matrix((p + c).tolist()) for c in (0 * change, change))
    relative = old**-1 * new
    trace = sum(relative[i, i] for i in range(3))
    truth = (trace - 3 - mpmath.log(mpmath.det(relative))) / 2
    assert 1e-20 < float(truth) < 1e-16
    assert found == pytest.approx(float(truth), rel=1e-6)  # p + change is rounded at 1e-16
    shift, shape = kl_parts(p, change, zero, "full")
    assert float(shift) == 0
    exact = 0.25 * torch.linalg.solve(p, change).square().diagonal().sum()
    assert float(shape) == pytest.approx(float(exact), rel=0.5)


@pytest.mark.parametrize("e", [-0.9, -1e-3, -1e-9, 1e-15, 5e-4, 2.0])
def test_the_gap_has_all_digits(e: float) -> None:
    mpmath.mp.dps = 50
    truth = float(mpmath.mpf(e) - mpmath.log(1 + mpmath.mpf(e)))
    assert float(log1p_gap(torch.tensor(e, dtype=torch.float64))) == pytest.approx(truth, rel=1e-11)


@pytest.mark.parametrize("diagonal", [False, True])
def test_low_rank_changes(diagonal: bool) -> None:
    p, factor, delta = precision(5, 0), vector(10, 1).view(5, 2), vector(5, 2)
    weights = torch.tensor([0.7, -0.05], dtype=torch.float64)
    old = p.diagonal().diag() if diagonal else p
    parts = low_rank_kl(factor, weights, delta, p.diagonal() if diagonal else p)
    change = factor @ weights.diag() @ factor.mT
    for found, expected in zip(parts, kl_parts(old, change, delta, "full"), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
    whole = p.diagonal().diag() + factor @ factor.mT
    torch.testing.assert_close(low_rank_log_det(p.diagonal(), factor), log_det(whole))


def test_entropy_is_that_of_torch() -> None:
    p = precision(4, 0)
    expected = MultivariateNormal(vector(4, 1), precision_matrix=p).entropy()
    torch.testing.assert_close(gaussian_entropy(p), expected)
    torch.testing.assert_close(
        gaussian_entropy(p.diagonal(), "diag"), gaussian_entropy(p.diagonal().diag())
    )


def test_errors_say_what_to_do() -> None:
    p, m = precision(3, 0), vector(3, 1)
    with pytest.raises(ValueError, match="raise the prior precision"):
        gaussian_kl(m, p, m, -p)
    with pytest.raises(ValueError, match=r"ends with shape \(3, 3\)"):
        gaussian_kl(m, p[0], m, p)
    with pytest.raises(ValueError, match="> 0 in every entry"):
        gaussian_kl(m, p[0].abs(), m, -p[0].abs(), "diag")
    with pytest.raises(ValueError, match="structure must be"):
        gaussian_kl(m, p, m, p, "round")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="low_rank_log_det"):
        gaussian_entropy(p, "low_rank")
