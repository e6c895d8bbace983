"""Time and memory of Gromov's delta of random points: ours against the product in one piece.

python benchmarks/bench_delta.py
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

from lightning_priv.functional import gromov_delta


def in_one_piece(d: Tensor) -> Tensor:
    """The same number, row by row of the max-min product."""
    products = (d[0][:, None] + d[0] - d) / 2
    best = torch.stack([torch.minimum(row[:, None], products).amax(0) for row in products])
    return (best - products).max()


def resident(field: str) -> float:
    """VmRSS or VmHWM (its peak) of this process, MiB."""
    status = Path("/proc/self/status").read_text()
    return float(status.split(f"{field}:")[1].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: only that it runs")
    options = parser.parse_args()
    if options.smoke:
        options.points, options.rounds = 100, 1
    torch.set_num_threads(1)
    x = torch.randn(options.points, 128, generator=torch.Generator().manual_seed(0))
    d = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    rows = {"blocks (gromov_delta)": gromov_delta, "row by row": in_one_piece}
    values = [float(call(d)) for call in rows.values()]
    if abs(values[0] - values[1]) > 1e-5:
        raise SystemExit(f"the two differ: {values}")
    times: dict[str, list[float]] = {name: [] for name in rows}
    memory = {}
    for _ in range(options.rounds):
        for name, call in rows.items():
            start = time.process_time()
            call(d)
            times[name].append(time.process_time() - start)
    clear = Path("/proc/self/clear_refs")
    for name, call in rows.items():
        if clear.exists():
            clear.write_text("5")  # the peak starts here
            before = resident("VmRSS")
            call(d)
            memory[name] = f"{resident('VmHWM') - before:.0f}"
    print(f"torch {torch.__version__}, one thread, {options.points} points, CPU time\n")
    print("| max-min product | s | ratio | peak above the matrix, MiB |\n|---|---:|---:|---:|")
    base = statistics.median(times["row by row"])
    for name, own in times.items():
        median = statistics.median(own)
        print(f"| {name} | {median:.2f} | {median / base:.2f} | {memory.get(name, '-')} |")


if __name__ == "__main__":
    main()
