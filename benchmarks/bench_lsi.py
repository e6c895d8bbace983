"""Laplace sample information of all digits: agreement with exact leave-one-out, and speed.

1. Spearman of one-step scores with exact leave-one-out (refits to a gradient of 1e-12, divergence
   by definition), on ``--rows`` samples spread over the data set for the full covariance (0: all,
   some minutes), on all for the diagonal one.
2. CPU time on one thread, compared methods interleaved, medians over rounds of the ratios in one
   round: our scores including the fit of the probe, against n times the time of one held-out
   sample of (a) the paper's loop, 1000 steps of full-batch SGD and a diagonal laplace-torch fit,
   (b) an L-BFGS refit by scikit-learn without any curvature, cold or warm (started at the
   solution), to two tolerances; what agreement with exact leave-one-out each of them reaches.
3. Memory of fresh processes that score n rows of a memory-mapped file, beyond a small call.
4. Operations and bytes for a million samples, a count that is checked against the clock at a
   smaller n, and the time on a GPU where there is one.

    python benchmarks/bench_lsi.py                    (ten minutes)
    python benchmarks/bench_lsi.py --only memory      (one section)
    python benchmarks/bench_lsi.py --smoke            (correctness only)
"""

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from lightning_priv.functional import ProbeFit, fit_probe, lsi_scores, spearman
from lightning_priv.functional.laplace_information.alo import Leverage
from lightning_priv.functional.laplace_information.between import information_between
from lightning_priv.functional.laplace_information.exact import leave_one_out
from lightning_priv.functional.laplace_information.retrain import PaperSGD
from lightning_priv.functional.laplace_information.rows import make_rows

L2 = 1.0


def digits() -> tuple[Tensor, Tensor]:
    x, y = load_digits(return_X_y=True)
    return torch.from_numpy(x / 16), torch.from_numpy(y)


def cpu_seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


# ------------------------------------------------------------------------------ the slow ways


