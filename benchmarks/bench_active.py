"""Acquisition functions and planners: CPU time and memory against the goals.

    python benchmarks/bench_active.py [--smoke] [--repeats 3]

One thread. The second table times whole runs on scikit-learn's digits: what the loop of ten rounds
takes beside training, testing and pool inference, and the study of configs/demo/al_compare_digits
(6 functions x 5 seeds x 10 rounds) as a command from nothing, imports and figure included.

Memory is the growth of the peak resident size by one call, each row in a process of its own (Linux
only). *naive* makes the whole gradient embedding; it is run at the small sizes only.
"""

import argparse
import math
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import peak_memory
import torch

from lightning_priv.accountants import plan_step_amplification
from lightning_priv.functional.acquisition import badge, bald, batch_bald, epig, k_center

CIFAR = (10000, [10000, 3000, 1000, 1000], 4096, 30, 8.0, 2.0, 1e-5)


def _inputs(n: int, classes: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    probs = torch.randn(n, classes, generator=generator).softmax(1)
    return probs, torch.randn(n, d, generator=generator)


def run_badge(n: int, classes: int, d: int, k: int) -> Callable[[], object]:
    probs, hidden = _inputs(n, classes, d)
    return lambda: badge(probs, hidden, k)


def run_naive_badge(n: int, classes: int, d: int, k: int) -> Callable[[], object]:
    probs, hidden = _inputs(n, classes, d)

    def naive() -> None:
        a = probs.scatter_add(1, probs.argmax(1, keepdim=True), -torch.ones(n, 1))
        gradients = (a[:, :, None] * hidden[:, None]).flatten(1)
        nearest = gradients.square().sum(1)
        pick = nearest.argmax()
        nearest.fill_(torch.inf)
        for _ in range(k):
            nearest = torch.minimum(nearest, (gradients - gradients[pick]).square().sum(1))
            pick = torch.multinomial(nearest, 1)[0]

    return naive


def run_k_center(n: int, d: int, labelled: int, k: int) -> Callable[[], object]:
    points = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    return lambda: k_center(points, k, torch.arange(labelled))


def run_bald(n: int, classes: int, draws: int) -> Callable[[], object]:
    def stream() -> object:
        generator = torch.Generator().manual_seed(0)
        return bald(torch.randn(n, classes, generator=generator).softmax(1) for _ in range(draws))

    return stream


def run_mc(name: str, n: int, classes: int, draws: int, k: int) -> Callable[[], object]:
    mc = torch.randn(draws, n, classes, generator=torch.Generator().manual_seed(0)).softmax(-1)
    return lambda: batch_bald(mc, k) if name == "batch_bald" else epig(mc, mc[:, :k])


def run_plan(**options: object) -> Callable[[], object]:
    return lambda: plan_step_amplification(*CIFAR, **options)  # type: ignore[arg-type]


Task = tuple[str, str, Callable[..., Callable[[], object]], tuple, dict]


def rows(smoke: bool) -> list[Task]:
    f = 50 if smoke else 1
    joint = {"accountant": "pld", "composition": "joint_pld"}
    large, wide, small = (
        (50_000 // f, 10, 512, 100),
        (20_000 // f, 1000, 512, 50),
        (5000, 10, 64, 100),
    )
    return [
        ("badge n 50,000, C 10, d 512, k 100", "6 s, 300 MB", run_badge, large, {}),
        ("badge n 20,000, C 1000, d 512, k 50", "500 MB", run_badge, wide, {}),
        ("badge n 5,000, C 10, d 64, k 100", "", run_badge, small, {}),
        ("the same, naive", "", run_naive_badge, small, {}),
        (
            *("k_center n 50,000, d 128, L 1,000, k 500", "15 s, 200 MB", run_k_center),
            *((50_000 // f, 128, 1000 // f, 500), {}),
        ),
        (
            "bald n 50,000, C 100, T 20, streamed",
            "n C memory",
            run_bald,
            (50_000 // f, 100, 20),
            {},
        ),
        (
            "batch_bald n 2,000, C 10, T 20, k 8",
            "",
            run_mc,
            ("batch_bald", 2000 // f, 10, 20, 8),
            {},
        ),
        ("epig n 2,000, C 10, T 20, 500 targets", "", run_mc, ("epig", 2000, 10, 20, 500 // f), {}),
        ("plan, K = 4, rdp", "2 s", run_plan, (), {}),
        ("plan, K = 4, pld", "", run_plan, (), {"accountant": "pld"}),
        ("joint plan without certificate", "1 s", run_plan, (), {**joint, "certify": False}),
        ("joint plan with certificate", "10 s", run_plan, (), joint),
    ]


def _measure(
    make: Callable[..., Callable[[], object]], args: tuple, options: dict, repeats: int
) -> tuple[float, float]:
    torch.set_num_threads(1)
    # what the first calls load does not count
    bald(torch.rand(2, 64, 2).softmax(-1) @ torch.eye(2).double().float())
    work = make(*args, **options)
    memory = peak_memory.growth(work) if peak_memory.known else math.nan
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times), memory


def run_loop(smoke: bool) -> tuple[float, dict[str, float]]:
    """CPU seconds of a run of ten rounds, and of its parts."""
    from lightning.pytorch import Trainer, seed_everything

    from lightning_priv.acquisition import BADGE
    from lightning_priv.callbacks import pool_pass
    from lightning_priv.data import ActivePool, Digits
    from lightning_priv.models import Classifier
    from lightning_priv.nn import MLP
    from lightning_priv.workflows.active_learning import Options, run

    torch.set_num_threads(1)
    spent = {"training": 0.0, "testing": 0.0, "pool inference": 0.0}

    def timed(owner: type, name: str, part: str) -> None:
        original = getattr(owner, name)

        def measured(*args: object, **keywords: object) -> object:
            start = time.process_time()
            try:
                return original(*args, **keywords)
            finally:
                spent[part] += time.process_time() - start

        setattr(owner, name, measured)

    timed(Trainer, "fit", "training")
    timed(Trainer, "test", "testing")
    timed(pool_pass._Reader, "read", "pool inference")
    seed_everything(0, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu", max_epochs=1 if smoke else 30, default_root_dir=folder,
            logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        model = Classifier(MLP(64, 10), 10)
        pool = ActivePool(Digits(batch_size=32, val_size=0), 100, 50)
        pool.setup("fit")  # reading the data is no part of the loop
        start = time.process_time()
        run(trainer, model, pool, Options(2 if smoke else 10, BADGE()))
        return time.process_time() - start, spent


def run_study(smoke: bool) -> tuple[float, float]:
    """Wall and CPU seconds of the study as a command."""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "lightning_priv", "active-learn", "--config"]
    command += [str(root / "configs/demo/al_compare_digits.yaml")]
    command += ["--rounds", "1", "--train.max_epochs", "1", "--seeds", "2"] if smoke else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    with tempfile.TemporaryDirectory() as folder:
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def print_runs(smoke: bool) -> None:
    total, spent = run_loop(smoke)
    rest = total - sum(spent.values())
    parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in spent.items())
    print("\n| whole run | goal | measured |\n|---|---|---|")
    print(f"| rest of the loop, {parts} | 5 % | {rest:.2f} s, {rest / total:.1%} |", flush=True)
    wall, cpu = run_study(smoke)
    print(f"| study of 30 members, 10 rounds | 20 s on two cores | {cpu:.1f} s CPU, {wall:.1f} s |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="small sizes, one repeat")
    parser.add_argument("--runs", action="store_true", help="only the table of whole runs")
    options = parser.parse_args()
    if options.runs:
        print_runs(options.smoke)
        return
    repeats = 1 if options.smoke else options.repeats
    print(f"torch {torch.__version__}, one thread, median of {repeats}, CPU seconds\n")
    print("| task | goal | s | memory, MB |\n|---|---|---:|---:|")
    context = multiprocessing.get_context("spawn")
    for name, goal, make, args, keywords in rows(options.smoke):
        with context.Pool(1) as pool:
            seconds, megabytes = pool.apply(_measure, (make, args, keywords, repeats))
        print(f"| {name} | {goal} | {seconds:.2f} | {megabytes:.0f} |", flush=True)
    print_runs(options.smoke)


if __name__ == "__main__":
    main()
