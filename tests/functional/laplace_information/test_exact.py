"""Scores against leave-one-out by definition, for every head and covariance."""

import pytest
import torch
from probe_reference import reference_scores
from torch import Tensor

from lightning_priv.functional import lsi_scores

HEADS = ["softmax", "binary", "multilabel", "regression"]
COVARIANCES = ["full", "diag", "kfac", "ekfac"]


def problem(head: str, n: int = 14, d: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, int]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    z = x @ torch.randn(d, 3, generator=generator, dtype=torch.float64) + noise
    if head == "softmax":
        y = z.argmax(1)
        y[:3] = torch.arange(3)
        return x, y, 3
    if head == "binary":
        return x, (z[:, 0] > 0).long(), 1
    if head == "multilabel":
        return x, (z[:, :2] > 0).long(), 2
    return x, z[:, :2], 2


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("head", HEADS)
def test_exact_scores_are_the_definition(head: str, covariance: str) -> None:
    x, y, outputs = problem(head)
    chosen = [0, 3, 7, 13]
    truth = reference_scores(x, y, 0.5, head, outputs, covariance, chosen)
    found = lsi_scores(x, y, 0.5, covariance, "exact", head=head)
    assert bool(found.refined.all())
    parts = torch.stack([found.mean_shift, found.curvature], 1)[chosen]
    torch.testing.assert_close(parts, truth, rtol=1e-8, atol=1e-13)
    torch.testing.assert_close(found.scores, found.mean_shift + found.curvature)
