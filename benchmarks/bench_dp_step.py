"""Cost of one DP-SGD step against plain SGD, for every per-sample gradient engine.

A step is forward, backward, clipping, noise, and SGD with momentum. Time is that of the process,
rows interleaved in one run; memory is the peak resident size above that before the first step, each
row in a process of its own. Rows:

plain SGD         the ordinary step, without privacy
bk, hooks, ...    the engines of lightning_priv, through the strategy's own logical step; auto is bk
bk by rule        bk with routes by rule instead of by timing (deterministic: true)
opacus hooks      GradSampleModule and DPOptimizer of Opacus, as a user of Opacus has them
opacus ghost      its ghost clipping
vmap(grad)        torch.func over the whole network

``--physical`` passes the batch in micro-batches (plain SGD accumulates over the same ones), and
``--device cuda`` measures wall time and the allocator's peak on a GPU, if there is one.

    python benchmarks/bench_dp_step.py --net cnn resnet18 --rounds 15
    python benchmarks/bench_dp_step.py --net transformer hcnn wrn --rows bk hooks
    python benchmarks/bench_dp_step.py --net cnn --rows bk --batch 256 --physical 32
"""

import argparse
import gc
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer_fast_gradient_clipping import DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import nn
from torch.func import functional_call, grad, vmap

from lightning_priv.functional import clip_factors
from lightning_priv.nn import HyperbolicResNet, ResNet, SmallCNN, WideResNet
from lightning_priv.nn.per_sample import ENGINES, FlatClipping, choose_engine
from lightning_priv.strategies.noise import DefaultNoise
from lightning_priv.strategies.step import LogicalStep

warnings.filterwarnings("ignore")


class Transformer(nn.Module):
    """Torch's own encoder layers, with nn.MultiheadAttention, on 64 patches of an image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to logits."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.layers(tokens).mean(1))


NETS: dict[str, Callable[[int], nn.Module]] = {
    "cnn": lambda width: SmallCNN(10, width=width // 2),
    "resnet18": lambda width: ResNet(18, 10, norm="group", width=width),
    "transformer": lambda width: Transformer(2 * width),
    "hcnn": lambda width: HyperbolicResNet(10, 10, norm="group", width=width // 4),
    "wrn": lambda width: WideResNet(16, max(1, width // 16)),
}
SIGMA, BOUND = 1.0, 1.0

Step = Callable[[], None]
Row = Callable[[nn.Module, torch.Tensor, torch.Tensor, int], Step]


def optimizer_of(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9)


def plain(net: nn.Module, x: torch.Tensor, y: torch.Tensor, physical: int) -> Step:
    optimizer = optimizer_of(net)

    def step() -> None:
        optimizer.zero_grad()
        for xs, ys in zip(x.split(physical), y.split(physical), strict=True):
            loss = nn.functional.cross_entropy(net(xs), ys)
            (loss * len(xs) / len(x)).backward()
        optimizer.step()

    return step


def ours(name: str, reproducible: bool = False) -> Row:
    def row(net: nn.Module, x: torch.Tensor, y: torch.Tensor, physical: int) -> Step:
        optimizer = optimizer_of(net)
        engine = choose_engine(name, reproducible=reproducible)
        engine.attach(net)
        logical = LogicalStep(engine, FlatClipping(BOUND), DefaultNoise(x.device))

        def run(batch: list[torch.Tensor]) -> tuple[torch.Tensor, None]:
            return nn.functional.cross_entropy(net(batch[0]), batch[1]), None

        def step() -> None:
            logical.begin()
            for xs, ys in zip(x.split(physical), y.split(physical), strict=True):
                logical.add([xs, ys], len(xs), run)
            logical.release(SIGMA, len(x), None, draws_noise=True)
            optimizer.step()

        return step

    return row


def opacus_hooks(net: nn.Module, x: torch.Tensor, y: torch.Tensor, _: int) -> Step:
    model = GradSampleModule(net)
    optimizer = DPOptimizer(
        optimizer_of(net), noise_multiplier=SIGMA, max_grad_norm=BOUND, expected_batch_size=len(x)
    )

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def opacus_ghost(net: nn.Module, x: torch.Tensor, y: torch.Tensor, _: int) -> Step:
    model = GradSampleModuleFastGradientClipping(net, max_grad_norm=BOUND)
    optimizer = DPOptimizerFastGradientClipping(
        optimizer_of(net), noise_multiplier=SIGMA, max_grad_norm=BOUND, expected_batch_size=len(x)
    )
    criterion = DPLossFastGradientClipping(model, optimizer, nn.CrossEntropyLoss())

    def step() -> None:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()

    return step


def whole_vmap(net: nn.Module, x: torch.Tensor, y: torch.Tensor, _: int) -> Step:
    optimizer = optimizer_of(net)
    names = [name for name, _ in net.named_parameters()]

    def loss(params: dict[str, torch.Tensor], xi: torch.Tensor, yi: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(functional_call(net, params, xi[None]), yi[None])

    per_record = vmap(grad(loss), in_dims=(None, 0, 0))

    def step() -> None:
        found = per_record({n: p.detach() for n, p in net.named_parameters()}, x, y)
        squares = sum(g.flatten(1).square().sum(1) for g in found.values())
        factors = clip_factors(squares.sqrt(), BOUND)
        for name, parameter in zip(names, net.parameters(), strict=True):
            summed = (factors @ found.pop(name).flatten(1)).view_as(parameter)
            parameter.grad = (summed + SIGMA * BOUND * torch.randn_like(summed)) / len(x)
        optimizer.step()

    return step


ROWS: dict[str, Row] = {
    "plain SGD": plain,
    **{name: ours(name) for name in ("auto", *ENGINES)},
    "bk by rule": ours("bk", reproducible=True),
    "opacus hooks": opacus_hooks,
    "opacus ghost": opacus_ghost,
    "vmap(grad)": whole_vmap,
}
#: rows of other libraries, which take plain layers and whole batches only
FOREIGN = ("opacus hooks", "opacus ghost", "vmap(grad)")


def prepared(row: str, net: str, options: argparse.Namespace) -> Step:
    torch.manual_seed(0)
    device = torch.device(options.device)
    x = torch.randn(options.batch, 3, 32, 32, device=device)
    y = torch.randint(0, 10, (options.batch,), device=device)
    physical = options.physical or options.batch
    return ROWS[row](NETS[net](options.width).to(device), x, y, physical)


def timed(step: Step, on_gpu: bool) -> float:
    """Seconds of one step: processor time, or wall time with the GPU's work done."""
    gc.collect()
    if not on_gpu:
        begin = time.process_time()
        step()
        return time.process_time() - begin
    torch.cuda.synchronize()
    begin = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def peak_of(row: str, net: str, options: argparse.Namespace) -> float:
    """MiB above the level before the first step, in a process of its own."""
    words = [sys.executable, __file__, "--measure-memory", row, "--net", net]
    for name in ("batch", "physical", "width", "threads", "device"):
        words += [f"--{name}", str(getattr(options, name))]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ)
    return float(done.stdout.strip().splitlines()[-1])


