"""The calculator ``lsi --features FILE``: score samples by features of a file, without a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lightning_priv.reports.tables import Cell, Table

__all__ = ["lsi"]


def lsi(
    features: str,
    labels: str | None = None,
    pairs: str | None = None,
    out: str = "runs/lsi_features",
    prior_precision: float | Literal["marglik"] = 1.0,
    covariance: Sequence[Literal["full", "diag", "kfac", "ekfac", "auto"]] = ("full", "diag"),
    estimator: Literal["self", "alo", "alo_sketch", "exact", "retrain"] = "alo",
    head: Literal["auto", "softmax", "binary", "multilabel", "regression"] = "auto",
    num_classes: int | None = None,
    standardize: Literal["none", "zscore", "l2"] = "none",
    sketch_dim: int = 512,
    refine_top_k: int = 0,
    baselines: Sequence[
        Literal[
            "loss",
            "el2n",
            "grad_norm",
            "margin",
            "self_influence",
            "loo_loss",
            "cl_self_confidence",
            "cl_margin",
            "sui",
            "pvi",
            "memorisation",
            "knn_shapley",
        ]
    ] = ("loss", "el2n", "grad_norm", "loo_loss", "cl_margin"),
    cv_folds: int = 5,
    corrupt_frac: float | None = None,
    seed: int = 0,
    dtype: Literal["float64", "float32"] = "float64",
    chunk_rows: int = 16384,
    device: str = "auto",
    dim: int = 256,
    temperature: float = 0.5,
    top_k: int = 10,
    class_names: Sequence[str] | None = None,
    figures: bool = True,
    format: Literal["table", "json", "csv"] = "table",
) -> str:
    """Score how much each sample tells a linear probe on features that you have computed.

    Writes scores.csv, summary.json, probe.pt and figures below ``out`` and prints the most and the
    least informative samples (as JSON: the summary; as CSV: the whole table).

    Args:
        features: .npz, .safetensors, .npy or .csv with features (n, d), labels and perhaps ids.
        labels: file with the labels, if ``features`` holds none.
        pairs: file with features of a second view (a caption of each image): then both views are
            scored by a contrastive probe, and labels are not needed. The covariance is diagonal and
            each pair is left out exactly, unless ``covariance`` is [full].
        out: folder for the results.
        prior_precision: lambda of the summed loss, or ``marglik``.
        covariance: covariances of the posterior to report; the first one ranks.
        estimator: how the posterior without a sample is had.
        head: kind of targets; by default it follows from the labels.
        num_classes: classes; default: the largest label + 1.
        standardize: ``zscore`` standardises each feature, ``l2`` scales each sample to length 1.
        sketch_dim: random vectors of ``alo_sketch``.
        refine_top_k: compute the highest k scores again by exact leave-one-out.
        baselines: other scores to put beside it.
        cv_folds: folds of the cross-validated baselines.
        corrupt_frac: move this part of the labels to another class first, and see which score
            finds them.
        seed: seed of corruption, sketches and folds.
        dtype: precision of the computation.
        chunk_rows: samples that are worked on at once.
        device: where to compute; ``auto`` is a GPU if there is one.
        dim: ``pairs``: dimension that both views are projected to.
        temperature: ``pairs``: of the contrastive loss.
        top_k: rows of each end that are printed.
        class_names: a name for each class number.
        figures: draw figures, which takes some seconds.
        format: table, json or csv.
    """
    import torch

    from lightning_priv.data.feature_files import read_features
    from lightning_priv.reports.information import Corruption, Scoring

    table = read_features(features, labels)
    if pairs is not None:
        from lightning_priv.workflows.paired_information import score_pairs

        return score_pairs(
            table,
            read_features(pairs),
            Path(out),
            prior_precision=prior_precision,
            covariance="full" if tuple(covariance) == ("full",) else "diag",
            one_step=tuple(covariance) == ("full",) and estimator == "alo",
            dim=dim,
            temperature=temperature,
            seed=seed,
            top_k=top_k,
            format=format,
        )
    if table.labels is None:
        raise ValueError(
            f"{features} holds no labels; name an array of it labels, or give --labels FILE"
        )
    scoring = Scoring(
        prior_precision=prior_precision,
        covariance=tuple(covariance),
        estimator=estimator,
        head=head,
        num_classes=num_classes,
        sketch_dim=sketch_dim,
        refine_top_k=refine_top_k,
        standardize=standardize,
        dtype=dtype,
        chunk_rows=chunk_rows,
        device=device,
        baselines=tuple(baselines),
        cv_folds=cv_folds,
        seed=seed,
    )
    corrupt = None if corrupt_frac is None else Corruption(frac=corrupt_frac, seed=seed)
    scores = scoring.score(
        _tensor(table.features),
        _tensor(table.labels),
        None if table.ids is None else torch.from_numpy(table.ids.astype("int64")),
        corrupt,
    )
    scores.facts["source"] = features
    return _written(scores, Path(out), class_names, top_k, figures, format)


def _tensor(array: Any) -> Any:
    import numpy as np
    import torch

    return torch.from_numpy(np.array(array))  # a copy: memory-mapped arrays cannot be written


def _written(
    scores: Any,
    out: Path,
    class_names: Sequence[str] | None,
    top_k: int,
    figures: bool,
    format: str,
) -> str:
    import json

    from lightning_priv.reports.information import (
        all_figures,
        as_table,
        detection_table,
        ranking_table,
        write_scores,
    )

    drawn = all_figures(scores, class_names) if figures else {}
    summary = write_scores(scores, out, class_names, figures=drawn)
    if format == "csv":
        return as_table(scores).render("csv")
    if format == "json":
        return json.dumps(summary, indent=2, default=str)
    parts = [ranking_table(scores, top_k, class_names).render()]
    if "corrupted" in scores.columns:
        parts.append(detection_table(scores).render())
    rows: list[list[Cell]] = [["mean information / nats", summary["difficulty"]["mean"]]]
    rows += [[name, scores.facts[name]] for name in ("n", "features", "parameters")]
    rows += [["seconds", scores.facts["seconds"]["all"]], ["files in", str(out)]]
    return "\n\n".join([*parts, Table(["quantity", "value"], rows).render()])
