"""Memory grows with the samples, not with their square nor with samples times squared weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_priv.functional import fit_probe, lsi_baselines, lsi_scores, lsi_sets
from lightning_priv.functional.laplace_information import moments, scores

N, DIM, CLASSES, CHUNK = 1000, 12, 4, 64
K = CLASSES * (DIM + 1)


class Largest(TorchDispatchMode):
    """The largest number of elements of any tensor that an operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, torch.Tensor):
                self.numel = max(self.numel, value.untyped_storage().nbytes() // 8)
        return out


def largest(n: int, act: Any) -> int:
    generator = np.random.default_rng(0)
    np.save("x.npy", generator.standard_normal((n, DIM)))
    x = np.load("x.npy", mmap_mode="r")
    y = np.asarray(x)[:, :CLASSES].argmax(1)
    with Largest() as seen:
        act(x, y)
    Path("x.npy").unlink()
    return seen.numel


def scoring(**options: Any) -> Any:
    return lambda x, y: lsi_scores(x, y, chunk_rows=CHUNK, **options)


def others(x: Any, y: Any) -> None:
    fit = fit_probe(x, y, chunk_rows=CHUNK)
    names = ("loss", "el2n", "self_influence", "cl_margin", "pvi", "trak")
    lsi_baselines(x, y, fit, names, proj_dim=16, cv_folds=2, chunk_rows=CHUNK)
    lsi_sets(x, y, torch.as_tensor(y), fit=fit, estimator="exact", chunk_rows=CHUNK)


@pytest.mark.parametrize(
    "act",
    [
        scoring(),
        scoring(covariance="diag"),
        scoring(covariance="kfac"),
        scoring(covariance="ekfac"),
        scoring(estimator="alo_sketch", sketch_dim=8),
        others,
    ],
    ids=["full", "diag", "kfac", "ekfac", "sketch", "others"],
)
def test_no_tensor_grows_faster_than_the_samples(act: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # as with millions of samples: what is worked on at once is small beside them
    monkeypatch.setattr(moments, "PAIR_BYTES", 2**14)
    monkeypatch.setattr(scores, "_MOVE_BYTES", 2**14)
    small, large = largest(N // 2, act), largest(N, act)
    # what is kept of a sample: C (C + 1) outputs at most; else chunks and K x K numbers
    assert large <= max(N * CLASSES * 2, 2 * K * K, CHUNK * K * CLASSES)
    assert large <= 2.02 * small
    assert large < N * N / 50


def test_the_recording_sees_what_is_large() -> None:
    def pairs(x: Any, y: Any) -> None:
        x = torch.from_numpy(np.array(x))
        torch.cdist(x, x)

    assert largest(500, pairs) == 500 * 500
