"""Multiplicity against capacity: many members of four widths on three data sets.

An MLP with one hidden layer, 15 epochs, SGD with learning rate 0.05 and momentum 0.9, batch 32.
Split: 60 % training (a quarter of it for validation), 40 % test, stratified, seed 0. The set of
equally valid members is chosen on validation (absolute, epsilon 0.02), all numbers are of the test
part. ``synth`` has 2,400 samples, 20 features, 3 classes and 5 % flipped labels. Compare widths by
the pairwise column: ambiguity grows with the size of the set.

    python benchmarks/study_multiplicity.py --processes 2
    python benchmarks/study_multiplicity.py --smoke
"""

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
START = time.perf_counter()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from sklearn.datasets import load_breast_cancer, load_digits, make_classification  # noqa: E402
from sklearn.model_selection import train_test_split  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

from lightning_priv.functional.multiplicity import (  # noqa: E402
    ambiguity,
    discrepancy,
    pairwise_disagreement,
    rashomon_set,
)
from lightning_priv.nn import MLP  # noqa: E402
from lightning_priv.nn.stacked import fit_members  # noqa: E402

DATA = ("cancer", "digits", "synth")


class Result(NamedTuple):
    """One row of the table."""

    data: str
    width: int
    members: int
    accuracy: tuple[float, float]
    ambiguity: float
    discrepancy: float
    pairwise: float
    seconds: float  # of the processor


class Parts(NamedTuple):
    """A data set, split."""

    train: tuple[torch.Tensor, torch.Tensor]
    val: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]
    classes: int


def load(name: str) -> Parts:
    """Read and split a data set, standardised by its training part."""
    if name == "synth":
        x, y = make_classification(
            2400, 20, n_informative=10, n_classes=3, flip_y=0.05, random_state=0
        )
    else:
        x, y = (load_digits if name == "digits" else load_breast_cancer)(return_X_y=True)
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.4, stratify=y, random_state=0)
    x, x_val, y, y_val = train_test_split(x, y, test_size=0.25, stratify=y, random_state=0)
    scale = StandardScaler().fit(x)

    def pair(x: np.ndarray, y: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(scale.transform(x)).float(), torch.from_numpy(y).long()

    return Parts(pair(x, y), pair(x_val, y_val), pair(x_test, y_test), int(y.max()) + 1)


def study(job: tuple[str, int, int, int]) -> Result:
    """Train the members of one width and measure them."""
    name, width, members, epochs = job
    torch.set_num_threads(1)
    start = time.process_time()
    parts = load(name)
    seeds = list(range(members))
    nets = []
    for seed in seeds:
        torch.manual_seed(seed)
        nets.append(MLP(parts.train[0].shape[1], parts.classes, (width,)))
    stack = fit_members(nets, *parts.train, seeds, epochs)
    with torch.no_grad():
        val, test = (stack(x).argmax(-1) for x, _ in (parts.val, parts.test))
    validation = (val == parts.val[1]).double().mean(1)
    kept = rashomon_set(validation, epsilon=0.02)
    labels = test[kept.members]
    accuracy = (labels == parts.test[1]).double().mean(1)
    baseline = int(kept.members[: kept.best].sum())  # the best member's place among the kept
    return Result(
        name,
        width,
        len(labels),
        (float(accuracy.min()), float(accuracy.max())),
        float(ambiguity(labels, baseline)),
        float(discrepancy(labels, baseline)),
        float(pairwise_disagreement(labels)) if len(labels) > 1 else float("nan"),
        time.process_time() - start,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--members", type=int, default=100)
    parser.add_argument("--widths", nargs="+", type=int, default=[4, 16, 64, 256])
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=DATA)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="a small run that only shows it works")
    options = parser.parse_args()
    if options.smoke:
        options.members, options.widths, options.epochs = 4, [4], 2
    jobs = [(d, w, options.members, options.epochs) for w in options.widths for d in options.data]
    jobs.sort(key=lambda job: -job[1])  # the longest first, so that no process ends late
    if options.processes > 1:
        with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
            results = list(pool.map(study, jobs))
    else:
        results = [study(job) for job in jobs]
    print(
        "| data | width | set size | test accuracy | ambiguity | discrepancy | pairwise | CPU s |"
    )
    print("|---|---:|---:|---|---:|---:|---:|---:|")
    for r in sorted(results):
        print(
            f"| {r.data} | {r.width} | {r.members} | {r.accuracy[0]:.3f} to {r.accuracy[1]:.3f} | "
            f"{r.ambiguity:.3f} | {r.discrepancy:.3f} | {r.pairwise:.3f} | {r.seconds:.2f} |"
        )
    spent = sum(r.seconds for r in results)
    print(
        f"\n{options.members} members a row, {options.processes} processes of one thread: "
        f"{time.perf_counter() - START:.1f} s wall with imports, {spent:.1f} "
        "CPU s in the rows"
    )


if __name__ == "__main__":
    main()
