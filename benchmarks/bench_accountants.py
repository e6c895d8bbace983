"""Cost of the accountants against the libraries they are checked with.

One row a task: CPU time of ours and of the baseline, taken in turn, median and spread (largest
minus smallest), their ratio, and both results.

rdp         divergences of one step at all orders; baseline: the series of Opacus (151 orders)
pld         epsilon with nothing cached; baseline: PLDAccountant of dp-accounting
noise       calibrate_noise by pld; baseline: calibrate_dp_mechanism of dp-accounting (both to 1e-4)
rate        calibrate_sample_rate by rdp; no baseline
left        remaining_steps by pld; no baseline
command     a fresh ``budget`` query by pld, wall time of the process; no baseline

    python benchmarks/bench_accountants.py --repeats 5
"""

import argparse
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable

from lightning_priv.accountants import (
    calibrate_noise,
    calibrate_sample_rate,
    epsilon,
    pld,
    rdp,
    rdp_curve,
    remaining_steps,
)

RUNS = [(1.0, 0.01, 1000), (1.1, 0.004, 14062), (4.1, 1 / 6, 600), (0.6, 0.05, 200)]
DELTA = 1e-5

Row = tuple[str, str, Callable[[], float], Callable[[], float] | None, float]


def forget() -> None:
    for cached in (rdp._cached_curve, pld._single, pld._self_composed, pld._loss_scale):
        cached.cache_clear()


def opacus_rdp(sigma: float, rate: float) -> float:
    from opacus.accountants import RDPAccountant
    from opacus.accountants.analysis.rdp import compute_rdp

    orders = [float(order) for order in RDPAccountant.DEFAULT_ALPHAS]
    return float(compute_rdp(q=rate, noise_multiplier=sigma, steps=1, orders=orders)[60])


def library_epsilon(sigma: float, rate: float, steps: int) -> float:
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant()
    gauss = dp_accounting.GaussianDpEvent(sigma)
    accountant.compose(dp_accounting.PoissonSampledDpEvent(rate, gauss), steps)
    return float(accountant.get_epsilon(DELTA))


def library_noise(target: float, rate: float, steps: int) -> float:
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    def event(sigma: float) -> dp_accounting.DpEvent:
        gauss = dp_accounting.GaussianDpEvent(sigma)
        step = dp_accounting.PoissonSampledDpEvent(rate, gauss)
        return dp_accounting.SelfComposedDpEvent(step, steps)

    bracket = dp_accounting.ExplicitBracketInterval(0.3, 20.0)
    return float(
        dp_accounting.calibrate_dp_mechanism(PLDAccountant, event, target, DELTA, bracket, tol=1e-4)
    )


def rows(smoke: bool) -> list[Row]:
    runs = RUNS[:1] if smoke else RUNS
    result: list[Row] = []
    for sigma, rate, steps in runs:
        name = f"{sigma:g}, {rate:.4g}, {steps}"
        result += [
            (
                "rdp",
                name,
                lambda s=sigma, q=rate: float(rdp_curve(s, q)[60]),
                lambda s=sigma, q=rate: opacus_rdp(s, q),
                1e-6,
            ),
            (
                "pld",
                name,
                lambda h=(sigma, rate, steps): epsilon([h], DELTA),
                lambda h=(sigma, rate, steps): library_epsilon(*h),
                1e-3,
            ),
        ]
    for target, rate, steps in (
        [(8.0, 1 / 6, 600)] if smoke else [(8.0, 1 / 6, 600), (2.0, 0.01, 5000)]
    ):
        result.append(
            (
                "noise",
                f"epsilon {target:g}, {rate:.4g}, {steps}",
                lambda t=target, q=rate, n=steps: calibrate_noise(t, DELTA, q, n, tolerance=1e-4),
                lambda t=target, q=rate, n=steps: library_noise(t, q, n),
                1e-3,
            )
        )
    left = [(1.0, 0.01, 500)]
    result += [
        (
            "rate",
            "2, 1.0, 1000",
            lambda: calibrate_sample_rate(2.0, DELTA, 1.0, 1000, "rdp"),
            None,
            0,
        ),
        (
            "left",
            "(1, 0.01, 500) + (1, 0.01, n)",
            lambda: remaining_steps(left, 1.0, 0.01, 2.5, DELTA),
            None,
            0,
        ),
    ]
    return result


def measure(call: Callable[[], float], repeats: int) -> tuple[float, list[float]]:
    value, times = 0.0, []
    for _ in range(repeats):
        forget()
        start = time.process_time()
        value = call()
        times.append(1e3 * (time.process_time() - start))
    return value, times


def text(times: list[float]) -> str:
    return f"{statistics.median(times):.4g} ± {max(times) - min(times):.2g}"


def command(repeats: int) -> list[str]:
    code = "from lightning_priv.reports.budget import budget; from jsonargparse import auto_cli; "
    code += "print(auto_cli(budget, as_positional=False))"
    queries = [
        "--noise_multiplier=1 --sample_rate=0.01 --steps=1000 --delta=1e-5",
        "--epsilon=2 --sample_rate=0.01 --steps=1000 --delta=1e-5",
        "--epsilon=2 --noise_multiplier=1 --sample_rate=0.01 --delta=1e-5",
    ]
    lines = []
    for query in queries:
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            words = [sys.executable, "-c", code, *query.split(), "--format=json"]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            times.append(1e3 * (time.perf_counter() - start))
        assert '"guaranteed": true' in done.stdout
        lines.append(f"| command | `{query}` | {text(times)} | | | | |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="check the results, one repeat")
    options = parser.parse_args()
    repeats = 1 if options.smoke else options.repeats
    warnings.simplefilter("ignore")
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("numpy", "scipy", "opacus", "dp-accounting")
    )
    threads = os.environ.get("OMP_NUM_THREADS", "default")
    print(f"{platform.machine()}, Python {platform.python_version()}, {versions}, ", end="")
    print(f"threads {threads}, {repeats} repeats; CPU milliseconds, median ± spread\n")
    print(
        "| task | noise multiplier, rate, steps | ours | baseline | ratio | ours gives | baseline |"
    )
    print("|---|---|---|---|---|---|---|")
    for task, name, ours, baseline, tolerance in rows(options.smoke):
        ours()  # imports
        value, times = measure(ours, repeats)
        line = f"| {task} | {name} | {text(times)} "
        if baseline is None:
            print(f"{line}| | | {value:.6g} | |", flush=True)
            continue
        baseline()
        reference, slow = measure(baseline, repeats)
        ratio = statistics.median(times) / statistics.median(slow)
        print(f"{line}| {text(slow)} | {ratio:.3f} | {value:.6g} | {reference:.6g} |", flush=True)
        if abs(value / reference - 1) > tolerance:
            raise SystemExit(f"{task} {name}: {value} is not within {tolerance} of {reference}")
    for line in command(repeats):
        print(line, flush=True)


if __name__ == "__main__":
    main()
