"""Cost and accuracy of the fully hyperbolic ResNet-18 against the Euclidean one.

Sections, all of them by default:

step        forward + backward in training mode, and the bytes that autograd keeps for it
layers      the same for single layers (64 channels, 32x32) against their Euclidean counterparts
inference   forward in evaluation mode
autocast    as step, in bfloat16 autocast
formats     step with contiguous and with channels-last images and weights, float32 and autocast
memory      growth of the peak of resident memory by one step, each network in a process of its own
arithmetic  error against float64: batch norm far from the origin, logits in float32 and bfloat16
gpu         step in float32 and bfloat16, with peak memory, and formats; left out without a GPU

Times are CPU times (GPU: wall times), the compared networks take turns. Rows of networks:

E           Euclidean ResNet-18 with in-place ReLU
L           Lorentz ResNet-18 as it trains by default: one autograd Function a unit
L, layers   the same network with separate layers (fused=False): tensors only, as in torch.compile
published   see published_hcnn.py

    python benchmarks/bench_hyperbolic.py
    python benchmarks/bench_hyperbolic.py --sections step --batch 16 32 --rounds 9
"""

import argparse
import math
import multiprocessing
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from hyperbolic_errors import logits_errors, norm_error
from published_hcnn import PublishedConv, PublishedNorm, published
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lightning_priv import functional as fn
from lightning_priv.nn import HyperbolicResNet
from lightning_priv.nn import lorentz as ll

Times = dict[str, list[float]]
NETWORKS = ("E", "L", "L, layers", "published")


def network(row: str, options: argparse.Namespace, device: str = "cpu") -> nn.Module:
    """The network of a row, with the same weights in all rows of one variant."""
    torch.manual_seed(0)
    variant = "e" if row == "E" else "l"
    net = HyperbolicResNet(
        18, options.classes, variant, width=options.width, fused=row != "L, layers"
    )
    return (published(net) if row == "published" else net).to(device)


