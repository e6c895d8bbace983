"""Other scores of the probe, each against its definition."""

from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_priv.functional import (
    fit_probe,
    forgetting_counts,
    knn_shapley,
    lsi_baselines,
    lsi_scores,
    random_projection_influence,
)
from lightning_priv.functional.laplace_information import BASELINES
from lightning_priv.functional.laplace_information.baselines import stratified_folds


def samples(n: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return x, (x[:, :3] + noise).argmax(1)


def test_scores_of_the_probe_are_their_formulas() -> None:
    x, y = samples()
    fit = fit_probe(x, y, 0.5)
    found = lsi_baselines(x, y, fit, ("loss", "el2n", "grad_norm", "margin", "pvi"))
    z = fit.logits(x)
    p, hot = z.softmax(1), torch.nn.functional.one_hot(y)
    loss = cross_entropy(z, y, reduction="none")
    torch.testing.assert_close(found["loss"], loss)
    torch.testing.assert_close(found["el2n"], (p - hot).norm(dim=1))
    gradients = (p - hot)[:, :, None] * torch.cat([x, torch.ones(len(x), 1)], 1)[:, None]
    torch.testing.assert_close(found["grad_norm"], gradients.flatten(1).norm(dim=1))
    mine = p.gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(found["margin"], (p - 2 * hot).amax(1) - mine)
    prior = (y.bincount() / len(y)).log()[y]
    torch.testing.assert_close(found["pvi"], prior + loss)  # minus ln p(y | x) - ln p(y)


def test_scores_without_the_sample_are_those_of_the_step() -> None:
    x, y = samples()
    result = lsi_scores(x, y, 0.5)
    names = ("self_influence", "loo_loss", "memorisation", "sui")
    found = lsi_baselines(x, y, result.fit, names)
    leading = lsi_scores(x, y, 0.5, estimator="self", fit=result.fit)
    torch.testing.assert_close(found["self_influence"], leading.scores)
    left = result.loo_logits.log_softmax(1).gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(found["loo_loss"], -left)
    with_it = result.logits.softmax(1).gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(found["memorisation"], with_it - left.exp())
    # 1/2 delta^T P delta with the whole precision, by the moves of the diagonal posterior
    ones = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    z = result.fit.logits(x)
    p = z.softmax(1)
    s = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    precision = torch.einsum("jab,jf,jg->afbg", s, ones, ones).reshape(15, 15)
    precision += 0.5 * torch.eye(15, dtype=x.dtype)
    r = p - torch.nn.functional.one_hot(y)
    for i in (0, 7):
        own = torch.kron(s[i], torch.outer(ones[i], ones[i]))
        delta = torch.linalg.solve(precision - own, torch.kron(r[i], ones[i]))
        torch.testing.assert_close(found["sui"][i], 0.5 * delta @ precision @ delta)


def test_cross_validation_is_that_of_a_probe_without_the_fold() -> None:
    x, y = samples()
    fit = fit_probe(x, y, 0.5)
    found = lsi_baselines(x, y, fit, ("cl_self_confidence", "cl_margin"), cv_folds=4, seed=3)
    fold = stratified_folds(y, 4, 3)
    assert fold.bincount().tolist() == [10, 10, 10, 10]
    ones = np.concatenate([x.numpy(), np.ones((len(x), 1))], 1)
    for number in range(4):
        held = (fold == number).numpy()
        model = LogisticRegression(C=2.0, fit_intercept=False, tol=1e-10, max_iter=5000)
        p = torch.from_numpy(model.fit(ones[~held], y[~held]).predict_proba(ones[held]))
        mine = p.gather(1, y[held][:, None])[:, 0]
        torch.testing.assert_close(found["cl_self_confidence"][held], 1 - mine, rtol=0, atol=1e-5)
        others = p.scatter(1, y[held][:, None], -1.0).amax(1)
        torch.testing.assert_close(found["cl_margin"][held], others - mine, rtol=0, atol=1e-5)


def test_order_and_ids() -> None:
    x, y = samples()
    ids = torch.arange(40) * 2 + 5
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    names = ("cl_margin", "knn_shapley", "trak")
    fit = fit_probe(x, y, 0.5)
    one = lsi_baselines(x, y, fit, names, ids=ids)
    two = lsi_baselines(x[order], y[order], fit, names, ids=ids[order])
    for name in names:
        torch.testing.assert_close(two[name], one[name][order], rtol=1e-9, atol=1e-12)


def test_projected_influence_is_leverage_once_the_projection_is_square() -> None:
    x, y = samples()
    fit = fit_probe(x, y, 0.5)
    found = lsi_baselines(x, y, fit, ("trak",), proj_dim=200)["trak"]
    torch.testing.assert_close(found, random_projection_influence(x, y, fit, 200))
    # R has full rank: phi (Phi^T Phi)^+ phi^T does not see it
    z = fit.logits(x)
    p, hot = z.softmax(1), torch.nn.functional.one_hot(y).double()
    mine = (p * hot).sum(1, keepdim=True)
    slope = (hot - p) / (1 - mine)
    ones = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    g = (slope[:, :, None] * ones[:, None]).flatten(1)
    expected = (g @ torch.linalg.pinv(g.mT @ g, hermitian=True) * g).sum(1) * (1 - mine[:, 0])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)
    line = fit_probe(x, x[:, :2], head="regression")
    with pytest.raises(ValueError, match="log-odds"):
        random_projection_influence(x, x[:, :2], line)
    with pytest.raises(ValueError, match="proj_dim=0"):
        random_projection_influence(x, y, fit, 0)


