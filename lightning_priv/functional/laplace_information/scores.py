"""Laplace sample information of every sample of a data set."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from .alo import Columns, Leverage, put_common
from .downdate import HIGH_LEVERAGE
from .heads import HeadName
from .probe import FULL_PARAMETERS, ProbeFit, fit_rows, precision_factor
from .result import COVARIANCES, ESTIMATORS, Covariance, Estimator, LSIResult
from .rows import Features, Labels, Rows, make_rows
from .shards import Shards


def lsi_scores(
    features: Features,
    labels: Labels = None,
    l2: float = 1.0,
    covariance: Covariance = "full",
    estimator: Estimator = "alo",
    *,
    head: HeadName = "softmax",
    num_classes: int | None = None,
    noise_variance: float = 1.0,
    bias: bool = True,
    fit: ProbeFit | None = None,
    refine_top_k: int = 0,
    refine_flagged: bool = True,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    chunk_rows: int = 16384,
    shards: Shards | None = None,
) -> LSIResult:
    rows = make_rows(
        features,
        labels,
        head=head,
        num_classes=num_classes,
        noise_variance=noise_variance,
        bias=bias,
        dtype=dtype,
        device=device,
        chunk_rows=chunk_rows,
        shards=shards,
    )
    fit = fit or fit_rows(rows, l2)
    lever = Leverage(fit, fit.factor)
    columns = Columns(rows)
    for chunk in rows:
        pieces = lever.pieces(chunk)
        put_common(columns, pieces)
        columns.put(
            chunk.start, mean_shift=pieces.step.mean_shift, curvature=pieces.step.curvature
        )
    like = fit.weight
    mean, curv = columns.take("mean_shift", like), columns.take("curvature", like)
    blocks, width = rows.head.blocks, rows.head.width
    u, own = columns.take("u", like, blocks, width), columns.take("own", like, blocks, width)
    flagged = columns.take("largest", like) > HIGH_LEVERAGE
    return LSIResult(
        mean + curv, mean, curv, columns.take("leverage", like), flagged,
        torch.zeros_like(flagged), None, rows.head.to_outputs(u).flatten(1),
        rows.head.to_outputs(u + own).flatten(1), covariance, estimator, None, fit)
