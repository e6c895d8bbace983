"""Other scores of the same probe, for comparison; higher always means more suspicious."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from .alo import Columns, Leverage
from .ekfac import EkfacLeverage
from .heads import Softmax
from .neighbours import self_knn_shapley
from .probe import FULL_PARAMETERS, ProbeFit, fit_rows, precision_factor
from .projection import projected_influence
from .rows import Features, Labels, Rows, make_rows
from .shards import Shards

Baseline = Literal[
    "loss",
    "el2n",
    "grad_norm",
    "margin",
    "self_influence",
    "loo_loss",
    "memorisation",
    "sui",
    "pvi",
    "cl_self_confidence",
    "cl_margin",
    "knn_shapley",
    "trak",
]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)
_NEED_STEP = {"self_influence", "loo_loss", "memorisation", "sui"}
_NEED_PROBABILITIES = {"margin", "memorisation", "pvi", "cl_self_confidence", "cl_margin"}
NEED_CLASSES = frozenset(
    _NEED_PROBABILITIES | {"knn_shapley", "trak"}
)  # have no meaning for a regression


def lsi_baselines(
    features: Features,
    labels: Labels,
    fit: ProbeFit,
    names: Sequence[Baseline] = (
        "loss",
        "el2n",
        "grad_norm",
        "margin",
        "self_influence",
        "loo_loss",
    ),
    *,
    cv_folds: int = 5,
    seed: int = 0,
    neighbours: int = 10,
    proj_dim: int = 512,
    ids: Tensor | None = None,
    chunk_rows: int = 16384,
    shards: Shards | None = None,
) -> dict[str, Tensor]:
    """Scores of the samples of a fit by other methods, (n,) each.

    ``loss`` -ln p_y. ``el2n`` |p - y| (Paul et al., 2021). ``grad_norm`` |p - y| |x|, GraNd of
    the probe. ``margin`` highest other probability minus p_y. ``self_influence`` 1/2 r^T G r
    (Koh and Liang, 2017). ``loo_loss`` the loss without the sample, by one Newton step;
    ``memorisation`` p_y with it minus p_y without (Feldman and Zhang, 2020). ``sui`` 1/2 delta^T
    P delta (Harutyunyan et al., 2021). ``pvi`` minus the pointwise V-information, against the
    classes' frequencies. ``cl_self_confidence`` 1 - p_y and ``cl_margin`` by cross-validation of
    the same probe (confident learning). ``knn_shapley`` minus the Shapley value for the nearest
    neighbours' vote on the other samples (Jia et al., 2019). ``trak`` influence of a sample on
    itself by randomly projected gradients of the probe (Park et al., 2023).

    Args:
        features: the samples of the fit.
        labels: theirs.
        fit: the probe.
        names: which scores.
        cv_folds: folds of the cross-validation, at most n; stratified for the softmax.
        seed: of folds and projection.
        neighbours: of ``knn_shapley``.
        proj_dim: of ``trak``.
        ids: (n,) whole numbers, each sample's own: folds and ties then follow them, not the order
            or the process of the samples.
        chunk_rows: rows converted at a time.
        shards: this process among others; features are then its own rows only.
            ``knn_shapley`` compares all pairs and gathers all features on every process.

    Returns:
        One column a name, in the order of ``names``.

    Raises:
        ValueError: for an unknown name, or one that has no meaning for the head.
    """
    unknown = [name for name in names if name not in BASELINES]
    if unknown:
        raise ValueError(f"unknown scores {unknown}; known are {', '.join(BASELINES)}")
    rows = make_rows(
        features,
        labels,
        head=fit.head,
        num_classes=fit.num_outputs if fit.head == "softmax" else None,
        noise_variance=fit.noise_variance,
        bias=fit.bias,
        dtype=fit.weight.dtype,
        device=fit.weight.device,
        chunk_rows=chunk_rows,
        shards=shards,
    )
    if fit.head == "regression" and NEED_CLASSES & set(names):
        raise ValueError(
            f"{sorted(NEED_CLASSES & set(names))} need probabilities or classes, which a "
            "regression head has not"
        )
    columns = Columns(rows)
    _point_scores(rows, fit, set(names), columns)
    if {"cl_self_confidence", "cl_margin"} & set(names):
        _cross_validated(rows, fit.l2, cv_folds, seed, columns, ids)
    if "pvi" in names:
        columns.put(0, pvi=_information_lost(rows, columns.take("loss", fit.weight)))
    if "knn_shapley" in names:
        columns.put(0, knn_shapley=-_neighbours_values(rows, neighbours, ids))
    if "trak" in names:
        columns.put(0, trak=projected_influence(rows, fit, proj_dim, seed))
    return {name: columns.take(name, fit.weight) for name in names}


def _point_scores(rows: Rows, fit: ProbeFit, names: set[str], columns: Columns) -> None:
    head, lever = rows.head, None
    if names & _NEED_STEP:
        lever = _lever(rows, fit)
    for chunk in rows:
        z = (chunk.x @ fit.weight.mT).unflatten(1, (head.blocks, -1))
        u = z @ head.basis(z)
        r = head.output_residual(z, chunk.y).flatten(1).norm(dim=1)
        columns.put(
            chunk.start, loss=head.loss(u, chunk.y), el2n=r, grad_norm=r * chunk.x.norm(dim=1)
        )
        if "margin" in names:
            columns.put(chunk.start, margin=_margin(rows, z, chunk.y))
        if lever is not None:
            step = lever.pieces(chunk).step
            left = head.loss(u + step.own, chunk.y)
            columns.put(
                chunk.start,
                self_influence=step.self_influence,
                loo_loss=left,
                memorisation=(-head.loss(u, chunk.y)).exp() - (-left).exp(),
                sui=0.5 * (step.v * step.own).sum((-2, -1)),
            )


def _lever(rows: Rows, fit: ProbeFit) -> Leverage | EkfacLeverage:
    if rows.num_parameters > FULL_PARAMETERS:
        return EkfacLeverage(fit, rows)
    factor = fit.factor
    if factor is None:
        factor = precision_factor(rows, fit.l2, fit.coordinates)
    return Leverage(fit, factor)


def _margin(rows: Rows, z: Tensor, y: Tensor) -> Tensor:
    """Highest other probability minus that of the label; the worst output of several."""
    if isinstance(rows.head, Softmax):
        p, mine = z[:, 0].softmax(-1), y[:, 0] > 0
        return p.masked_fill(mine, -1).amax(1) - p[mine]
    return (-torch.tanh((2 * y - 1) * z / 2)).amax((1, 2))


def _cross_validated(
    rows: Rows, l2: float, folds: int, seed: int, columns: Columns, ids: Tensor | None
) -> None:
    """Scores of each sample by a probe that did not see its fold."""
    if not 2 <= folds <= rows.total:
        raise ValueError(f"cv_folds must be from 2 to {rows.total} (samples), got {folds}")
    order, mine = _everyone(rows, ids)
    y = rows.shards.concatenate(_targets(rows))
    fold = torch.empty_like(order)
    fold[order] = stratified_folds(_classes(rows, y)[order], folds, seed)
    fold = fold[mine]
    confidence, margin = y.new_zeros(rows.n), y.new_zeros(rows.n)
    start: Tensor | None = None
    for number in range(folds):
        inside = fold == number
        part = fit_rows(rows.weighted((~inside).to(y.dtype)), l2, start=start, full=None)
        start = part.coordinates
        for chunk in rows:
            held = inside[chunk.start : chunk.start + len(chunk.x)]
            z = (chunk.x[held] @ part.weight.mT).unflatten(1, (rows.head.blocks, -1))
            where = held.nonzero()[:, 0] + chunk.start
            margin[where] = _margin(rows, z, chunk.y[held])
            confidence[where] = 1 - _label_probability(rows, z, chunk.y[held])
    columns.put(0, cl_self_confidence=confidence, cl_margin=margin)


def _targets(rows: Rows) -> Tensor:
    """Targets of this process's rows, (n, blocks, outputs of a block)."""
    head = rows.head
    shape = (0, head.blocks, head.outputs // head.blocks)
    empty = torch.zeros(shape, dtype=rows.dtype, device=rows.device)
    return torch.cat([empty, *(chunk.y for chunk in rows)])


def _everyone(rows: Rows, ids: Tensor | None) -> tuple[Tensor, slice]:
    """The order of all processes' rows by id, and where this process's rows stand among them."""
    counts = rows.shards.each(rows.n, torch.zeros((), device=rows.device)).long().tolist()
    start = sum(counts[: rows.shards.rank])
    mine = slice(start, start + rows.n)
    if ids is None:
        return torch.arange(rows.total, device=rows.device), mine
    return rows.shards.concatenate(ids.long().to(rows.device)).argsort(stable=True), mine


def _neighbours_values(rows: Rows, neighbours: int, ids: Tensor | None) -> Tensor:
    empty = torch.zeros(0, rows.d1, dtype=rows.dtype, device=rows.device)
    x = rows.shards.concatenate(torch.cat([empty, *(chunk.x for chunk in rows)]))
    y = _classes(rows, rows.shards.concatenate(_targets(rows)))
    order, mine = _everyone(rows, ids)
    values = torch.empty(len(x), dtype=x.dtype, device=x.device)
    values[order] = self_knn_shapley(x[order], y[order], neighbours)
    return values[mine]


def _label_probability(rows: Rows, z: Tensor, y: Tensor) -> Tensor:
    """Probability of the label; of the least likely one among several outputs."""
    if isinstance(rows.head, Softmax):
        return (z[:, 0].softmax(-1) * y[:, 0]).sum(1)
    return torch.sigmoid((2 * y - 1) * z).amin((1, 2))


def stratified_folds(classes: Tensor, folds: int, seed: int) -> Tensor:
    """Fold of each sample: every class is spread evenly, and so are the folds' sizes; (n,)."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(classes), generator=generator).to(classes.device)
    order = shuffled[classes[shuffled].argsort(stable=True)]
    fold = torch.empty_like(order)
    fold[order] = torch.arange(len(order), device=order.device) % folds
    return fold


def _classes(rows: Rows, y: Tensor) -> Tensor:
    """One class a sample: combinations of labels count as classes, numbers as one."""
    if isinstance(rows.head, Softmax):
        return y[:, 0].argmax(1)
    if rows.head.name == "regression":
        return torch.zeros(len(y), dtype=torch.long, device=y.device)
    return y.flatten(1).unique(dim=0, return_inverse=True)[1]


def _information_lost(rows: Rows, loss: Tensor) -> Tensor:
    """Ln p(y) - ln p(y | x), with p(y) the frequency of the label."""
    y = _targets(rows)
    frequency = rows.sum(y.sum(0)) / rows.total
    if isinstance(rows.head, Softmax):
        prior = (y * frequency).sum((1, 2)).log()
    else:
        prior = torch.where(y > 0, frequency, 1 - frequency).log().sum((1, 2))
    return prior + loss


def forgetting_counts(correct: Tensor) -> Tensor:
    """How often each sample was right at one look and wrong at the next (Toneva et al., 2019).

    Args:
        correct: (looks, n) bool, for example once an epoch.

    Returns:
        (n,) counts. Samples that were never right count ``looks``, more than any other can.

    Raises:
        ValueError: unless ``correct`` has two dimensions and at least one look.

    Example:
        >>> looks = torch.tensor([[True, False], [False, False], [True, False]])
        >>> forgetting_counts(looks).tolist()
        [1, 3]
    """
    if correct.ndim != 2 or len(correct) == 0:
        raise ValueError(f"correct must be (looks, n), got shape {tuple(correct.shape)}")
    correct = correct.bool()
    forgotten = (correct[:-1] & ~correct[1:]).sum(0)
    return torch.where(correct.any(0), forgotten, torch.full_like(forgotten, len(correct)))
