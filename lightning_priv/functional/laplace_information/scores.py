"""Laplace sample information of every sample of a data set."""

import dataclasses
from typing import get_args

import torch
from torch import Tensor

from .alo import Columns, Leverage, put_common
from .between import information_between, own_coordinates
from .diagonal import DiagonalPosterior
from .downdate import HIGH_LEVERAGE
from .ekfac import EkfacLeverage
from .exact import leave_one_out, select
from .heads import HeadName
from .kfac import KroneckerPosterior
from .probe import FULL_PARAMETERS, ProbeFit, at_weights, fit_rows, precision_factor
from .result import COVARIANCES, ESTIMATORS, Covariance, Estimator, LSIResult
from .retrain import PaperSGD, Protocol, train, train_without
from .rows import Features, Labels, Rows, make_rows
from .shards import Shards
from .sketch import CurvatureSketch

_MOVE_BYTES = 2**28  # how the weights move without each sample of a group, K numbers each


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
    sketch_dim: int = 512,
    seed: int = 0,
    sgd: PaperSGD | None = None,
    protocol: Protocol = "paper",
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    chunk_rows: int = 16384,
    shards: Shards | None = None,
) -> LSIResult:
    """Information that a linear probe has from each training sample.

    LSI_i = KL( N(theta, P^-1) || N(theta_-i, P_-i^-1) ), P = H + l2 I with H the summed Hessian
    (Kaiser et al., ICLR 2025). The default needs one fit: its leading term is the self-influence
    1/2 r^T G r, corrected for what the sample itself contributes to the curvature.

    Args:
        features: (n, d), an array (memory-mapped if it is large), or an iterable of
            (features, labels) chunks that can be passed over several times.
        labels: (n,) classes for ``softmax``, (n,) zeros and ones for ``binary``, (n, C) of them
            for ``multilabel``, (n,) or (n, m) numbers for ``regression``; None with an iterable.
        l2: prior precision on the *summed* loss.
        covariance: ``full``; ``diag`` (the paper's); ``kfac`` (laplace-torch's Kronecker form);
            ``ekfac``, whose memory is that of the weights; ``auto`` takes full up to 20,000
            weights.
        estimator: ``alo`` one Newton step; ``self`` its leading term; ``alo_sketch`` adds the
            bending of all other samples' curvature (full only); ``exact`` fits without each
            sample; ``retrain`` repeats the paper's training loop without each sample.
        head: the likelihood.
        num_classes: classes of ``softmax``; by default the highest label + 1.
        noise_variance: of ``regression``.
        bias: append a constant feature, penalised like the others.
        fit: a fit of the same samples with the same arguments, to save another.
        refine_top_k: so many highest scores are replaced by exact ones (``alo``, ``alo_sketch``).
        refine_flagged: replace those of high leverage likewise. Not with ``ekfac``, whose
            one-step scores have another scale than its exact ones.
        sketch_dim: random pairs of ``alo_sketch``.
        seed: of the sketch, and of the first weights of ``retrain``.
        sgd: the loop of ``retrain``.
        protocol: ``paper`` takes the loop's own weight decay for the means and ``l2`` for the
            curvature, as the public code does; ``matched`` takes weight decays that stand for l2:
            l2 / n, and l2 / (n - 1) without a sample.
        dtype: of the computation.
        device: of the computation; by default that of the features.
        chunk_rows: rows converted at a time.
        shards: this process among others; features are then its own rows only, and so are the
            scores.

    Returns:
        Scores with their two parts and what else the pass gives.

    Raises:
        ValueError: for wrong arguments or data (see the message).
        ConvergenceError: if a fit does not converge.

    Example:
        >>> x = torch.tensor([[0.0], [0.2], [1.0], [1.2]])
        >>> result = lsi_scores(x, torch.tensor([0, 0, 1, 0]), l2=0.1)  # the last label is odd
        >>> int(result.scores.argmax())
        3
    """
    _check_choices(covariance, estimator, protocol, refine_top_k)
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
    if covariance == "auto":
        covariance = "full" if rows.num_parameters <= FULL_PARAMETERS else "ekfac"
    if estimator == "alo_sketch" and covariance != "full":
        raise ValueError(
            f"alo_sketch estimates a full covariance, got {covariance!r}; use estimator 'alo'"
        )
    if covariance == "ekfac" and refine_top_k:
        raise ValueError(
            "refine_top_k would mix exact scores into ekfac's, whose scale differs; use "
            "estimator 'exact', or covariance 'full'"
        )
    if estimator == "retrain":
        sgd = sgd or PaperSGD()
        decays = (sgd.weight_decay, sgd.weight_decay)
        if protocol == "matched":  # the same prior precision on the sums of n and n - 1 losses
            decays = (l2 / rows.total, l2 / max(1, rows.total - 1))
        return _retrain(rows, l2, covariance, sgd, decays, seed)
    if fit is None:
        fit = fit_rows(rows, l2)
    _check_fit(rows, fit, l2)
    scoring = _Scoring(rows, fit, covariance, estimator)
    if estimator == "exact":
        return scoring.exact()
    result = scoring.one_step(sketch_dim, seed)
    return scoring.refined(result, refine_top_k, refine_flagged)


