"""Contrastive scores against their definition, with Jacobians by automatic differentiation."""

import pytest
import torch
from probe_reference import dense_kl
from torch import Tensor
from torch.nn import functional

from lightning_priv.functional import contrastive_lsi, spearman

L2, TEMPERATURE, DIM = 0.3, 0.5, 3


def pairs(n: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    sides = []
    for d in (4, 3):
        mix = torch.randn(3, d, generator=generator, dtype=torch.float64)
        noise = torch.randn(n, d, generator=generator, dtype=torch.float64)
        sides.append(hidden @ mix + 0.3 * noise)
    return sides[0], sides[1]


def ones(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)


def logits(w: Tensor, x: Tensor, other: Tensor) -> Tensor:
    return (x @ w.mT) @ other.mT / TEMPERATURE


def clip_loss(z: Tensor) -> Tensor:
    y = torch.arange(len(z))
    rows = functional.cross_entropy(z, y, reduction="sum")
    return 0.5 * (rows + functional.cross_entropy(z.mT, y, reduction="sum"))


def gauss_newton(w: Tensor, x: Tensor, other: Tensor) -> Tensor:
    n, k = len(x), w.numel()
    jacobian = torch.func.jacrev(lambda v: logits(v, x, other))(w).reshape(n * n, k)
    inner = torch.func.hessian(clip_loss)(logits(w, x, other)).reshape(n * n, n * n)
    return jacobian.mT @ inner @ jacobian + L2 * torch.eye(k, dtype=w.dtype)


def refit(w: Tensor, x: Tensor, other: Tensor) -> Tensor:
    def total(v: Tensor) -> Tensor:
        return clip_loss(logits(v, x, other)) + 0.5 * L2 * v.square().sum()

    for _ in range(60):  # full Newton steps with the true Hessian, near the optimum
        g = torch.func.grad(total)(w)
        if g.abs().max() < 1e-12:
            return w
        h = torch.func.hessian(total)(w).reshape(w.numel(), w.numel())
        w = w - torch.linalg.solve(h, g.flatten()).view_as(w)
    raise AssertionError("the reference did not converge")


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_exact_scores_are_the_definition(covariance: str) -> None:
    x, t = pairs()
    found = contrastive_lsi(
        x, t, L2, dim=DIM, temperature=TEMPERATURE, covariance=covariance, tolerance=1e-10
    )
    w, v = found.image.weight, found.text.weight
    x, t = ones(x), ones(t)
    for head, own, weight, other in (
        (found.image, x, w, t @ v.mT),
        (found.text, t, v, x @ w.mT),
    ):
        p = gauss_newton(weight, own, other)
        for i in (0, 5):
            keep = torch.arange(len(own)) != i
            moved = refit(weight, own[keep], other[keep])
            q = gauss_newton(moved, own[keep], other[keep])
            a, b = (p, q) if covariance == "full" else (p.diagonal().diag(), q.diagonal().diag())
            truth = dense_kl(a, b, (moved - weight).flatten())
            assert float(head.mean_shift[i]) == pytest.approx(truth[0], rel=1e-6)
            assert float(head.curvature[i]) == pytest.approx(truth[1], rel=1e-6)
    torch.testing.assert_close(found.scores, found.image.scores + found.text.scores)


def test_one_step_ranks_like_exact() -> None:
    x, t = pairs(16)
    options = {"dim": DIM, "temperature": TEMPERATURE, "covariance": "full"}
    exact = contrastive_lsi(x, t, 1.0, **options)
    step = contrastive_lsi(x, t, 1.0, **options, estimator="alo")
    assert bool((step.scores > 0).all())
    assert float(spearman(step.scores, exact.scores)) > 0.9


def test_order_of_pairs_does_not_matter() -> None:
    x, t = pairs()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
    options = {"dim": DIM, "covariance": "full", "tolerance": 1e-10}
    scores = contrastive_lsi(x, t, L2, **options).scores
    moved = contrastive_lsi(x[order], t[order], L2, **options).scores
    torch.testing.assert_close(moved, scores[order], rtol=1e-5, atol=0)


def test_errors_say_what_to_do() -> None:
    x, t = pairs()
    with pytest.raises(ValueError, match="three pairs"):
        contrastive_lsi(x, t[:5])
    with pytest.raises(ValueError, match=r"text features hold NaN or infinity in rows \[2\]"):
        contrastive_lsi(x, t.index_fill(0, torch.tensor([2]), float("nan")))
    with pytest.raises(ValueError, match="lower l2"):
        contrastive_lsi(x, t, 1e5)
    with pytest.raises(ValueError, match="use covariance 'diag'"):
        contrastive_lsi(x, t, dim=9000, covariance="full")
