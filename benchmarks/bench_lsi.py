"""Laplace sample information of all digits: agreement with exact leave-one-out, and speed.

1. Spearman of one-step scores with exact leave-one-out (refits to a gradient of 1e-12, divergence
   by definition), on ``--rows`` samples spread over the data set for the full covariance (0: all),
   on all for the diagonal one.
2. CPU time on one thread, compared methods interleaved, medians over rounds of the ratios in one
   round: our scores including the fit of the probe, against n times the time of one held-out
   sample of (a) the paper's loop, 1000 steps of full-batch SGD and a diagonal laplace-torch fit,
   (b) an L-BFGS refit by scikit-learn, warm (started at the solution) or cold, no curvature.
3. Highest memory of a process that scores n rows from a memory-mapped file.
4. Operations and bytes for a million samples, and their time on a GPU where there is one.

    python benchmarks/bench_lsi.py            (five minutes)
    python benchmarks/bench_lsi.py --smoke    (correctness only)
"""

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
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


def lbfgs_refit(x: np.ndarray, y: np.ndarray, i: int, start: np.ndarray | None) -> None:
    """One held-out sample: fit multinomial logistic regression again; the bias is a feature."""
    model = LogisticRegression(
        C=1 / L2, fit_intercept=False, tol=1e-6, max_iter=2000, warm_start=start is not None
    )
    if start is not None:
        model.coef_ = start.copy()
        model.intercept_ = np.zeros(len(start))
        model.classes_ = np.arange(len(start))
    keep = np.arange(len(x)) != i
    model.fit(x[keep], y[keep])


# ------------------------------------------------------------------------------ ours


def full(x: Tensor, y: Tensor) -> ProbeFit:
    return lsi_scores(x, y, L2).fit


def full_and_diag(x: Tensor, y: Tensor) -> None:
    lsi_scores(x, y, L2, "diag", fit=full(x, y))


def with_sketch(x: Tensor, y: Tensor) -> None:
    fit = lsi_scores(x, y, L2, estimator="alo_sketch").fit
    lsi_scores(x, y, L2, "diag", fit=fit)


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
    print("| covariance | rows | estimator | Spearman | relative error, median / 95 % |")
    print("|---|---:|---|---:|---:|")
    for covariance, chosen in (("full", some), ("diag", every)):
        parts = information_between(rows, fit, fit.factor, thetas[chosen], chosen, covariance)
        exact = parts[0] + parts[1]
        for estimator in ("self", "alo", *(("alo_sketch",) if covariance == "full" else ())):
            found = lsi_scores(x, y, L2, covariance, estimator, fit=fit, refine_flagged=False)
            scores = found.scores[chosen]
            error = ((scores - exact) / exact).abs()[exact > 1e-8 * exact.max()]
            print(
                f"| {covariance} | {len(chosen)} | {estimator} | "
                f"{float(spearman(scores, exact)):.6f} | {float(error.median()):.4f} / "
                f"{float(error.quantile(0.95)):.4f} |"
            )
            if estimator == "alo":
                assert float(spearman(scores, exact)) >= 0.999


def speed(x: Tensor, y: Tensor, rounds: int, sgd: PaperSGD) -> None:
    print(f"\n## CPU seconds, one thread, {rounds} rounds\n")
    ones = np.concatenate([x.numpy(), np.ones((len(x), 1))], 1)
    labels, solution = y.numpy(), fit_probe(x, y, L2).weight.numpy()
    n = len(x)
    slow: dict[str, Callable[[int], None]] = {
        "paper's loop": lambda i: paper_loop(x, y, i, sgd),
        "L-BFGS refit, cold": lambda i: lbfgs_refit(ones, labels, i, None),
        "L-BFGS refit, warm": lambda i: lbfgs_refit(ones, labels, i, solution),
    }
    ours: dict[str, Callable[[], object]] = {
        "alo full": lambda: full(x, y),
        "alo full + diag": lambda: full_and_diag(x, y),
        "alo full + diag + sketch 512": lambda: with_sketch(x, y),
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
import resource, sys
import numpy as np, torch
from lightning_priv.functional import lsi_scores
torch.set_num_threads(1)
x = np.load(sys.argv[1], mmap_mode="r")
y = (x[:, :5].argmax(1)).astype(np.int64)
lsi_scores(x[:1000], y[:1000], chunk_rows=4096)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = lsi_scores(x, y, covariance="full", chunk_rows=4096)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def memory(sizes: tuple[int, ...]) -> None:
    print("\n## Highest memory above a small call, scoring a memory-mapped file (32 features)\n")
    print("| rows | file, MiB | memory, MiB (the file's pages included) |")
    print("|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for n in sizes:
            path = Path(folder) / f"{n}.npy"
            np.save(path, np.random.default_rng(0).standard_normal((n, 32), dtype=np.float32))
            done = subprocess.run(
                [sys.executable, "-c", MEMORY_PROGRAM, str(path)],
                capture_output=True,
                text=True,
                check=True,
            )
            print(f"| {n} | {n * 128 / 2**20:.0f} | {float(done.stdout):.0f} |")


def budget(n: int = 10**6, d: int = 512, classes: int = 10, sketch: int = 512) -> None:
    d1, w = d + 1, classes - 1
    k, k_outputs, pairs = w * d1, classes * d1, w * (w + 1) // 2
    passes = 30
    steps = {
        "gradients, 30 passes": passes * 4 * n * k_outputs,
        "2 Hessians": 2 * pairs * 2 * n * d1**2,
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
    for name, total in (("full", sum(values[:5])), ("full, diag and sketch", sum(values))):
        print(f"| **{name}** | {total:.1e}: {total / 67e12 / 0.4:.0f} s at 40 % of 67 TFLOP/s |")
    moved = 2 * w * n * d1 * 8 * 3  # each output's weighted copy is written and read
    print(
        f"\nBytes: features {n * d * 4 / 1e9:.1f} GB (float32), K x K matrices "
        f"{3 * k * k * 8 / 1e9:.1f} GB, traffic of both Hessians about {moved / 1e12:.1f} TB."
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="small, for correctness only")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--rows", type=int, default=150, help="checked with full covariance; 0: all"
    )
    parser.add_argument("--gpu-samples", type=int, default=10**6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    x, y = digits()
    print(f"torch {torch.__version__}, {platform.machine()}, {platform.python_version()}, 1 thread")
    if options.smoke:
        x, y = x[:150, ::4].contiguous(), y[:150]
        agreement(x, y, 0)
        speed(x, y, 1, PaperSGD(steps=5))
        memory((2000,))
        budget()
        on_gpu(20_000)
        return
    agreement(x, y, options.rows)
    speed(x, y, options.rounds, PaperSGD())
    memory((50_000, 100_000, 200_000, 400_000))
    budget()
    on_gpu(options.gpu_samples)


if __name__ == "__main__":
    main()