class _Scoring:
    """The steps of one call."""

    def __init__(
        self, rows: Rows, fit: ProbeFit, covariance: Covariance, estimator: Estimator
    ) -> None:
        self.rows, self.covariance, self.estimator = rows, covariance, estimator
        small = rows.num_parameters <= FULL_PARAMETERS
        self.factor = fit.factor
        self.lever: Leverage | EkfacLeverage
        if covariance == "full" or (small and (covariance != "ekfac" or estimator == "exact")):
            if self.factor is None:
                self.factor = precision_factor(rows, fit.l2, fit.coordinates)
                fit = dataclasses.replace(fit, factor=self.factor)
            self.lever = Leverage(fit, self.factor)
        else:
            self.lever = EkfacLeverage(fit, rows)
        self.fit = fit

    def one_step(self, sketch_dim: int, seed: int) -> LSIResult:
        """Scores by the estimators that need no other fit."""
        rows, fit, columns = self.rows, self.fit, Columns(self.rows)
        diagonal = kron = sketch = None
        if self.covariance == "diag":
            exact_slopes = isinstance(self.lever, Leverage) and self.estimator != "self"
            diagonal = DiagonalPosterior(rows, fit.coordinates, fit.l2, slopes=exact_slopes)
        elif self.covariance == "kfac":
            kron = KroneckerPosterior(rows, fit.coordinates, fit.l2)
        if self.estimator == "alo_sketch":
            assert isinstance(self.lever, Leverage)
            assert self.factor is not None
            sketch = CurvatureSketch(rows, self.lever, self.factor, sketch_dim, seed)
        moves = bool(diagonal or kron or sketch)
        for chunk in rows.narrow(_MOVE_BYTES if moves else None):
            pieces = self.lever.pieces(chunk)
            put_common(columns, pieces)
            mean, curvature = pieces.step.mean_shift, pieces.step.curvature
            deltas = None
            if self.estimator == "self":
                mean, curvature = pieces.step.self_influence, torch.zeros_like(mean)
                if diagonal or kron:
                    deltas = self.lever.deltas(chunk.x, pieces.r)
                    mean = (diagonal or kron).norms(deltas)  # type: ignore[union-attr]
            elif diagonal or kron or sketch:
                deltas = self.lever.deltas(chunk.x, pieces.step.v)
                if diagonal:
                    mean, curvature = diagonal.scores(pieces, deltas)
                elif kron:
                    change = kron.linear_change(pieces, deltas)
                    mean, curvature = kron.scores(chunk.x, change, deltas)
                elif sketch:
                    gain = sketch.correction(pieces, deltas)
                    curvature = (curvature + gain).clamp(min=0)
            columns.put(chunk.start, mean_shift=mean, curvature=curvature)
            if deltas is not None:
                columns.put(chunk.start, delta_norm=deltas.flatten(1).norm(dim=1))
        return self._result(columns)

    def exact(self) -> LSIResult:
        """Scores by definition, from exact leave-one-out fits."""
        columns = Columns(self.rows)
        for chunk in self.rows:
            put_common(columns, self.lever.pieces(chunk))
        result = self._result(columns)
        everything = torch.arange(self.rows.n, device=self.rows.device)
        return self._replaced(result, everything)

    def refined(self, result: LSIResult, top_k: int, flagged: bool) -> LSIResult:
        """Replace the scores of the k highest and of flagged samples by exact ones."""
        if self.covariance == "ekfac" or self.estimator == "self":
            return result
        chosen = result.flagged.clone() if flagged else torch.zeros_like(result.flagged)
        if top_k:
            everyone = self.rows.shards.concatenate(result.scores)
            limit = everyone.topk(min(top_k, len(everyone))).values[-1]
            chosen |= result.scores >= limit
        if not bool(self.rows.sum(chosen.sum())):
            return result
        return self._replaced(result, chosen.nonzero()[:, 0])

    def _replaced(self, result: LSIResult, chosen: Tensor) -> LSIResult:
        rows, fit = self.rows, self.fit
        thetas = leave_one_out(rows, fit.l2, self.lever, chosen)
        parts = information_between(rows, fit, self.factor, thetas, chosen, self.covariance)
        return _with_exact(rows, result, fit.coordinates, thetas, chosen, parts)

    def _result(self, columns: Columns) -> LSIResult:
        rows, like = self.rows, self.fit.weight
        coordinates = (rows.head.blocks, rows.head.width)
        u, own = (columns.take(name, like, *coordinates) for name in ("u", "own"))
        mean, curvature = columns.take("mean_shift", like), columns.take("curvature", like)
        flagged = columns.take("largest", like) > HIGH_LEVERAGE
        approximate = isinstance(self.lever, EkfacLeverage) or self.covariance == "ekfac"
        return LSIResult(
            mean + curvature,
            mean,
            curvature,
            columns.take("leverage", like),
            flagged,
            torch.zeros_like(flagged),
            columns.take("delta_norm", like) if columns.has("delta_norm") else None,
            rows.head.to_outputs(u).flatten(1),
            rows.head.to_outputs(u + own).flatten(1),
            self.covariance,
            self.estimator,
            "ekfac" if approximate else None,
            self.fit,
        )


