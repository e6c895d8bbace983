"""Unusual data: a defined result or an error that says what to do; data that come in pieces."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_priv.errors import ConvergenceError
from lightning_priv.functional import fit_probe, lsi_scores
from lightning_priv.functional.laplace_information import Shards


def samples(n: int = 24, d: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x, (x[:, 0] + 0.5 * torch.randn(n, generator=generator) > 0).long()


def test_separable_data_have_a_fit_for_every_prior() -> None:
    x = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]], dtype=torch.float64)
    y = torch.tensor([0, 0, 1, 1])
    for l2 in (1.0, 1e-3, 1e-6):
        exact = lsi_scores(x, y, l2, "full", "exact")
        assert exact.fit.gradient_norm < 1e-9
        assert bool((torch.isfinite(exact.scores) & (exact.scores >= 0)).all())


def test_twins_share_their_information() -> None:
    x, y = samples()
    alone = lsi_scores(x, y, 0.5).scores
    i = int(alone.argmax())
    twins = lsi_scores(torch.cat([x, x[[i]]]), torch.cat([y, y[[i]]]), 0.5).scores
    assert float(twins[i]) == pytest.approx(float(twins[-1]), rel=1e-9)
    assert 0.2 < float(twins[i] / alone[i]) < 0.8


def test_constant_features_and_more_features_than_samples() -> None:
    x, y = samples()
    constant = torch.cat([x, torch.full((len(x), 2), 3.0, dtype=torch.float64)], 1)
    wide = torch.randn(len(x), 60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    zero = torch.zeros(len(x), 3, dtype=torch.float64)
    for features in (constant, wide, zero):
        for covariance in ("full", "diag", "kfac", "ekfac"):
            scores = lsi_scores(features, y, 0.5, covariance, bias=features is not zero).scores
            assert bool((torch.isfinite(scores) & (scores >= 0)).all())


def test_a_sample_at_the_origin_without_bias_tells_nothing() -> None:
    x, y = samples()
    x[3] = 0
    result = lsi_scores(x, y, 0.5, bias=False)
    assert float(result.scores[3]) == 0
    assert float(result.leverage[3]) == 0


def test_a_class_with_one_member_can_be_left_out() -> None:
    x, y = samples()
    y[5] = 2
    exact = lsi_scores(x, y, 0.5, "full", "exact")
    assert bool(torch.isfinite(exact.scores).all())
    assert int(exact.scores.argmax()) == 5


def test_weight_zero_is_leaving_out() -> None:
    x, y = samples()
    weights = torch.ones(len(x), dtype=torch.float64)
    weights[4] = 0
    keep = weights > 0
    with_zero = fit_probe(x, y, 0.5, weights=weights)
    torch.testing.assert_close(with_zero.weight, fit_probe(x[keep], y[keep], 0.5).weight)


def test_a_class_that_may_be_missing_is_named() -> None:
    x, y = samples()
    assert lsi_scores(x, y, num_classes=4).logits.shape == (24, 4)
    with pytest.raises(ValueError, match="give num_classes"):
        lsi_scores(x, torch.zeros_like(y))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.full((24, 4), float("nan"))}, "NaN or infinity in 24 rows"),
        ({"features": torch.zeros(24, 4, 2)}, r"shape \(n, d\)"),
        ({"features": torch.zeros(3, 4)}, "3 rows of features but 24 labels"),
        ({"labels": torch.full((24,), 0.5)}, "whole numbers"),
        ({"labels": torch.full((24,), -1)}, "whole numbers"),
        ({"labels": torch.full((24,), 3), "num_classes": 2}, "labels reach class 3"),
        ({"labels": torch.zeros(24, 2)}, r"\(n,\)"),
        ({"labels": torch.full((24,), 2), "head": "binary"}, "0 or 1"),
        ({"head": "multilabel"}, r"\(n, C\)"),
        ({"head": "poisson"}, "head must be one of softmax"),
        ({"l2": 0.0}, "l2 must be"),
        ({"covariance": "kron"}, "covariance must be one of full"),
        ({"estimator": "loo"}, "estimator must be one of self"),
        ({"protocol": "mine"}, "protocol must be one of"),
        ({"covariance": "diag", "estimator": "alo_sketch"}, "use estimator 'alo'"),
        ({"covariance": "ekfac", "refine_top_k": 3}, "whose scale differs"),
        ({"refine_top_k": -1}, "refine_top_k"),
        ({"estimator": "alo_sketch", "sketch_dim": 0}, "sketch_dim"),
        ({"dtype": torch.float16}, "dtype must be"),
        ({"chunk_rows": 0}, "chunk_rows"),
        ({"noise_variance": 0.0}, "noise_variance"),
        ({"features": torch.zeros(0, 4), "labels": torch.zeros(0)}, "no samples"),
    ],
)
def test_errors_say_what_was_wrong(change: dict[str, object], message: str) -> None:
    x, y = samples()
    with pytest.raises(ValueError, match=message):
        lsi_scores(**{"features": x, "labels": y, **change})  # type: ignore[arg-type]


def test_a_fit_of_other_data_is_refused() -> None:
    x, y = samples()
    fit = fit_probe(x, y, 0.5)
    with pytest.raises(ValueError, match="of other data"):
        lsi_scores(x[:20], y[:20], fit=fit)
    with pytest.raises(ValueError, match=r"l2=0.5, but l2=0.3"):
        lsi_scores(x, y, 0.3, fit=fit)


def test_too_few_passes_are_an_error() -> None:
    x, y = samples()
    with pytest.raises(ConvergenceError, match="raise max_iterations"):
        fit_probe(x, y, 1e-3, max_iterations=2)


def test_pieces_and_files_give_the_same_scores(tmp_path: Path) -> None:
    x, y = samples()
    whole = lsi_scores(x, y, 0.5, "diag")
    loader = DataLoader(TensorDataset(x, y), batch_size=5)
    chunks = [(x[:3], y[:3]), (x[3:20].numpy(), y[3:20].numpy()), (x[20:], y[20:])]
    np.save(tmp_path / "x.npy", x.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for features, labels in ((loader, None), (chunks, None), (mapped, y.numpy())):
        found = lsi_scores(features, labels, 0.5, "diag", chunk_rows=7)
        torch.testing.assert_close(found.scores, whole.scores, rtol=1e-10, atol=0)
        assert found.delta_norm is not None


def test_streams_that_cannot_be_repeated_are_refused() -> None:
    x, y = samples()
    with pytest.raises(ValueError, match="used up after one pass"):
        lsi_scores(iter([(x, y)]))
    with pytest.raises(ValueError, match="shuffle=False"):
        lsi_scores(DataLoader(TensorDataset(x, y), shuffle=True))
    with pytest.raises(ValueError, match="labels=None"):
        lsi_scores([(x, y)], y)
    with pytest.raises(ValueError, match="3 columns after chunks with 4"):
        lsi_scores([(x, y), (x[:, :3], y)])


def test_shards_refuse_repeated_samples() -> None:
    shards = Shards()
    ids, values = shards.gather(torch.tensor([0.3, 0.1]), torch.tensor([7, 2]))
    assert (ids.tolist(), values.tolist()) == ([2, 7], pytest.approx([0.1, 0.3]))
    with pytest.raises(ValueError, match=r"range\(rank, n, world_size\)"):
        shards.gather(torch.zeros(2), torch.tensor([2, 2]))
    with pytest.raises(ValueError, match="of_process_group"):
        Shards(0, 2)
    with pytest.raises(ValueError, match="rank must be"):
        Shards(2, 2)
