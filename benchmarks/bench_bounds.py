"""Speed of the reconstruction bounds, against scipy and torch in the same run.

1. Million evaluations a second of Pr[MSE <= eta] and of its quantile, for one N at a time, on one
   thread; arguments within four standard deviations of the mean (quantiles: probabilities from
   1e-8 to 1 - 1e-8). ``error`` is the largest error against 40 digits of log Pr on both sides, in
   units of max(1e-12, 1e-13 |log Pr|).
2. The certified enclosure of the identification bound under DP-SGD: its width and time over a grid
   of noise, rate, steps and prior success, and in the hard corner of few steps at tiny rates.
3. The calculator as a process.

    python benchmarks/bench_bounds.py            (two minutes)
    python benchmarks/bench_bounds.py --smoke    (correctness only)
"""

import argparse
import itertools
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import mpmath as mp
import numpy as np
import scipy
import torch
from scipy import special, stats

from lightning_priv.functional.reconstruction import (
    mse_cdf,
    mse_logcdf,
    mse_logsf,
    mse_quantile,
    rero_subsampled_gaussian,
)

DIMENSIONS = (1, 8, 38, 64, 784, 3072, 3145728)


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Median time of a call after one to warm up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def worst_error(dimension: int) -> float:
    """Error of both log-tails in units of the goal, from ln Pr = 0 to -1e5."""
    worst = 0.0
    spread = math.sqrt(2 / dimension)
    ratios = [1 + z * spread for z in (-7, -4, -1, -0.1, 0.1, 1, 4, 7)]
    ratios += [0.01, 0.3, 0.5, 2.0, 3.0, 20.0]
    with mp.workdps(45):
        for ratio in ratios:
            a = mp.mpf(dimension) / 2
            if ratio <= 0 or dimension / 2 * (ratio - 1 - math.log(ratio)) > 1e5:
                continue
            x = a * mp.mpf(ratio)
            front = a * mp.log(x) - x - mp.loggamma(a)
            if ratio <= 1:
                term = total = 1 / a
                n = 0
                while term > total * mp.mpf(10) ** -40:
                    n += 1
                    term *= x / (a + n)
                    total += term
                exact = front + mp.log(total)
                value = mse_logcdf(ratio, dimension, 1.0, 1.0)
            else:
                tiny, b = mp.mpf(10) ** -300, x + 1 - a
                c, d = 1 / tiny, 1 / b
                fraction, n = d, 0
                while True:
                    n += 1
                    factor, b = -n * (n - a), b + 2
                    d = 1 / (factor * d + b)
                    c = b + factor / c
                    fraction *= c * d
                    if factor == 0 or abs(c * d - 1) < mp.mpf(10) ** -40:
                        break
                exact = front + mp.log(fraction)
                value = mse_logsf(ratio, dimension, 1.0, 1.0)
            goal = max(1e-12, 1e-13 * abs(float(exact)))
            worst = max(worst, float(abs(value - exact)) / goal)
    return worst


