"""Acquisition functions and planners: CPU time and memory against the goals.

    python benchmarks/bench_active.py [--smoke] [--repeats 3]

One thread. Memory is the growth of the process's peak resident size, each row in a process of its
own. *naive* makes the whole gradient embedding; it is run at the small sizes only.
"""

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable

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
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return statistics.median(times), (after - before) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="small sizes, one repeat")
    options = parser.parse_args()
    repeats = 1 if options.smoke else options.repeats
    print(f"torch {torch.__version__}, one thread, median of {repeats}, CPU seconds\n")
    print("| task | goal | s | memory, MB |\n|---|---|---:|---:|")
    context = multiprocessing.get_context("spawn")
    for name, goal, make, args, keywords in rows(options.smoke):
        with context.Pool(1) as pool:
            seconds, megabytes = pool.apply(_measure, (make, args, keywords, repeats))
        print(f"| {name} | {goal} | {seconds:.2f} | {megabytes:.0f} |", flush=True)


if __name__ == "__main__":
    main()