def data(options: argparse.Namespace, batch: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Images 32x32 and classes."""
    x = torch.randn(batch, 3, 32, 32, device=device)
    return x, torch.randint(0, options.classes, (batch,), device=device)


def race(rows: dict[str, Callable[[], None]], rounds: int, device: str = "cpu") -> Times:
    """Seconds of each row in each round; the rows take turns, a first round warms up."""

    def clock() -> float:
        if device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    times: Times = {name: [] for name in rows}
    for round_ in range(rounds + 1):
        for name, call in rows.items():
            start = clock()
            call()
            if round_:
                times[name].append(clock() - start)
    return times


def show(title: str, times: Times, base: str, **columns: dict[str, str]) -> None:
    """One Markdown table: medians, quartiles, and ratios to the row ``base``."""
    extra = "".join(f" {name} |" for name in columns)
    print(f"| {title} | ms | quartiles | time / {base} | per round |{extra}")
    print("|---|---:|---:|---:|---:|" + "---:|" * len(columns))
    for name, own in times.items():
        paired = statistics.median(a / b for a, b in zip(own, times[base], strict=True))
        low, high = (torch.tensor(own).quantile(q).item() * 1e3 for q in (0.25, 0.75))
        ratio = statistics.median(own) / statistics.median(times[base])
        cells = "".join(f" {column.get(name, '')} |" for column in columns.values())
        print(
            f"| {name} | {statistics.median(own) * 1e3:.3g} | {low:.3g}-{high:.3g} | {ratio:.2f} | "
            f"{paired:.2f} |{cells}"
        )
    print()


def saved_mebibytes(net: nn.Module, loss: Callable[[], Tensor]) -> float:
    """Bytes that autograd keeps for the backward pass, without parameters, in MiB."""
    sizes: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        value = loss()
    own = {p.untyped_storage().data_ptr() for p in net.parameters()}
    total = sum(size for pointer, size in sizes.items() if pointer not in own)
    del value
    return total / 2**20


def training_step(
    net: nn.Module, x: Tensor, y: Tensor, half: bool = False
) -> tuple[Callable[[], Tensor], Callable[[], None]]:
    """The loss, and forward + backward."""

    def loss() -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            return F.cross_entropy(net(x).float(), y)

    def step() -> None:
        net.zero_grad()
        loss().backward()

    return loss, step


def step(options: argparse.Namespace, half: bool = False) -> None:
    names = [name for name in NETWORKS if name != "published" or not (half or options.no_published)]
    nets = {name: network(name, options) for name in names}
    for batch in options.batch:
        x, y = data(options, batch)
        pairs = {name: training_step(net, x, y, half) for name, net in nets.items()}
        reference = pairs["L, layers"][0]().item()
        for name in names[1:]:
            if not math.isclose(pairs[name][0]().item(), reference, rel_tol=1e-1 if half else 1e-3):
                raise SystemExit(f"{name} computes another function than the separate layers")
        saved = {name: saved_mebibytes(nets[name], pairs[name][0]) for name in names}
        times = race({name: pair[1] for name, pair in pairs.items()}, options.rounds)
        show(
            f"{'bfloat16 autocast, ' if half else ''}batch {batch}",
            times,
            "E",
            **{
                "saved MiB": {name: f"{size:.1f}" for name, size in saved.items()},
                "saved / E": {name: f"{size / saved['E']:.2f}" for name, size in saved.items()},
            },
        )


def autocast(options: argparse.Namespace) -> None:
    step(options, half=True)


def layers(options: argparse.Namespace) -> None:
    batch, c = options.batch[0], options.width
    manifold = ll.LorentzManifold()

    def conv() -> ll.LorentzConv2d:
        return ll.LorentzConv2d(c, c, 3, padding=1, manifold=manifold)

    def norm() -> ll.LorentzBatchNorm2d:
        return ll.LorentzBatchNorm2d(c, manifold)

    def unit(fused: bool) -> nn.Module:
        return ll.LorentzConvNorm(conv(), norm(), fused=fused)

    flat = nn.Conv2d(c, c, 3, padding=1, bias=False)
    images = 0.1 * torch.randn(batch, c, 32, 32)
    vectors = 0.1 * torch.randn(64 * batch, 8 * c)
    points = fn.to_point(images.movedim(1, -1)).contiguous()
    groups: dict[str, tuple[Tensor, dict[str, tuple[nn.Module, Tensor]]]] = {
        "convolution": (
            images,
            {
                "Conv2d": (nn.Conv2d(c, c, 3, padding=1), images),
                "LorentzConv2d": (conv(), images),
                "published": (PublishedConv(conv()), points),
            },
        ),
        "batch norm": (
            images,
            {
                "BatchNorm2d": (nn.BatchNorm2d(c), images),
                "LorentzBatchNorm2d": (norm(), images),
                "published": (PublishedNorm(norm()), points),
            },
        ),
        "convolution, batch norm, ReLU": (
            images,
            {
                "Euclidean": (nn.Sequential(flat, nn.BatchNorm2d(c), nn.ReLU(True)), images),
                "LorentzConvNorm": (unit(True), images),
                "LorentzConvNorm, fused=False": (unit(False), images),
            },
        ),
        "linear": (
            vectors,
            {
                "Linear": (nn.Linear(8 * c, 100), vectors),
                "LorentzLinear": (ll.LorentzLinear(8 * c, 100), vectors),
                "LorentzMLR": (ll.LorentzMLR(8 * c, 100), vectors),
                "PoincareMLR": (ll.PoincareMLR(8 * c, 100), 0.01 * vectors),
            },
        ),
        "global pooling": (
            images,
            {
                "mean": (nn.AdaptiveAvgPool2d(1), images),
                "LorentzGlobalAvgPool2d": (ll.LorentzGlobalAvgPool2d(), images),
            },
        ),
    }
    for title, (_, rows) in groups.items():
        calls: dict[str, Callable[[], None]] = {}
        for name, (module, given) in rows.items():
            x = given.clone().requires_grad_()

            def call(module: nn.Module = module, x: Tensor = x) -> None:
                module(x).square().mean().backward()

            calls[name] = call
        show(f"{title}, batch {batch}", race(calls, options.rounds), next(iter(rows)))


def inference(options: argparse.Namespace) -> None:
    names = [name for name in NETWORKS if name not in ("L, layers", "published")]
    nets = {name: network(name, options).eval() for name in names}
    for batch in options.batch:
        x, _ = data(options, batch)

        def call(net: nn.Module, x: Tensor = x) -> None:
            with torch.inference_mode():
                net(x)

        calls = {name: (lambda net=net: call(net)) for name, net in nets.items()}
        show(f"inference, batch {batch}", race(calls, options.rounds), "E")


def formats(options: argparse.Namespace, device: str = "cpu") -> None:
    batch = (options.batch if device == "cpu" else options.gpu_batch)[0]
    x, y = data(options, batch, device)
    for half in (False, True):
        calls = {}
        for name in ("E", "L", "L, layers"):
            losses = []
            for row, layout in (
                (name, torch.contiguous_format),
                (f"{name}, channels last", torch.channels_last),
            ):
                net = network(name, options, device).to(memory_format=layout)
                loss, calls[row] = training_step(net, x.to(memory_format=layout), y, half)
                losses.append(loss().item())
            if not math.isclose(*losses, rel_tol=1e-1 if half else 1e-3):
                raise SystemExit(f"{name} computes another function on channels-last images")
        title = f"{device}, {'bfloat16 autocast' if half else 'float32'}, batch {batch}"
        show(title, race(calls, options.rounds, device), "E")


def _resident(field: str) -> float:
    """VmRSS or VmHWM (its peak) of this process, MiB."""
    status = Path("/proc/self/status").read_text()
    return float(status.split(f"{field}:")[1].split()[0]) / 1024


def _peak(row: str, options: argparse.Namespace, batch: int) -> float:
    """Growth of the peak of resident memory by one training step, MiB; in a fresh process."""
    torch.set_num_threads(options.threads)
    _, step = training_step(network(row, options), *data(options, batch))
    # not getrusage: a process started by a larger one inherits that one's peak
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    before = _resident("VmRSS")
    step()
    return _resident("VmHWM") - before


def memory(options: argparse.Namespace) -> None:
    names = [name for name in NETWORKS if name != "published" or not options.no_published]
    if not Path("/proc/self/clear_refs").exists():
        print("memory: read from /proc, which this system does not have; section left out\n")
        return
    print("| peak of resident memory | batch | growth, MiB | / E |\n|---|---:|---:|---:|")
    context = multiprocessing.get_context("spawn")
    for batch in options.batch[:1]:
        base = 0.0
        for name in names:
            with context.Pool(1) as pool:
                size = pool.apply(_peak, (name, options, batch))
            base = base or size
            ratio = f"{size / base:.2f}" if base else "-"
            print(f"| {name} | {batch} | {size:.0f} | {ratio} |")
    print()


def arithmetic(options: argparse.Namespace) -> None:
    forms = ("one pass", "two passes", "compiled", "layer")
    print(f"| batch norm: distance, spread | {' | '.join(forms)} |\n|---|{'---:|' * len(forms)}")
    for distance, spread in (
        (0.5, 0.1),
        (2, 0.1),
        (2, 0.001),
        (5, 1),
        (5, 0.1),
        (5, 0.01),
        (8, 0.1),
    ):
        errors = [norm_error(distance, spread, form) for form in forms]
        print(f"| {distance}, {spread} | " + " | ".join(f"{e:.1e}" for e in errors) + " |")
    print("\n| logits, ResNet-18, batch 8 | float32 | bfloat16 autocast |\n|---|---:|---:|")
    x, _ = data(options, 8)
    for variant in ("e", "el", "ep", "l", "hecnn"):
        for training in (True, False):
            exact, half = logits_errors(variant, x, options.classes, options.width, training)
            mode = "training" if training else "evaluation"
            print(f"| {variant.upper()}, {mode} | {exact:.1e} | {half:.1e} |")
    print()


def gpu(options: argparse.Namespace) -> None:
    if not torch.cuda.is_available():
        print("gpu: no GPU here, section left out\n")
        return
    print(f"{torch.cuda.get_device_name()}\n")
    for half in (False, True):
        for batch in options.gpu_batch:
            x, y = data(options, batch, "cuda")
            names = [name for name in NETWORKS if name != "published"]
            nets = {name: network(name, options, "cuda") for name in names}
            if not options.smoke:
                nets["L, compiled"] = torch.compile(
                    network("L, layers", options, "cuda"), fullgraph=True
                )  # type: ignore[assignment]
            calls = {name: training_step(net, x, y, half)[1] for name, net in nets.items()}
            peak = {}
            for name, call in calls.items():
                call()
                torch.cuda.reset_peak_memory_stats()
                held = torch.cuda.memory_allocated()
                call()
                peak[name] = f"{(torch.cuda.max_memory_allocated() - held) / 2**20:.0f}"
            times = race(calls, options.rounds, "cuda")
            title = f"GPU, {'bfloat16 autocast' if half else 'float32'}, batch {batch}"
            show(title, times, "E", **{"peak MiB": peak})
    formats(options, "cuda")


SECTIONS = {
    section.__name__: section
    for section in (step, layers, inference, autocast, formats, memory, arithmetic, gpu)
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--gpu-batch", type=int, nargs="+", default=[128])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--no-published", action="store_true", help="leave the slow row out")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: only that it runs")
    options = parser.parse_args()
    if options.smoke:
        options.batch, options.gpu_batch, options.rounds, options.width = [4], [4], 1, 4
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    print(
        f"torch {torch.__version__}, {options.threads} thread(s), {platform.machine()}, ResNet-18 "
        f"of width {options.width}, medians of {options.rounds} rounds\n"
    )
    for name in options.sections:
        SECTIONS[name](options)


if __name__ == "__main__":
    main()
