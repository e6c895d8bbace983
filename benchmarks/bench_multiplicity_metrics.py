"""Speed and memory of the metrics of predictive multiplicity, process time of one thread.

collection  10 members x 50,000 samples x 100 classes through MultiplicityCollection (everything
            but the capacity), in one batch and in batches of 256; goal below 3 s and 600 MB.
            Baseline: the same metrics one by one, each with its own vote count. Memory is the
            growth of the peak of the process during the update (Linux; the predictions themselves
            are not in it).
capacity    Rashomon capacity to 1e-9 nats by Newton steps, samples a second. Baseline: the steps of
            Arimoto and Blahut on the same samples, which stop at 10,000 steps; ``open`` says how
            many samples they leave wider than 1e-9, and how wide.

    python benchmarks/bench_multiplicity_metrics.py            (one minute)
    python benchmarks/bench_multiplicity_metrics.py --smoke    (correctness only)
"""

import argparse
import math
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import lightning_priv.functional.multiplicity as functional
from lightning_priv.functional.multiplicity import Rule, rashomon_capacity_bounds
from lightning_priv.functional.multiplicity.capacity import _Search
from lightning_priv.metrics import MultiplicityCollection

CHANNELS = [(10, 2000, 2, 0.5), (10, 2000, 10, 0.5), (20, 1000, 10, 2.0), (10, 500, 100, 1.0)]


def ensemble(members: int, samples: int, classes: int, noise: float) -> tuple[Tensor, Tensor]:
    """Probabilities of members around a common truth, one member after another."""
    generator = torch.Generator().manual_seed(0)
    truth = 3 * torch.randn(samples, classes, generator=generator)
    probs = torch.empty(members, samples, classes)
    for member in probs:
        member.copy_((truth + noise * torch.randn(truth.shape, generator=generator)).softmax(-1))
    return probs, truth.argmax(dim=-1)


def seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def status(key: str) -> float:
    """A memory figure of this process in MB; NaN where there is no /proc."""
    file = Path("/proc/self/status")
    if not file.exists():
        return math.nan
    line = next(line for line in file.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def peak_growth(function: Callable[[], object]) -> float:
    """How far the peak rises above what the process holds before, in MB."""
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return math.nan
    reset.write_text("5")
    before = status("VmRSS")
    function()
    return status("VmHWM") - before


def collection_rows(samples: int, classes: int, repeats: int) -> list[list[str]]:
    members = 10
    probs, target = ensemble(members, samples, classes, 1.0)
    metrics = MultiplicityCollection(
        members, classes, rule=Rule("threshold", tau=0.8), score_delta=0.1
    )

    def together(size: int) -> None:
        metrics.reset()
        for start in range(0, samples, size):
            metrics.update(probs[:, start : start + size], target[start : start + size])

    def alone(size: int) -> None:
        metrics.reset()
        for start in range(0, samples, size):
            for metric in metrics.values():
                metric.update(probs[:, start : start + size], target[start : start + size])

    rows = []
    for size in (samples, 256):
        growth = peak_growth(lambda size=size: together(size))
        pairs = [
            (seconds(lambda size=size: together(size)), seconds(lambda size=size: alone(size)))
            for _ in range(repeats)
        ]
        ours, baseline = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        together(size)
        check(metrics, probs, target)
        rows.append(
            [
                f"collection, batches of {size}",
                f"{ours:.2f} s, {growth:.0f} MB",
                f"{baseline:.2f} s",
                f"{ratio:.2f}",
            ]
        )
    return rows


def check(metrics: MultiplicityCollection, probs: Tensor, target: Tensor) -> None:
    values, votes = metrics.compute(), probs.argmax(dim=-1)
    wrong = functional.majority_vote(votes) != target
    expected = {
        "samples": probs.shape[1],
        "ambiguity": functional.ambiguity(votes),
        "self_consistency": functional.self_consistency(votes).mean(),
        "pairwise_disagreement": functional.pairwise_disagreement(votes),
        "aurc": functional.aurc(functional.consensus(votes), wrong),
    }
    for name, value in expected.items():
        assert abs(float(values[name]) - float(value)) < 1e-9, name


def capacity_row(members: int, samples: int, classes: int, noise: float, repeats: int) -> list[str]:
    probs = ensemble(members, samples, classes, noise)[0].double()
    few = probs[:, : max(samples // 10, 1)]  # plain steps are too slow for all

    def plain() -> _Search:
        search = _Search(few, 1e-9)
        search.arimoto_blahut(10_000)
        return search

    ours = [seconds(lambda: rashomon_capacity_bounds(probs)) / samples for _ in range(repeats)]
    baseline = seconds(plain) / few.shape[1]
    bounds, search = rashomon_capacity_bounds(probs), plain()
    assert bounds.gap.item() * math.log(2) <= 1e-9
    nats = bounds.capacity[: few.shape[1]] * math.log(2)
    assert bool((search.lower <= nats + 1e-9).all())
    assert bool((search.upper >= nats - 1e-9).all())
    per_sample = statistics.median(ours)
    width = float((search.upper - search.lower).max())
    left = f"{len(search.rows)} of {few.shape[1]} open, up to {width:.0e} nats"
    return [
        f"capacity, M = {members}, C = {classes}, noise {noise:g}",
        f"{1 / per_sample:,.0f}/s, {bounds.iterations} steps, 0 open",
        f"{1 / baseline:,.0f}/s, {left}",
        f"{per_sample / baseline:.4f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="small sizes, correctness only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"{platform.processor() or platform.machine()}, 1 thread, torch {torch.__version__}\n")
    samples, classes, repeats = (500, 7, 1) if options.smoke else (50_000, 100, options.repeats)
    rows = collection_rows(samples, classes, repeats)
    for members, count, width, noise in CHANNELS:
        rows.append(capacity_row(members, 20 if options.smoke else count, width, noise, repeats))
    print("| task | ours | baseline | ratio of times |\n|---|---:|---:|---:|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
