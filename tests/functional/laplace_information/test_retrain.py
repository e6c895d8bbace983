"""The paper's loop against torch.optim, the marginal likelihood against a dense one."""

import math

import pytest
import torch
from probe_reference import dense_kl, dense_precision, hessian, newton_fit, probe_loss
from torch import Tensor, nn

from lightning_priv.functional import PaperSGD, fit_prior_precision, lsi_scores
from lightning_priv.functional.laplace_information.evidence import log_evidence
from lightning_priv.functional.laplace_information.probe import fit_rows
from lightning_priv.functional.laplace_information.retrain import first_weights
from lightning_priv.functional.laplace_information.rows import make_rows


def samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    return x, (x + torch.randn(20, 3, generator=generator, dtype=torch.float64)).argmax(1)


def trained(x: Tensor, y: Tensor, start: Tensor, sgd: PaperSGD, decay: float) -> Tensor:
    layer = nn.Linear(x.shape[1], 3, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(start)
    optimizer = torch.optim.SGD(
        layer.parameters(), sgd.lr, sgd.momentum, nesterov=sgd.nesterov, weight_decay=decay
    )
    for _ in range(sgd.steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(layer(x), y).backward()
        optimizer.step()
    return layer.weight.detach()


@pytest.mark.parametrize("covariance", ["full", "diag"])
@pytest.mark.parametrize("protocol", ["paper", "matched"])
def test_the_loop_is_that_of_torch(protocol: str, covariance: str) -> None:
    x, y = samples()
    sgd = PaperSGD(steps=30, lr=0.1)
    found = lsi_scores(x, y, 0.5, covariance, "retrain", sgd=sgd, protocol=protocol, seed=4)
    ones = torch.cat([x, torch.ones(20, 1, dtype=x.dtype)], 1)
    rows = make_rows(x, y)
    start = (rows.head.basis(x) @ first_weights(rows, 4)).flatten(0, 1)
    decay = 0.5 / 20 if protocol == "matched" else sgd.weight_decay
    w = trained(ones, y, start, sgd, decay)
    torch.testing.assert_close(found.fit.weight, w, rtol=1e-9, atol=1e-12)
    p = dense_precision(w, ones, y, 0.5, "softmax", covariance, None)
    for i in (0, 11):
        keep = torch.arange(20) != i
        without = 0.5 / 19 if protocol == "matched" else decay
        v = trained(ones[keep], y[keep], start, sgd, without)
        q = dense_precision(v, ones[keep], y[keep], 0.5, "softmax", covariance, None)
        truth = torch.tensor(dense_kl(p, q, (v - w).flatten()), dtype=torch.float64)
        parts = torch.stack([found.mean_shift[i], found.curvature[i]])
        torch.testing.assert_close(parts, truth, rtol=1e-7, atol=1e-13)


def test_the_matched_loop_reaches_the_exact_scores() -> None:
    x, y = samples()
    exact = lsi_scores(x, y, 0.5, "diag", "exact").scores
    sgd = PaperSGD(steps=4000, lr=0.3)
    found = lsi_scores(x, y, 0.5, "diag", "retrain", sgd=sgd, protocol="matched").scores
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="need steps >= 1"):
        PaperSGD(steps=0)


def test_the_evidence_is_laplaces() -> None:
    x, y = samples()
    ones = torch.cat([x, torch.ones(20, 1, dtype=x.dtype)], 1)

    def dense(l2: float) -> float:
        w = newton_fit(ones, y, l2, "softmax", 3)
        p = hessian(w, ones, y, "softmax") + l2 * torch.eye(12, dtype=x.dtype)
        loss = float(probe_loss(w, ones, y, "softmax") + 0.5 * l2 * w.square().sum())
        return -loss + 6 * math.log(l2) - 0.5 * float(torch.linalg.slogdet(p)[1])

    rows = make_rows(x, y)
    for l2 in (0.3, 2.0):
        found = log_evidence(rows, fit_rows(rows, l2))
        assert found == pytest.approx(dense(l2), rel=1e-10)
    best = fit_prior_precision(x, y)
    assert dense(best) > max(dense(best * 1.05), dense(best / 1.05))
    with pytest.raises(ValueError, match="0 < low < high"):
        fit_prior_precision(x, y, bounds=(1.0, 0.5))
