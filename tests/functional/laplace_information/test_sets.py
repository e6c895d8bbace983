"""Information of whole sets, against refits and dense divergences."""

import pytest
import torch
from probe_reference import dense_kl, dense_precision, newton_fit
from torch import Tensor

from lightning_priv.functional import lsi_scores, lsi_sets
from lightning_priv.functional.laplace_information import probe, sets

SETS = [torch.tensor([3]), torch.tensor([0, 4, 9]), torch.tensor([4, 5, 6, 7, 8, 9, 10, 11])]


def samples(head: str = "softmax") -> tuple[Tensor, Tensor, int]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(18, 3, generator=generator, dtype=torch.float64)
    z = x + torch.randn(18, 3, generator=generator, dtype=torch.float64)
    if head == "softmax":
        return x, z.argmax(1), 3
    if head == "multilabel":
        return x, (z[:, :2] > 0).long(), 2
    return x, z[:, :2], 2


def reference(
    x: Tensor, y: Tensor, head: str, outputs: int, covariance: str, chosen: Tensor
) -> tuple[float, float]:
    ones = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    keep = torch.ones(len(x), dtype=torch.bool)
    keep[chosen] = False
    w = newton_fit(ones, y, 0.5, head, outputs)
    v = newton_fit(ones[keep], y[keep], 0.5, head, outputs)
    p = dense_precision(w, ones, y, 0.5, head, covariance, None)
    q = dense_precision(v, ones[keep], y[keep], 0.5, head, covariance, None)
    return dense_kl(p, q, (v - w).flatten())


@pytest.mark.parametrize("covariance", ["full", "diag"])
@pytest.mark.parametrize("head", ["softmax", "multilabel", "regression"])
def test_exact_sets_are_the_definition(head: str, covariance: str) -> None:
    x, y, outputs = samples(head)
    found = lsi_sets(x, y, SETS, 0.5, covariance, "exact", head=head)  # type: ignore[arg-type]
    for i, chosen in enumerate(SETS):
        mean, shape = reference(x, y, head, outputs, covariance, chosen)
        assert float(found.mean_shift[i]) == pytest.approx(mean, rel=1e-8)
        assert float(found.curvature[i]) == pytest.approx(shape, rel=1e-8, abs=1e-13)
    assert found.sizes.tolist() == [1, 3, 8]


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_one_step_is_exact_for_a_quadratic_loss(covariance: str) -> None:
    x, y, _ = samples("regression")
    step, exact = (
        lsi_sets(x, y, SETS, 0.5, covariance, estimator, head="regression")  # type: ignore[arg-type]
        for estimator in ("alo", "exact")
    )
    torch.testing.assert_close(step.mean_shift, exact.mean_shift, rtol=1e-8, atol=0)
    torch.testing.assert_close(step.curvature, exact.curvature, rtol=1e-8, atol=1e-13)


def test_a_set_of_one_is_the_sample() -> None:
    x, y, _ = samples()
    one = [torch.tensor([i]) for i in range(5)]
    for covariance in ("full", "diag"):
        for estimator in ("exact", "alo") if covariance == "full" else ("exact",):
            scores = lsi_scores(x, y, 0.5, covariance, estimator, refine_flagged=False).scores[:5]
            found = lsi_sets(x, y, one, 0.5, covariance, estimator)  # type: ignore[arg-type]
            torch.testing.assert_close(found.scores, scores, rtol=1e-7, atol=1e-12)


def test_labels_are_sets_and_order_does_not_matter() -> None:
    x, y, _ = samples()
    groups = y.masked_fill(torch.arange(18) == 5, -1)  # one belongs to none
    found = lsi_sets(x, y, groups, 0.5)
    assert int(found.sizes.sum()) == 17
    order = torch.randperm(18, generator=torch.Generator().manual_seed(0))
    moved = lsi_sets(x[order], y[order], groups[order], 0.5)
    torch.testing.assert_close(moved.scores, found.scores, rtol=1e-8, atol=0)


def test_duplicates_cover_for_each_other() -> None:
    x, y, _ = samples()
    x, y = torch.cat([x, x[:1]]), torch.cat([y, y[:1]])
    alone = lsi_scores(x, y, 0.5, "full", "exact").scores
    together = lsi_sets(x, y, [torch.tensor([0, 18])], 0.5, estimator="exact").scores
    assert float(together[0]) > float(alone[0] + alone[18])


def test_errors_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, _ = samples()
    for given, text in (
        ([torch.arange(18)], "some but not all of the 18 samples"),
        ([torch.tensor([40])], "from 0 to 17"),
        (torch.zeros(3), "18 set numbers"),
    ):
        with pytest.raises(ValueError, match=text):
            lsi_sets(x, y, given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="covariance full or diag"):
        lsi_sets(x, y, y, covariance="kfac")  # type: ignore[arg-type]
    monkeypatch.setattr(probe, "FULL_PARAMETERS", 10)
    monkeypatch.setattr(sets, "FULL_PARAMETERS", 10)
    with pytest.raises(ValueError, match="'diag' with estimator 'exact'"):
        lsi_sets(x, y, y, 0.5)
    assert bool((lsi_sets(x, y, y, 0.5, "diag", "exact").scores > 0).all())