def paper_loop(x: Tensor, y: Tensor, i: int, sgd: PaperSGD) -> None:
    """One held-out sample: train a linear layer by SGD, then a diagonal Laplace posterior."""
    from laplace import Laplace
    from torch.utils.data import DataLoader, TensorDataset

    keep = torch.arange(len(x)) != i
    features, labels = x[keep].float(), y[keep]
    torch.manual_seed(5)
    layer = nn.Linear(x.shape[1], int(y.max()) + 1)
    optimizer = torch.optim.SGD(
        layer.parameters(),
        lr=sgd.lr,
        momentum=sgd.momentum,
        nesterov=sgd.nesterov,
        weight_decay=sgd.weight_decay,
    )
    for _ in range(sgd.steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(layer(features), labels).backward()
        optimizer.step()
    posterior = Laplace(
        layer,
        "classification",
        subset_of_weights="all",
        hessian_structure="diag",
        prior_precision=L2,
    )
    posterior.fit(DataLoader(TensorDataset(features, labels), batch_size=128))


def lbfgs_refit(
    x: np.ndarray, y: np.ndarray, i: int, start: np.ndarray | None, tolerance: float
) -> Tensor:
    """One held-out sample: fit multinomial logistic regression again; the bias is a feature.

    Args:
        x: features with a column of ones.
        y: classes.
        i: the sample that is held out.
        start: first weights; None: zero.
        tolerance: largest entry of the gradient of the mean loss.
    """
    model = LogisticRegression(
        C=1 / L2, fit_intercept=False, tol=tolerance, max_iter=5000, warm_start=start is not None
    )
    if start is not None:
        model.coef_ = start.copy()
        model.intercept_ = np.zeros(len(start))
        model.classes_ = np.arange(len(start))
    keep = np.arange(len(x)) != i
    with warnings.catch_warnings():
        # below 1e-8 its line search may end before the tolerance
        warnings.simplefilter("ignore")
        model.fit(x[keep], y[keep])
    return torch.from_numpy(model.coef_)


# ------------------------------------------------------------------------------ ours


def full(x: Tensor, y: Tensor) -> ProbeFit:
    return lsi_scores(x, y, L2).fit


def full_and_diag(x: Tensor, y: Tensor) -> None:
    lsi_scores(x, y, L2, "diag", fit=full(x, y))


def sketched(x: Tensor, y: Tensor, size: int) -> None:
    lsi_scores(x, y, L2, estimator="alo_sketch", sketch_dim=size)


def exact_means(x: Tensor, y: Tensor) -> Tensor:
    rows = make_rows(x, y)
    fit = fit_probe(x, y, L2)
    assert fit.factor is not None
    return leave_one_out(rows, L2, Leverage(fit, fit.factor), torch.arange(len(x)))


# ------------------------------------------------------------------------------ sections


def agreement(x: Tensor, y: Tensor, rows_checked: int) -> None:
    print("\n## Agreement with exact leave-one-out\n")
    rows, fit = make_rows(x, y), fit_probe(x, y, L2)
    thetas = exact_means(x, y)
    every = torch.arange(len(x))
    some = every if rows_checked == 0 else every[:: max(1, len(x) // rows_checked)]
    print(
        "| covariance | rows | estimator | Spearman | relative error, median / 95 % | "
        "Spearman of the curvature alone |"
    )
    print("|---|---:|---|---:|---:|---:|")
    for covariance, chosen in (("full", some), ("diag", every)):
        parts = information_between(rows, fit, fit.factor, thetas[chosen], chosen, covariance)
        exact = parts[0] + parts[1]
        ways = [("self", 1), ("alo", 1)]
        if covariance == "full":
            ways += [("alo_sketch", 32), ("alo_sketch", 128), ("alo_sketch", 512)]
        for estimator, size in ways:
            found = lsi_scores(
                *(x, y, L2, covariance, estimator),
                fit=fit,
                sketch_dim=size,
                refine_flagged=False,
            )
            scores = found.scores[chosen]
            alone = spearman(found.curvature[chosen], parts[1])
            name = f"{estimator} {size}" if estimator == "alo_sketch" else estimator
            error = ((scores - exact) / exact).abs()[exact > 1e-8 * exact.max()]
            print(
                f"| {covariance} | {len(chosen)} | {name} | "
                f"{float(spearman(scores, exact)):.6f} | {float(error.median()):.4f} / "
                f"{float(error.quantile(0.95)):.4f} | {float(alone):.4f} |"
            )
            if estimator == "alo":
                assert float(spearman(scores, exact)) >= 0.999


def refits(x: Tensor, y: Tensor, count: int) -> None:
    """Scores (diagonal covariance) from refitted means against exact ones."""
    print("\n## What the refits are worth: their scores against exact ones, diagonal covariance\n")
    rows, fit = make_rows(x, y), fit_probe(x, y, L2)
    assert fit.factor is not None
    chosen = torch.linspace(0, len(x) - 1, count).long()
    basis = rows.head.basis(fit.weight)

    def scores(thetas: Tensor) -> Tensor:
        return sum(information_between(rows, fit, None, thetas, chosen, "diag"))  # type: ignore

    exact = scores(leave_one_out(rows, L2, Leverage(fit, fit.factor), chosen))
    ones = np.concatenate([x.numpy(), np.ones((len(x), 1))], 1)
    print("| refit | tolerance | Spearman | relative error, median |\n|---|---:|---:|---:|")
    for name, start in (("cold", None), ("warm", fit.weight.numpy())):
        for tolerance in (1e-6, 1e-8):
            weights = [lbfgs_refit(ones, y.numpy(), int(i), start, tolerance) for i in chosen]
            found = scores((basis.mT @ torch.stack(weights))[:, None])
            error = float(((found - exact) / exact).abs().median())
            agreed = float(spearman(found, exact))
            print(f"| {name} | {tolerance:.0e} | {agreed:.5f} | {error:.1e} |")


def speed(x: Tensor, y: Tensor, rounds: int, sgd: PaperSGD) -> None:
    print(f"\n## CPU seconds, one thread, {rounds} rounds\n")
    ones = np.concatenate([x.numpy(), np.ones((len(x), 1))], 1)
    labels, solution = y.numpy(), fit_probe(x, y, L2).weight.numpy()
    n = len(x)
    slow: dict[str, Callable[[int], object]] = {"paper's loop": lambda i: paper_loop(x, y, i, sgd)}
    for tolerance in (1e-6, 1e-8):
        for name, start in (("cold", None), ("warm", solution)):
            slow[f"L-BFGS {name}, {tolerance:.0e}"] = lambda i, t=tolerance, w=start: lbfgs_refit(
                ones, labels, i, w, t
            )
    ours: dict[str, Callable[[], object]] = {
        "alo full": lambda: full(x, y),
        "alo full + diag": lambda: full_and_diag(x, y),
        "alo_sketch full, 128": lambda: sketched(x, y, 128),
        "alo_sketch full, 512": lambda: sketched(x, y, 512),
        "exact means": lambda: exact_means(x, y),
    }
    for method in ours.values():
        method()
    slow["paper's loop"](0)
    times: dict[str, list[float]] = {name: [] for name in (*slow, *ours)}
    for number in range(rounds):
        for name, method in ours.items():
            times[name].append(cpu_seconds(method))
        for name, one in slow.items():
            samples = [(7 + 311 * number + 97 * k) % n for k in range(2)]
            spent = [cpu_seconds(lambda i=i, one=one: one(i)) for i in samples]
            times[name].append(n * statistics.mean(spent))
    print(
        f"| method, all {n} samples | seconds | " + " | ".join(f"x {name}" for name in slow) + " |"
    )
    print("|---|---:|" + "---:|" * len(slow))
    for name in (*ours, *slow):
        ratios = []
        for other in slow:
            each = [b / a for a, b in zip(times[name], times[other], strict=True)]
            ratios.append(f"{statistics.median(each):,.0f} ({min(each):,.0f} to {max(each):,.0f})")
        print(f"| {name} | {statistics.median(times[name]):,.2f} | " + " | ".join(ratios) + " |")


MEMORY_PROGRAM = """
import re, sys, threading, time
from pathlib import Path
import numpy as np, torch
from lightning_priv.functional import lsi_scores
torch.set_num_threads(1)

def status(key):
    found = re.search(rf"{key}:\\s+(\\d+)", Path("/proc/self/status").read_text())
    return int(found.group(1)) / 1024

def score(rows):
    return lsi_scores(x[:rows], y[:rows], covariance=sys.argv[2], chunk_rows=4096)

x = np.load(sys.argv[1], mmap_mode="r")
y = np.concatenate([np.asarray(x[i:i + 4096, :10]).argmax(1) for i in range(0, len(x), 4096)])
score(8192)
highest, done = 0.0, threading.Event()

def watch():
    global highest
    while not done.is_set():
        highest = max(highest, status("RssAnon"))
        time.sleep(0.002)

before = status("RssAnon")
watcher = threading.Thread(target=watch)
watcher.start()
result = score(len(x))
done.set()
watcher.join()
columns = (result.scores, result.mean_shift, result.curvature, result.leverage, result.logits,
           result.loo_logits, result.flagged, result.refined)
own = sum(c.numel() * c.element_size() for c in columns) / 2**20
print(highest - before, own)
"""


def memory(sizes: tuple[int, ...], dims: int = 64) -> None:
    """Private memory (without the file's pages) beyond that of a call with 8,192 rows."""
    print(
        f"\n## Memory of a fresh process that scores a mapped file ({dims} features, 10 classes)\n"
    )
    print("| covariance | rows | file, MiB | highest growth, MiB | the result itself, MiB |")
    print("|---|---:|---:|---:|---:|")
    growth: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for n in sizes:
            path = Path(folder) / f"{n}.npy"
            np.save(path, np.random.default_rng(0).standard_normal((n, dims), dtype=np.float32))
            for covariance in ("full", "diag"):
                done = subprocess.run(
                    [sys.executable, "-c", MEMORY_PROGRAM, str(path), covariance],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                grown, own = map(float, done.stdout.split())
                growth.setdefault(covariance, []).append(grown)
                size = n * dims * 4 / 2**20
                print(f"| {covariance} | {n:,} | {size:.0f} | {grown:.0f} | {own:.0f} |")
    if len(sizes) < 3:
        return
    for covariance, grown in growth.items():
        slope, constant = np.polyfit(sizes, np.array(grown) * 2**20, 1)
        line = slope * np.array(sizes) + constant
        rest = np.abs(np.array(grown) * 2**20 - line).max() / 2**20
        print(
            f"\n{covariance}: {slope:.0f} bytes a sample, all within {rest:.0f} MiB of a straight "
            f"line. A matrix of all pairs would take {sizes[-1] ** 2 * 8 / 2**30:,.0f} GiB."
        )


def budget(n: int = 10**6, d: int = 512, classes: int = 10, sketch: int = 512) -> None:
    d1, w = d + 1, classes - 1
    k, k_outputs, pairs = w * d1, classes * d1, w * (w + 1) // 2
    passes = 30
    steps = {
        "gradients, 30 passes": passes * 4 * n * k_outputs,
        "Hessian to steer by (float32)": pairs * 2 * n * d1**2,
        "Hessian at the optimum": pairs * 2 * n * d1**2,
        "2 Cholesky factors and 1 inverse": 2 * k**3 / 3 + 2 * k**3 / 3,
        "leverage blocks": pairs * 2 * n * d1**2,
        "matrices of each sample": 25 * n * w**3,
        "moves of the weights (diag, sketch)": 2 * n * k**2,
        "slopes of the diagonal (diag)": classes * w * 2 * n * d1**2,
        "change of the diagonal (diag)": 2 * n * k * k_outputs,
        f"sketch {sketch}": 8 * sketch * n * k,
    }
    print(f"\n## Budget for {n:.0e} samples, {d} features, {classes} classes, K = {k_outputs}\n")
    print("| step | operations |")
    print("|---|---:|")
    for name, flop in steps.items():
        print(f"| {name} | {flop:.1e} |")
    values = list(steps.values())
    for name, total in (("full", sum(values[:6])), ("full, diag and sketch", sum(values))):
        print(f"| **{name}** | {total:.1e}: {total / 67e12 / 0.4:.0f} s at 40 % of 67 TFLOP/s |")
    chunk, item = 16384, 8
    bytes_held = {
        "features (float32, on disk or in memory)": n * d * 4,
        "K x K: factor, inverse, one being formed": 3 * k**2 * item,
        "a chunk of features and of weighted copies": chunk * d1 * item + 2**26,
        "moves of the weights of a group (diag, sketch)": 3 * 2**28,
        "columns of the result": n * (6 + 3 * classes) * item,
    }
    print("\n| held | bytes |\n|---|---:|")
    for name, size in bytes_held.items():
        print(f"| {name} | {size:.1e} |")
    passes_read = (passes + 4) * n * d * 4
    weighted = (2 * 2 + 1) * w * n * d1 * item  # each output's copy is written and read
    print(
        f"\nTraffic: {passes_read / 1e12:.2f} TB of features in {passes + 4} passes, "
        f"{weighted / 1e12:.2f} TB of weighted copies: {(passes_read + weighted) / 3.3e12:.1f} s "
        "at 3.3 TB/s, less than the arithmetic."
    )


def check_count(n: int, d: int, classes: int = 10) -> None:
    """The number of operations against the clock and the speed of a plain matrix product."""
    d1, w = d + 1, classes - 1
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator)
    noise = torch.randn(n, classes, generator=generator)
    y = (x @ torch.randn(d, classes, generator=generator) / d**0.5 + noise).argmax(1)
    a, b = torch.randn(n, d1, dtype=torch.float64), torch.randn(n, w * d1, dtype=torch.float64)
    product = cpu_seconds(lambda: a.mT @ b)
    rate = 2 * n * d1 * w * d1 / product
    start = time.process_time()
    fit = fit_probe(x, y, L2)
    middle = time.process_time()
    lsi_scores(x, y, L2, fit=fit)
    end = time.process_time()
    pairs, k = w * (w + 1) // 2, w * d1
    hessian = pairs * 2 * n * d1**2
    for name, seconds, flop in (
        ("fit", middle - start, 1.5 * hessian + fit.iterations * 4 * n * classes * d1 + k**3 / 2),
        ("scores", end - middle, hessian + 2 * k**3 / 3 + 25 * n * w**3),
    ):
        print(
            f"- {name}, n = {n}, d = {d}: {flop:.1e} operations (float32 counted half) in "
            f"{seconds:.1f} s, {flop / seconds / rate:.0%} of the speed of one matrix product"
        )


def on_gpu(n: int, d: int = 512, classes: int = 10) -> None:
    print("\n## GPU\n")
    if not torch.cuda.is_available():
        print("No CUDA device here: not run.")
        return
    print(
        f"{torch.cuda.get_device_name()}, {n} samples, {d} features, {classes} classes, float64\n"
    )
    generator = torch.Generator("cuda").manual_seed(0)
    x = torch.randn(n, d, device="cuda", generator=generator)
    direction = torch.randn(d, classes, device="cuda", generator=generator)
    noise = torch.randn(n, classes, device="cuda", generator=generator)
    y = (x @ direction / 8 + noise).argmax(1)
    small = lsi_scores(x[:2000, :32].cpu(), y[:2000].cpu(), num_classes=classes).scores
    there = lsi_scores(x[:2000, :32], y[:2000], num_classes=classes).scores
    torch.testing.assert_close(there.cpu(), small, rtol=1e-8, atol=1e-12)
    for name, covariance, estimator in (
        ("alo full", "full", "alo"),
        ("alo diag", "diag", "alo"),
        ("alo full, sketch 512", "full", "alo_sketch"),
    ):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        result = lsi_scores(x, y, L2, covariance, estimator)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        assert bool((result.scores >= 0).all())
        peak = torch.cuda.max_memory_allocated() / 2**30
        print(f"- {name}: {seconds:.1f} s with the fit, {peak:.1f} GiB")


SECTIONS = ("agreement", "refits", "speed", "memory", "budget", "gpu")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="small, for correctness only")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--rows", type=int, default=150, help="checked with full covariance; 0: all"
    )
    parser.add_argument("--gpu-samples", type=int, default=10**6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    x, y = digits()
    print(f"torch {torch.__version__}, {platform.machine()}, {platform.python_version()}, 1 thread")
    small = options.smoke
    if small:
        x, y = x[:150, ::4].contiguous(), y[:150]
    sizes = (2000,) if small else (10_000, 20_000, 40_000, 80_000, 160_000)
    sections = {
        "agreement": lambda: agreement(x, y, 0 if small else options.rows),
        "refits": lambda: refits(x, y, 5 if small else 60),
        "speed": lambda: speed(
            x, y, 1 if small else options.rounds, PaperSGD(steps=5) if small else PaperSGD()
        ),
        "memory": lambda: memory(sizes),
        "budget": lambda: (budget(), check_count(300 if small else 4000, 32 if small else 512)),
        "gpu": lambda: on_gpu(20_000 if small else options.gpu_samples),
    }
    for name in options.only:
        sections[name]()


if __name__ == "__main__":
    main()