def test_shapley_values_are_their_definition() -> None:
    x, y = samples(5)
    test_x, test_y = samples(3, seed=9)

    def utility(chosen: tuple[int, ...]) -> float:
        """Mean over tests of the share of right ones among the two nearest, of two."""
        total = 0.0
        for point, label in zip(test_x, test_y, strict=True):
            near = sorted(chosen, key=lambda j: float((x[j] - point).norm()))[:2]
            total += sum(float(y[j] == label) for j in near) / 2
        return total / len(test_y)

    values = torch.zeros(5)
    orders = list(permutations(range(5)))
    for order in orders:
        for place, j in enumerate(order):
            values[j] += (utility(order[: place + 1]) - utility(order[:place])) / len(orders)
    found = knn_shapley(x, y, test_x, test_y, neighbours=2)
    torch.testing.assert_close(found.float(), values, rtol=1e-5, atol=1e-6)


def test_forgetting_is_right_and_then_wrong() -> None:
    right = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 1], [1, 0, 1, 0]])
    assert forgetting_counts(right).tolist() == [1, 3, 0, 1]
    with pytest.raises(ValueError, match="looks, n"):
        forgetting_counts(right[0])


def test_errors_say_what_to_do() -> None:
    x, y = samples()
    fit = fit_probe(x, y)
    with pytest.raises(ValueError, match=f"known are {BASELINES[0]}"):
        lsi_baselines(x, y, fit, ("beauty",))  # type: ignore[arg-type]
    line = fit_probe(x, x[:, :2], head="regression")
    with pytest.raises(ValueError, match="need probabilities"):
        lsi_baselines(x, x[:, :2], line, ("margin",))
    with pytest.raises(ValueError, match="cv_folds must be from 2 to 40"):
        lsi_baselines(x, y, fit, ("cl_margin",), cv_folds=41)


@pytest.mark.parametrize("head", ["binary", "multilabel"])
def test_yes_and_no(head: str) -> None:
    x, _ = samples()
    y = (x[:, 0] > 0).long() if head == "binary" else (x[:, :2] > 0).long()
    fit = fit_probe(x, y, head=head)  # type: ignore[arg-type]
    names = [n for n in BASELINES if head == "binary" or n != "trak"]
    found = lsi_baselines(x, y, fit, names)
    p = fit.logits(x).sigmoid()
    mine = torch.where(y.view_as(p) > 0, p, 1 - p)
    torch.testing.assert_close(found["loss"], -mine.log().sum(1))
    assert all(bool(torch.isfinite(v).all()) for v in found.values())
