"""What sample information finds and what it does not: studies on data that is offline.

mislabel    detection of moved labels by every score, digits (600 samples, pixels), several seeds
curvature   the curvature part by itself, by every estimator, on such samples (one seed)
portions    accuracy of a linear probe on the thirds of high, middle and low information
pruning     test accuracy against the part of the samples that is kept, by the order of choice
difficulty  mean information of data sets, at a common number of samples

    python benchmarks/table_lsi.py --seeds 10
    python benchmarks/table_lsi.py --study pruning --figures runs/lsi_studies
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

from lightning_priv.data import BreastCancer, Digits, MNIST5k, Wine
from lightning_priv.functional import (
    auroc,
    fit_probe,
    lsi_order,
    lsi_scores,
    spearman,
    split_portions,
)
from lightning_priv.reports import Table
from lightning_priv.reports.information import (
    Corruption,
    Scoring,
    dataset_difficulty,
    detection_table,
    mean_with_interval,
    pruning_curves,
)

STUDIES = ("mislabel", "curvature", "portions", "pruning", "difficulty")
BASELINES = (
    *("loss", "el2n", "grad_norm", "margin", "self_influence", "loo_loss"),
    *("cl_self_confidence", "cl_margin", "knn_shapley", "trak"),
)
ORDERS = ("largest", "smallest", "largest_balanced", "smallest_balanced", "random")

Part = tuple[Tensor, Tensor]


def digits() -> tuple[Part, Part]:
    """Pixels in [0, 1] of the 1,437 training and 360 test digits."""
    data = Digits(val_size=0)
    data.setup()
    return tuple(  # type: ignore[return-value]
        (part.inputs().flatten(1).double(), part.targets)
        for part in (data.plain_train_dataset, data.test_dataset)
    )


def accuracy(train: Part, test: Part, classes: int = 10) -> tuple[float, float]:
    """Of a probe (lambda 1) on its own training samples, and on test samples."""
    fit = fit_probe(*train, 1.0, num_classes=classes)
    return tuple(  # type: ignore[return-value]
        float((fit.logits(x).argmax(1) == y).double().mean()) for x, y in (train, test)
    )


def mislabel(seeds: int, samples: int) -> Table:
    """AUROC and average precision of every score; mean and deviation over seeds."""
    (x, y), _ = digits()
    found: dict[str, list[tuple[float, ...]]] = {}
    for seed in range(seeds):
        rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:samples]
        scoring = Scoring(baselines=BASELINES, num_classes=10, seed=seed)
        scores = scoring.score(x[rows], y[rows], None, Corruption(frac=0.1, seed=seed))
        for name, *values in detection_table(scores).rows:
            found.setdefault(str(name), []).append(tuple(float(v or 0) for v in values))
    lines = []
    for name, runs in found.items():
        cells: list[str] = [name]
        for values in zip(*runs, strict=True):
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.4f} ({spread:.4f})")
        lines.append(cells)
    lines.sort(key=lambda row: row[2], reverse=True)
    title = f"10 % of {samples} labels moved, {seeds} seeds: mean (standard deviation)"
    return Table(["score", "AUROC", "average precision", "precision at k"], lines, title)


def curvature(samples: int, seed: int = 0) -> Table:
    """How well the curvature part and the whole score find moved labels; agreement with exact."""
    (x, y), _ = digits()
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:samples]
    done = Corruption(frac=0.1, seed=seed).apply(x[rows], y[rows], torch.arange(samples), 10)
    x, y, moved = x[rows], done.labels, done.changed
    fit = fit_probe(x, y, 1.0, num_classes=10)
    options = {"num_classes": 10, "fit": fit}
    start = time.process_time()
    exact = lsi_scores(x, y, estimator="exact", **options)
    seconds = time.process_time() - start
    lines = []
    ways = [("alo", 1), *(("alo_sketch", size) for size in (32, 128, 512)), ("exact", 0)]
    for estimator, size in ways:
        start = time.process_time()
        found = lsi_scores(x, y, estimator=estimator, sketch_dim=size, **options) if size else exact
        spent = time.process_time() - start if size else seconds
        name = f"{estimator} {size}" if estimator == "alo_sketch" else estimator
        parts = (found.curvature, found.scores)
        agreed = [
            spearman(a, b) for a, b in zip(parts, (exact.curvature, exact.scores), strict=True)
        ]
        areas = [auroc(part, moved) for part in parts]
        lines.append([name, *(float(v) for v in (areas[0], agreed[0], areas[1], agreed[1], spent))])
    heading = ["estimator", "curvature: AUROC", "Spearman", "score: AUROC", "Spearman", "seconds"]
    return Table(
        heading, lines, f"10 % of {samples} labels moved, seed {seed}; CPU seconds, no fit"
    )


def portions() -> Table:
    """A probe on each third; the paper trains networks."""
    (x, y), test = digits()
    scores = lsi_scores(x, y, 1.0).scores
    lines = []
    for kind in ("largest_balanced", "random"):
        parts = split_portions(lsi_order(scores, y, kind), 3)
        for name, rows in zip(("first", "second", "third"), parts, strict=True):
            own, other = accuracy((x[rows], y[rows]), test)
            lines.append([f"{kind}, {name} third", len(rows), own, other])
    lines.append(["all", len(x), *accuracy((x, y), test)])
    return Table(["trained on", "samples", "train accuracy", "test accuracy"], lines, "digits")


def pruning(figures: Path | None) -> Table:
    """A probe on the part of the samples that each order keeps."""
    (x, y), test = digits()
    scores = lsi_scores(x, y, 1.0).scores
    kept = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
    curves: dict[str, list[tuple[float, float]]] = {}
    for kind in ORDERS:
        order = lsi_order(scores, y, kind)
        for part in kept:
            rows = order[: round(part * len(x))]
            value = accuracy((x[rows], y[rows]), test)[1]
            curves.setdefault(f"keep {kind}", []).append((part, value))
    if figures is not None:
        pruning_curves(curves).savefig(figures / "pruning.png", dpi=120)
    lines = [[name, *(value for _, value in points)] for name, points in curves.items()]
    return Table(["order", *(f"{part:.0%}" for part in kept)], lines, "test accuracy, digits")


def difficulty(samples: int, figures: Path | None) -> Table:
    """Mean information at a common number of samples, features standardised."""
    found = {}
    for kind in (Digits, MNIST5k, BreastCancer, Wine):
        data = kind(val_size=0)
        data.setup()
        x, y = data.plain_train_dataset.inputs().flatten(1), data.plain_train_dataset.targets
        if x.shape[1] > 64:  # 784 pixels: a full covariance has 7,850 parameters
            x = torch.nn.functional.avg_pool2d(x.view(-1, 28, 28)[:, 2:26, 2:26], 3).flatten(1)
        rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:samples]
        scoring = Scoring(standardize="zscore", baselines=(), covariance=("full",))
        scores = scoring.score(x[rows], y[rows])
        found[kind.__name__] = mean_with_interval(scores.columns["lsi_full"])
    if figures is not None:
        dataset_difficulty(found, samples).savefig(figures / "difficulty.png", dpi=120)
    lines = sorted(([n, *v] for n, v in found.items()), key=lambda r: -r[1])
    title = f"mean information in nats, {samples} samples each"
    return Table(["data set", "mean", "2.5 %", "97.5 %"], lines, title)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--figures", type=Path, help="folder for figures")
    parser.add_argument("--smoke", action="store_true", help="one seed, few samples")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.figures is not None:
        arguments.figures.mkdir(parents=True, exist_ok=True)
    seeds, samples = (1, 150) if arguments.smoke else (arguments.seeds, 600)
    tables = {
        "mislabel": lambda: mislabel(seeds, samples),
        "curvature": lambda: curvature(samples),
        "portions": portions,
        "pruning": lambda: pruning(arguments.figures),
        "difficulty": lambda: difficulty(100 if arguments.smoke else 140, arguments.figures),
    }
    for study in arguments.study:
        print(f"\n### {study}\n")
        table = tables[study]()
        print(f"{table.title}\n\n{table.render('markdown')}", flush=True)


if __name__ == "__main__":
    main()
