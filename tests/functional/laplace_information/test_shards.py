"""One, two and three processes give the same scores for their own rows, without padding."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from gloo_pool import GlooPool
from torch import Tensor

from lightning_priv.functional import lsi_scores, lsi_sets
from lightning_priv.functional.laplace_information import PaperSGD, Shards, fit_prior_precision

N = 23  # no multiple of 2 or 3
CASES: list[dict[str, Any]] = [
    {"covariance": "full", "refine_top_k": 4},
    {"covariance": "diag", "refine_top_k": 4},
    {"covariance": "kfac"},
    {"covariance": "ekfac"},
    {"estimator": "alo_sketch", "sketch_dim": 16},
    {"estimator": "exact"},
    {"estimator": "exact", "covariance": "diag"},
    {"estimator": "exact", "covariance": "kfac"},
    {"estimator": "exact", "covariance": "ekfac"},
    {"estimator": "retrain", "covariance": "diag", "sgd": PaperSGD(steps=20)},
]


def samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 4, generator=generator, dtype=torch.float64)
    y = (x[:, :3] + torch.randn(N, 3, generator=generator)).argmax(1)
    x[0] *= 20  # high leverage
    return x, y


def scores_of(shards: Shards, case: dict[str, Any]) -> list[Tensor]:
    x, y = samples()
    mine = torch.arange(shards.rank, N, shards.world_size)
    result = lsi_scores(x[mine], y[mine], 0.05, **case, shards=shards)
    parts = torch.stack([result.mean_shift, result.curvature, result.leverage], 1)
    ids, values = shards.gather(torch.cat([parts, result.loo_logits], 1), mine)
    assert ids.tolist() == list(range(N))
    return [values, result.fit.weight]


def run_all(rank: int, cases: list[dict[str, Any]]) -> list[list[Tensor]]:
    shards = Shards.of_process_group()
    found = [scores_of(shards, case) for case in cases]
    x, y = samples()
    mine = torch.arange(shards.rank, N, shards.world_size)
    for estimator in ("alo", "exact"):
        sets = lsi_sets(x[mine], y[mine], y[mine], 0.05, estimator=estimator, shards=shards)
        found.append([sets.scores, sets.sizes])
    found.append([torch.tensor(fit_prior_precision(x[mine], y[mine], shards=shards))])
    return found


@pytest.fixture(scope="module")
def three() -> Iterator[GlooPool]:
    pool = GlooPool(3)
    yield pool
    pool.close()


@pytest.mark.ddp
@pytest.mark.parametrize("size", [2, 3])
def test_processes_give_the_same_scores(
    size: int, gloo_pool: GlooPool, request: pytest.FixtureRequest
) -> None:
    pool = gloo_pool if size == 2 else request.getfixturevalue("three")
    alone = run_all(0, CASES)
    for answer in pool.run(run_all, CASES):
        for number, (found, wanted) in enumerate(zip(answer, alone, strict=True)):
            for a, b in zip(found, wanted, strict=True):
                error, size = float((a - b).abs().max()), float(b.abs().max())
                assert error <= 1e-10 * size, f"case {number}: {error} of {size}"


def test_one_process_needs_no_group() -> None:
    assert Shards.of_process_group().world_size == 1
    found = scores_of(Shards(), {"covariance": "diag"})
    copied = scores_of(Shards(0, 1, lambda value: value.clone()), {"covariance": "diag"})
    torch.testing.assert_close(copied, found, rtol=0, atol=0)