def closed_forms(size: int, repeats: int) -> None:
    print(
        "| N | cdf: ours | scipy gammainc | torch gammainc | ratio to scipy | "
        "quantile: ours | scipy gammaincinv | scipy.stats ppf | ratio | error |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    generator = np.random.default_rng(0)
    for dimension in DIMENSIONS:
        a = dimension / 2
        level = special.ndtr(generator.uniform(-4, 4, size))
        x = special.gammaincinv(a, level)
        eta, chance = x / a, special.ndtr(generator.uniform(-5.6, 5.6, size))
        few = chance[: max(1, size // 10)]
        tensors = torch.full((size,), a, dtype=torch.float64), torch.from_numpy(x)
        law = stats.gamma(a)
        cdf = [
            size / seconds(call, repeats) / 1e6
            for call in (
                lambda eta=eta, n=dimension: mse_cdf(eta, n, 1.0, 1.0),
                lambda a=a, x=x: special.gammainc(a, x),
                lambda t=tensors: torch.special.gammainc(*t),
            )
        ]
        quantile = [
            len(few) / seconds(call, repeats) / 1e6
            for call in (
                lambda p=few, n=dimension: mse_quantile(p, n, 1.0, 1.0),
                lambda a=a, p=few: special.gammaincinv(a, p),
                lambda law=law, p=few: law.ppf(p),
            )
        ]
        quantile[0] = size / seconds(
            lambda p=chance, n=dimension: mse_quantile(p, n, 1.0, 1.0), repeats
        ) / 1e6  # fmt: skip
        np.testing.assert_allclose(mse_cdf(eta, dimension, 1.0, 1.0), level, rtol=2e-3)
        cells = [f"{v:.2f}" for v in cdf] + [f"**{cdf[0] / cdf[1]:.1f}**"]
        cells += [f"{v:.2f}" for v in quantile] + [f"**{quantile[0] / quantile[1]:.1f}**"]
        print(f"| {dimension} | " + " | ".join(cells) + f" | {worst_error(dimension):.4f} |")


def enclosures(*, smoke: bool) -> None:
    grid = itertools.product((0.6, 1, 2, 5), (0.001, 0.01, 0.1, 1), (1, 100, 10**4, 10**6))
    worst: dict[int, list[float]] = {}
    for noise, rate, steps in list(grid)[:: 7 if smoke else 1]:
        for kappa in (0.001, 0.1):
            start = time.perf_counter()
            lower, upper = rero_subsampled_gaussian(kappa, noise, rate, steps)
            taken = time.perf_counter() - start
            assert 0 <= upper - lower <= (1e-8 if steps > 10**4 else 1e-9)
            row = worst.setdefault(steps, [0.0, 0.0, 0.0])
            row[0], row[1] = max(row[0], upper - lower), max(row[1], taken)
            row[2] += taken / 32
    print("\n| steps | largest width | slowest (s) | mean (s) |")
    print("|---|---|---|---|")
    for steps, (width, slowest, mean) in sorted(worst.items()):
        print(f"| {steps} | {width:.1e} | {slowest:.3f} | {mean:.3f} |")
    print("\n| noise, rate, steps (hard corner) | lower | upper - lower | time (s) |")
    print("|---|---|---|---|")
    corner = [(1, 0.1, 2), (1, 0.01, 2), (1, 0.001, 2), (0.6, 0.01, 3), (0.6, 0.001, 5)]
    corner += [(0.6, 0.001, 10), (1, 0.001, 10), (0.6, 0.001, 2)]
    for noise, rate, steps in corner[:2] if smoke else corner:
        start = time.perf_counter()
        lower, upper = rero_subsampled_gaussian(0.1, noise, rate, steps)
        taken = time.perf_counter() - start
        assert 0 <= upper - lower <= 1e-9
        print(f"| {noise}, {rate}, {steps} | {lower:.10f} | {upper - lower:.1e} | {taken:.2f} |")


def calculator(repeats: int) -> None:
    command = [sys.executable, "-m", "lightning_priv", "bounds", "--noise_multiplier", "1"]
    command += ["--sample_rate", "0.01", "--steps", "1000", "--shape", "3,32,32"]
    command += ["--max_norm", "28", "--format", "json"]

    def call() -> None:
        subprocess.run(command, check=True, capture_output=True)

    print(f"\nCalculator, whole process: {seconds(call, repeats):.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="check the output, time little")
    parser.add_argument("--size", type=int, default=2**20, help="evaluations a call")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    size = 2**12 if arguments.smoke else arguments.size
    repeats = 1 if arguments.smoke else arguments.repeats
    torch.set_num_threads(1)
    print(
        f"{platform.processor() or platform.machine()}, 1 thread, numpy {np.__version__}, "
        f"scipy {scipy.__version__}, torch {torch.__version__}, {size} evaluations a call, "
        f"median of {repeats}; million evaluations a second\n"
    )
    closed_forms(size, repeats)
    enclosures(smoke=arguments.smoke)
    calculator(repeats)


if __name__ == "__main__":
    main()