def measure_memory(options: argparse.Namespace) -> None:
    step = prepared(options.measure_memory, options.net[0], options)
    if options.device.startswith("cuda"):
        step()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        print((torch.cuda.max_memory_allocated() - before) / 2**20)
        return
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts here
    before = resident("VmRSS")
    for _ in range(3):
        step()
    print((resident("VmHWM") - before) / 1024)


def resident(field: str) -> int:
    """KiB that the kernel counts for this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def table(net: str, options: argparse.Namespace) -> None:
    on_gpu = options.device.startswith("cuda")
    rows = [row for row in ROWS if not options.rows or row in options.rows or row == "plain SGD"]
    if net not in ("cnn", "resnet18") or options.physical:
        rows = [row for row in rows if row not in FOREIGN]
    steps = {row: prepared(row, net, options) for row in rows}
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {row: [] for row in rows}
    for _ in range(options.rounds):
        for row, step in steps.items():
            seconds[row].append(timed(step, on_gpu))
    del steps
    parameters = sum(p.numel() for p in NETS[net](options.width).parameters())
    split = f" in micro-batches of {options.physical}" if options.physical else ""
    print(f"\n{net}: {parameters:,} parameters, batch {options.batch}{split}, 3x32x32, float32\n")
    print("| row | ms | time / plain | paired | quartiles | MiB | memory / plain |")
    print("|---|---|---|---|---|---|---|")
    base_time = statistics.median(seconds["plain SGD"])
    base_memory = None if options.no_memory else peak_of("plain SGD", net, options)
    for row in rows:
        paired = sorted(a / b for a, b in zip(seconds[row], seconds["plain SGD"], strict=True))
        quarter = len(paired) // 4
        middle = statistics.median(seconds[row])
        memory = ratio = "-"
        if base_memory is not None:
            peak = base_memory if row == "plain SGD" else peak_of(row, net, options)
            memory, ratio = f"{peak:.0f}", f"{peak / max(base_memory, 1e-9):.2f}"
        print(
            f"| {row} | {1e3 * middle:.1f} | {middle / base_time:.2f} | "
            f"{statistics.median(paired):.2f} | "
            f"{paired[quarter]:.2f}-{paired[-1 - quarter]:.2f} | {memory} | {ratio} |",
            flush=True,
        )


def main() -> None:
    """Print one Markdown table for each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", nargs="+", choices=list(NETS), default=list(NETS))
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=[])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--physical", type=int, default=0, help="records of a micro-batch")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: only that it runs")
    parser.add_argument("--measure-memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measure_memory:
        measure_memory(options)
        return
    if options.smoke:
        options.batch, options.width, options.rounds, options.no_memory = 4, 16, 1, True
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("no GPU here: nothing measured")
        return
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else platform.machine()
    print(
        f"{options.device} ({name}), {options.threads} thread(s), torch {torch.__version__}, "
        f"opacus {version('opacus')}, {options.rounds} rounds: medians, and the median and "
        "quartiles of the ratios of single rounds (paired)"
    )
    for net in options.net:
        table(net, options)


if __name__ == "__main__":
    main()
