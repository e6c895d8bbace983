"""Cost of a training step of the fully hyperbolic ResNet-18 against the Euclidean one.

Prints CPU or GPU time of forward + backward, interleaved in one run, the ratio to E, and the bytes
that autograd keeps for the backward pass. Rows:

E           Euclidean ResNet-18 with in-place ReLU
L           Lorentz ResNet-18 as it trains by default: one autograd Function a unit
L, layers   the same network with separate layers (fused=False)
published   the layers as published: points with a time entry, channels last, unfolded windows,
            log, transport and exp in full; our transcription of the formulas, not the official code

    python benchmarks/bench_hyperbolic.py --batch 16 32 --rounds 9
"""

import argparse
import math
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lightning_priv import functional as fn
from lightning_priv.nn import HyperbolicResNet
from lightning_priv.nn.lorentz import LorentzBatchNorm2d, LorentzConv2d


class PublishedConv(nn.Module):
    """HCat of the unfolded receptive field, then one linear map of the whole point."""

    def __init__(self, ours: LorentzConv2d) -> None:
        super().__init__()
        self.ours = ours

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, 1 + C_in) to (B, H', W', 1 + C_out)."""
        conv = self.ours
        (kh, kw), p = conv.kernel_size, conv.padding[0]
        k = float(conv.manifold.value)
        x = F.pad(x, (0, 0, p, p, p, p))
        x = torch.cat([x[..., :1].clamp(min=math.sqrt(k)), x[..., 1:]], dim=-1)
        patches = x.unfold(1, kh, conv.stride[0]).unfold(2, kw, conv.stride[1])
        patches = patches.permute(0, 1, 2, 4, 5, 3)
        times = patches[..., 0].flatten(3)
        time_ = (times.square().sum(-1, keepdim=True) - (kh * kw - 1) * k).sqrt()
        flat = torch.cat([time_, patches[..., 1:].flatten(3)], dim=-1)
        weight = torch.cat(
            [conv.time_weight[:, None], conv.weight.permute(0, 2, 3, 1).flatten(1)], dim=1
        )
        return fn.to_point(F.linear(flat, weight, conv.bias), k)


class PublishedNorm(nn.Module):
    """Log at the mean, transport to the origin, rescale, transport to beta, exp."""

    def __init__(self, ours: LorentzBatchNorm2d) -> None:
        super().__init__()
        self.ours = ours

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, 1 + C) to the same shape."""
        norm, manifold = self.ours, self.ours.manifold
        k = float(manifold.value)
        mean = fn.lorentz_centroid(fn.lorentz_centroid(x.flatten(1, 2), k=k), k=k)
        v = manifold.transp0back(mean, manifold.logmap(mean, x))
        spread = v.norm(dim=-1).mean()
        v = manifold.transp0(norm.beta, v * (norm.gamma / (spread + norm.eps)))
        return manifold.expmap(norm.beta, v)


class PublishedUnit(nn.Module):
    """Convolution, norm, residual by space entries, ReLU, on points with a time entry."""

    def __init__(self, ours: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm = PublishedConv(ours.conv), PublishedNorm(ours.norm)
        self.activation = ours.activation

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Points to points."""
        y = self.norm(self.conv(x))
        s = y[..., 1:] if skip is None else y[..., 1:] + skip[..., 1:]
        if self.activation:
            s = s.relu()
        return fn.to_point(s)


def published(net: HyperbolicResNet) -> nn.Module:
    """The network with the layers as published, on the same parameters."""

    def convert(module: nn.Module) -> None:
        for name, child in module.named_children():
            if hasattr(child, "conv") and hasattr(child, "activation"):
                setattr(module, name, PublishedUnit(child))
            else:
                convert(child)

    encoder = net.encoder
    convert(encoder)

    class Published(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            points = fn.to_point(x.movedim(1, -1).contiguous())
            features = encoder.stages(encoder.stem(points))
            pooled = fn.lorentz_centroid(features.flatten(1, 2))
            return net.head(pooled[:, 1:])

    return Published()


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


def main() -> None:
    """Print one Markdown table for each batch size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--no-published", action="store_true")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: only that it runs")
    options = parser.parse_args()
    if options.smoke:
        options.batch, options.rounds, options.width = [4], 1, 4
    torch.set_num_threads(options.threads)
    on_gpu = options.device.startswith("cuda")

    def clock() -> float:
        if on_gpu:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def network(variant: str, fused: bool = True) -> HyperbolicResNet:
        torch.manual_seed(0)
        net = HyperbolicResNet(18, options.classes, variant, width=options.width, fused=fused)
        return net.to(options.device)

    rows: dict[str, nn.Module] = {
        "E": network("e"),
        "L": network("l"),
        "L, layers": network("l", fused=False),
    }
    if not options.no_published:
        rows["published"] = published(network("l"))
    print(
        f"torch {torch.__version__}, {options.device}, {options.threads} thread(s), "
        f"{platform.machine()}, median of {options.rounds} interleaved rounds\n"
    )
    for batch in options.batch:
        x = torch.randn(batch, 3, 32, 32, device=options.device)
        y = torch.randint(0, options.classes, (batch,), device=options.device)
        losses = {
            name: lambda net=net, x=x, y=y: F.cross_entropy(net(x), y) for name, net in rows.items()
        }
        reference = losses["L, layers"]().item()
        for name in ("L", *(["published"] if "published" in rows else [])):
            if not math.isclose(losses[name]().item(), reference, rel_tol=1e-3):
                raise SystemExit(f"{name} computes another function than the separate layers")
        saved = {name: saved_mebibytes(net, losses[name]) for name, net in rows.items()}
        times: dict[str, list[float]] = {name: [] for name in rows}
        for round_ in range(options.rounds + 1):
            for name, net in rows.items():
                start = clock()
                losses[name]().backward()
                if round_:  # the first is a warm-up
                    times[name].append(clock() - start)
                net.zero_grad()
        print(f"batch {batch} | ms | spread (quartiles) | time / E | per round / E | MiB | MiB / E")
        print("--- | ---: | ---: | ---: | ---: | ---: | ---:")
        for name in rows:
            t, base = times[name], times["E"]
            paired = statistics.median(a / b for a, b in zip(t, base, strict=True))
            low, high = (torch.tensor(t).quantile(q).item() * 1e3 for q in (0.25, 0.75))
            print(
                f"{name} | {statistics.median(t) * 1e3:.0f} | {low:.0f}-{high:.0f} | "
                f"{statistics.median(t) / statistics.median(base):.2f} | {paired:.2f} | "
                f"{saved[name]:.1f} | {saved[name] / saved['E']:.2f}"
            )
        print()


if __name__ == "__main__":
    main()
