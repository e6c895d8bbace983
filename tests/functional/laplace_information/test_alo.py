"""One-step scores: their algebra, their agreement with exact ones, and their invariances."""

from functools import cache
from typing import Any

import pytest
import torch
from probe_reference import dense_kl, hessian, newton_fit
from sklearn.datasets import load_breast_cancer, load_digits
from torch import Tensor
from torch.nn.functional import avg_pool2d

from lightning_priv.functional import LSIResult, lsi_scores, spearman
from lightning_priv.functional.laplace_information import ekfac, moments

CASES: dict[str, dict[str, Any]] = {
    "softmax": {"head": "softmax"},
    "binary": {"head": "binary"},
    "multilabel": {"head": "multilabel"},
    "regression": {"head": "regression"},
}


def samples(head: str, n: int = 30, d: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    z = x[:, :3] + torch.randn(n, 3, generator=generator, dtype=torch.float64)
    labels = {
        "softmax": z.argmax(1),
        "binary": (z[:, 0] > 0).long(),
        "multilabel": (z[:, :2] > 0).long(),
        "regression": z[:, :2],
    }
    return x, labels[head]


@cache
def digits(n: int) -> tuple[Tensor, Tensor]:
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:n]
    return torch.from_numpy(x / 16)[order], torch.from_numpy(y)[order]


@cache
def coarse_digits() -> tuple[Tensor, Tensor]:
    """300 digits of 4 x 4 pixels: 170 weights."""
    x, y = digits(300)
    return avg_pool2d(x.view(-1, 1, 8, 8), 2).flatten(1), y


@cache
def exact_digits(covariance: str) -> LSIResult:
    return lsi_scores(*coarse_digits(), 1.0, covariance, "exact")


@pytest.mark.parametrize("pair_features", [160, 0])
@pytest.mark.parametrize("head", CASES)
def test_woodbury_equals_the_dense_downdate(
    head: str, pair_features: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "PAIR_FEATURES", pair_features)  # both ways to sum
    x, y = samples(head, n=12)
    found = lsi_scores(x, y, 0.4, head=head, refine_flagged=False)
    ones = torch.cat([x, torch.ones(12, 1, dtype=torch.float64)], 1)
    w = newton_fit(ones, y, 0.4, head, found.fit.num_outputs)
    torch.testing.assert_close(found.fit.weight, w, rtol=1e-8, atol=1e-9)
    k = w.numel()
    p = hessian(w, ones, y, head) + 0.4 * torch.eye(k, dtype=torch.float64)
    for i in (0, 5, 11):
        one = slice(i, i + 1)
        q = p - hessian(w, ones[one], y[one], head)
        gradient = p @ torch.zeros(k, dtype=torch.float64) + 0.4 * w.flatten()
        gradient = -_rest(w, ones, y, head, i) - gradient
        delta = torch.linalg.solve(q, gradient)  # one Newton step without the sample
        truth = torch.tensor(dense_kl(p, q, delta), dtype=torch.float64)
        parts = torch.stack([found.mean_shift[i], found.curvature[i]])
        torch.testing.assert_close(parts, truth, rtol=1e-7, atol=1e-12)
        moved = ones[i] @ (w + delta.view_as(w)).mT
        torch.testing.assert_close(
            found.loo_logits[i] - found.loo_logits[i].mean() * (head == "softmax"),
            moved - moved.mean() * (head == "softmax"),
            rtol=1e-7,
            atol=1e-9,
        )


def _rest(w: Tensor, x: Tensor, y: Tensor, head: str, i: int) -> Tensor:
    from probe_reference import probe_loss

    keep = torch.arange(len(x)) != i
    return torch.func.grad(lambda v: probe_loss(v, x[keep], y[keep], head))(w).flatten()


@pytest.mark.parametrize(
    ("covariance", "estimator", "floor", "error"),
    [
        ("full", "alo", 0.999, 0.1),
        ("full", "alo_sketch", 0.9995, 0.03),
        ("diag", "alo", 0.999, 0.02),
    ],
)
def test_agreement_with_exact_on_digits(
    covariance: str, estimator: str, floor: float, error: float
) -> None:
    exact = exact_digits(covariance)
    found = lsi_scores(*coarse_digits(), 1.0, covariance, estimator, fit=exact.fit)
    assert float(spearman(found.scores, exact.scores)) >= floor
    relative = ((found.scores - exact.scores) / exact.scores).abs()
    assert float(relative.median()) <= error


@pytest.mark.slow
@pytest.mark.parametrize("l2", [1.0, 0.1])
def test_agreement_at_full_resolution(l2: float) -> None:
    x, y = digits(300)
    for covariance, error in (("full", 0.13), ("diag", 0.02)):
        exact = lsi_scores(x, y, l2, covariance, "exact")
        found = lsi_scores(x, y, l2, covariance, fit=exact.fit)
        assert float(spearman(found.scores, exact.scores)) >= 0.999
        relative = ((found.scores - exact.scores) / exact.scores).abs()
        assert float(relative.median()) <= error


def test_self_influence_is_the_leading_term() -> None:
    exact = exact_digits("full")
    leading = lsi_scores(*coarse_digits(), estimator="self", fit=exact.fit)
    assert bool((leading.curvature == 0).all())
    assert 0.98 < float(spearman(leading.scores, exact.scores)) < 1
    step = lsi_scores(*coarse_digits(), fit=exact.fit)
    assert bool((leading.scores < step.scores).all())