def _with_exact(
    rows: Rows,
    result: LSIResult,
    theta: Tensor,
    thetas: Tensor,
    chosen: Tensor,
    parts: tuple[Tensor, Tensor],
) -> LSIResult:
    """A result in which chosen rows hold given parts and weights."""
    x, _ = select(rows, chosen)
    loo = rows.head.to_outputs(own_coordinates(thetas, x)).flatten(1)
    norms = (thetas - theta).flatten(1).norm(dim=1)
    whole = len(chosen) == rows.n
    delta_norm = result.delta_norm
    if delta_norm is None and whole:
        delta_norm = torch.zeros_like(result.scores)
    mean, curvature = (
        old.index_copy(0, chosen, new)
        for old, new in zip((result.mean_shift, result.curvature), parts, strict=True)
    )
    return dataclasses.replace(
        result,
        scores=mean + curvature,
        mean_shift=mean,
        curvature=curvature,
        refined=result.refined.index_fill(0, chosen, True),
        loo_logits=result.loo_logits.index_copy(0, chosen, loo),
        delta_norm=None if delta_norm is None else delta_norm.index_copy(0, chosen, norms),
    )


def _retrain(
    rows: Rows,
    l2: float,
    covariance: Covariance,
    sgd: PaperSGD,
    decays: tuple[float, float],
    seed: int,
) -> LSIResult:
    theta = train(rows, sgd, decays[0], seed)
    fit = at_weights(rows, l2, theta)
    scoring = _Scoring(rows, fit, covariance, "retrain")
    columns = Columns(rows)
    for chunk in rows:
        put_common(columns, scoring.lever.pieces(chunk))
    chosen = torch.arange(rows.n, device=rows.device)
    thetas = train_without(rows, sgd, decays[1], seed, chosen)
    parts = information_between(rows, fit, scoring.factor, thetas, chosen, covariance)
    return _with_exact(rows, scoring._result(columns), theta, thetas, chosen, parts)


def _check_choices(
    covariance: Covariance, estimator: Estimator, protocol: Protocol, top_k: int
) -> None:
    for name, value, known in (
        ("covariance", covariance, COVARIANCES),
        ("estimator", estimator, ESTIMATORS),
        ("protocol", protocol, get_args(Protocol)),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")
    if top_k < 0:
        raise ValueError(f"refine_top_k must be at least 0, got {top_k}")


def _check_fit(rows: Rows, fit: ProbeFit, l2: float) -> None:
    wanted = (rows.head.name, rows.head.outputs, rows.d1, rows.bias, rows.total)
    found = (fit.head, fit.num_outputs, fit.weight.shape[1], fit.bias, fit.n)
    if wanted != found:
        raise ValueError(
            "fit is of other data: (head, outputs, features with bias, bias, samples) are "
            f"{found} there and {wanted} here"
        )
    if l2 not in (1.0, fit.l2):
        raise ValueError(f"fit was made with l2={fit.l2}, but l2={l2} was given")