def test_breast_cancer_has_no_negative_score() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    x = torch.from_numpy((x - x.mean(0)) / x.std(0))
    for covariance in ("full", "diag", "kfac", "ekfac"):
        scores = lsi_scores(x, torch.from_numpy(y), 1.0, covariance).scores
        assert bool((torch.isfinite(scores) & (scores >= 0)).all())
    assert float(scores.min()) < 1e-20 * float(scores.max())


def test_single_precision_features_and_arithmetic_keep_the_ranks() -> None:
    x, y = digits(300)
    double = lsi_scores(x, y).scores
    assert float(spearman(lsi_scores(x.float(), y).scores, double)) > 0.9999
    single = lsi_scores(x, y, dtype=torch.float32).scores
    assert single.dtype == torch.float32
    assert float(spearman(single, double)) > 0.999


@pytest.mark.parametrize("covariance", ["full", "diag", "kfac", "ekfac"])
@pytest.mark.parametrize("head", CASES)
def test_order_and_chunks_do_not_matter(head: str, covariance: str) -> None:
    x, y = samples(head)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    options = {"covariance": covariance, "head": head}
    scores = lsi_scores(x, y, 0.5, **options).scores
    moved = lsi_scores(x[order], y[order], 0.5, **options, chunk_rows=7).scores
    torch.testing.assert_close(moved, scores[order], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("head", CASES)
def test_full_covariance_does_not_see_rotations(head: str) -> None:
    x, y = samples(head)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    scores = lsi_scores(x, y, 0.5, head=head).scores
    turned = lsi_scores(x @ rotation, y, 0.5, head=head).scores
    torch.testing.assert_close(turned, scores, rtol=1e-9, atol=1e-13)
    diagonal = lsi_scores(x, y, 0.5, "diag", head=head).scores
    assert not torch.allclose(lsi_scores(x @ rotation, y, 0.5, "diag", head=head).scores, diagonal)


@pytest.mark.parametrize("covariance", ["full", "diag", "kfac", "ekfac"])
def test_names_of_classes_do_not_matter(covariance: str) -> None:
    x, y = samples("softmax")
    renamed = torch.tensor([2, 0, 1])[y]
    torch.testing.assert_close(
        lsi_scores(x, renamed, 0.5, covariance).scores,
        lsi_scores(x, y, 0.5, covariance).scores,
        rtol=1e-9,
        atol=1e-14,
    )


def test_twice_the_data_and_prior_quarter_the_curvature() -> None:
    x, y = digits(300)
    once, twice = lsi_scores(x, y), lsi_scores(torch.cat([x, x]), torch.cat([y, y]), 2.0)
    torch.testing.assert_close(twice.fit.weight, once.fit.weight, rtol=1e-7, atol=1e-8)
    assert float((twice.curvature[:300] / once.curvature).median()) == pytest.approx(0.24, abs=0.03)
    assert float((twice.mean_shift[:300] / once.mean_shift).median()) == pytest.approx(
        0.46, abs=0.05
    )


def test_refining_replaces_the_top_by_exact_scores() -> None:
    exact = exact_digits("diag")
    found = lsi_scores(*coarse_digits(), 1.0, "diag", fit=exact.fit, refine_top_k=5)
    assert int(found.refined.sum()) == 5
    torch.testing.assert_close(
        found.scores[found.refined], exact.scores[found.refined], rtol=1e-9, atol=0
    )
    assert found.delta_norm is not None
    assert bool((found.delta_norm > 0).all())


def test_high_leverage_is_flagged_and_made_exact() -> None:
    x, y = samples("softmax", n=20)
    x[0] *= 30
    exact = lsi_scores(x, y, 1e-3, "full", "exact")
    rough = lsi_scores(x, y, 1e-3, fit=exact.fit, refine_flagged=False)
    found = lsi_scores(x, y, 1e-3, fit=exact.fit)
    assert bool(rough.flagged.any())
    assert bool((found.refined == found.flagged).all())
    mine = found.flagged
    torch.testing.assert_close(found.scores[mine], exact.scores[mine], rtol=1e-7, atol=0)
    assert not torch.allclose(rough.scores[mine], exact.scores[mine], rtol=0.05)


def test_many_classes_may_be_truncated(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    centres = 1.5 * torch.randn(110, 6, generator=generator, dtype=torch.float64)
    y = torch.arange(110).repeat(3)
    x = centres[y] + 0.3 * torch.randn(330, 6, generator=generator, dtype=torch.float64)
    rough = lsi_scores(x, y, 0.1, "ekfac")
    assert rough.approximation == "ekfac"
    monkeypatch.setattr(ekfac, "_MANY", 1000)
    whole = lsi_scores(x, y, 0.1, "ekfac", fit=rough.fit)
    assert float(spearman(rough.scores, whole.scores)) > 0.9999
    plain = ~whole.flagged  # what passes the cap is not a Newton step
    assert int(plain.sum()) > 20
    torch.testing.assert_close(
        rough.loo_logits[plain], whole.loo_logits[plain], rtol=1e-2, atol=1e-2
    )


def test_kronecker_inverse_ranks_like_the_full_one() -> None:
    x, y = digits(300)
    assert lsi_scores(x, y, covariance="auto").covariance == "full"
    rough = lsi_scores(x, y, covariance="ekfac")
    assert float(spearman(rough.scores, lsi_scores(x, y, fit=rough.fit).scores)) > 0.97
