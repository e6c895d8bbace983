"""The layers of the official HCNN code, written anew from their formulas on whole points.

Feature maps are channels last with the time entry first, states are dicts under the official names.
Only for float64 and moderate radii: nothing here guards against cancellation or 0/0.
"""

import math

import torch
from torch import Tensor

State = dict[str, Tensor]


def part(state: State, prefix: str) -> State:
    return {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}


def inner(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1, keepdim=True) - 2 * x[..., :1] * y[..., :1]


def with_time(s: Tensor, k: float) -> Tensor:
    return torch.cat([(s.square().sum(-1, keepdim=True) + k).sqrt(), s], -1)


def centroid(points: Tensor, k: float, weights: Tensor | None = None) -> Tensor:
    """Centroid over the last but one axis."""
    a = points.mean(-2) if weights is None else (weights[:, None] * points).sum(-2)
    return math.sqrt(k) * a / inner(a, a).abs().sqrt()


def log_map(x: Tensor, y: Tensor, k: float) -> Tensor:
    w = y + inner(x, y) * x / k
    return math.sqrt(k) * torch.acosh(-inner(x, y) / k) * w / inner(w, w).sqrt()


def exp_map(x: Tensor, u: Tensor, k: float) -> Tensor:
    r = math.sqrt(k)
    n = inner(u, u).sqrt()
    a = (n / r).clamp_max(10.0)
    y = a.cosh() * x + r * a.sinh() * u / n
    return with_time(y[..., 1:], k)


def transport(x: Tensor, y: Tensor, v: Tensor, k: float) -> Tensor:
    return v + inner(y, v) / (k - inner(x, y)) * (x + y)


def origin(x: Tensor, k: float) -> Tensor:
    return with_time(torch.zeros_like(x[..., 1:]), k)


def linear(x: Tensor, state: State, k: float, normalize: bool = False) -> Tensor:
    y = x @ state["weight.weight"].T
    if "weight.bias" in state:
        y = y + state["weight.bias"]
    if not normalize:
        return with_time(y[..., 1:], k)
    length = y[..., :1].sigmoid() * state["scale"].exp()
    s = length * y[..., 1:] / y[..., 1:].norm(dim=-1, keepdim=True)
    return torch.cat([(length.square() + k + 1e-5).sqrt(), s], -1)


def concatenated(window: list[Tensor], k: float, channels_outermost: bool = False) -> Tensor:
    """Direct concatenation of the points of a window."""
    times = sum(x[..., :1].square() for x in window) - (len(window) - 1) * k
    spaces = torch.stack([x[..., 1:] for x in window], -1 if channels_outermost else -2)
    return torch.cat([times.sqrt(), spaces.flatten(-2)], -1)


def padded(x: Tensor, margins: tuple[int, int], k: float) -> Tensor:
    """Origin points around a map (B, H, W, 1 + C)."""
    (ph, pw), (b, h, w, c) = margins, x.shape
    out = origin(x.new_zeros(b, h + 2 * ph, w + 2 * pw, c), k)
    out[:, ph : ph + h, pw : pw + w] = x
    return out


def conv2d(x: Tensor, state: State, k: float, kernel: int, stride: int, padding: int) -> Tensor:
    x = padded(x, (padding, padding), k)
    rows, columns = ((n - kernel) // stride + 1 for n in x.shape[1:3])
    window = [
        x[:, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride]
        for i in range(kernel)
        for j in range(kernel)
    ]
    return linear(concatenated(window, k), part(state, "linearized_kernel."), k)


def conv1d(x: Tensor, state: State, k: float, kernel: int, stride: int, padding: int) -> Tensor:
    x = padded(x[:, None], (0, padding), k)[:, 0]
    places = (x.shape[1] - kernel) // stride + 1
    window = [x[:, i : i + stride * (places - 1) + 1 : stride] for i in range(kernel)]
    return linear(concatenated(window, k, True), part(state, "linearized_kernel."), k)


def conv_transpose2d(
    x: Tensor, state: State, k: float, kernel: int, stride: int, padding: int, output_padding: int
) -> Tensor:
    b, h, w, c = x.shape
    stuffed = origin(x.new_zeros(b, stride * (h - 1) + 1, stride * (w - 1) + 1, c), k)
    stuffed[:, ::stride, ::stride] = x
    y = conv2d(stuffed, part(state, "conv."), k, kernel, 1, kernel - 1 - padding)
    b, h, w, c = y.shape
    out = origin(y.new_zeros(b, h + output_padding, w + output_padding, c), k)
    out[:, :h, :w] = y
    return out


def batch_norm(x: Tensor, state: State, k: float, training: bool) -> Tensor:
    if training:
        images = x if x.dim() == 2 else centroid(x.flatten(1, 2), k)
        mean = centroid(images, k)
    else:
        mean = exp_map(origin(state["beta"], k), state["running_mean"], k)
    v = transport(mean, origin(mean, k), log_map(mean, x, k), k)
    var = inner(v, v).sqrt().mean() if training else state["running_var"]
    v = v * state["gamma"] / (var + 1e-5)
    return exp_map(state["beta"], transport(origin(mean, k), state["beta"], v, k), k)


def relu(x: Tensor, k: float) -> Tensor:
    return with_time(x[..., 1:].relu(), k)


def mlr(x: Tensor, state: State, k: float) -> Tensor:
    r, a, z = math.sqrt(k), state["a"], state["z"]
    w_t = torch.sinh(a / r) * z.norm(dim=-1)
    w_s = torch.cosh(a / r)[:, None] * z
    beta = (w_s.norm(dim=-1).square() - w_t.square()).sqrt()
    alpha = x[..., 1:] @ w_s.T - w_t * x[..., :1]
    return alpha.sign() * beta * r * torch.asinh(alpha / (r * beta)).abs()


def block(x: Tensor, state: State, k: float, stride: int, training: bool) -> Tensor:
    """Basic or bottleneck block, by the names that are there."""
    if any(name.startswith("conv.6.") for name in state):
        shapes = [(1, 1, 0), (3, stride, 1), (1, 1, 0)]
    else:
        shapes = [(3, stride, 1), (3, 1, 1)]
    y = x
    for index, shape in enumerate(shapes):
        y = conv2d(y, part(state, f"conv.{3 * index}."), k, *shape)
        y = batch_norm(y, part(state, f"conv.{3 * index + 1}."), k, training)
        if index < len(shapes) - 1:
            y = relu(y, k)
    if any(name.startswith("shortcut.") for name in state):
        x = conv2d(x, part(state, "shortcut.0."), k, 1, stride, 0)
        x = batch_norm(x, part(state, "shortcut.1."), k, training)
    return relu(with_time(x[..., 1:] + y[..., 1:], k), k)


def network(images: Tensor, state: State, k: float, training: bool) -> Tensor:
    """Lorentz ResNet from images, channels first, to logits."""
    encoder = part(state, "encoder.")
    x = with_time(images.permute(0, 2, 3, 1), k)
    x = conv2d(x, part(encoder, "conv1.conv.0."), k, 3, 1, 1)
    x = relu(batch_norm(x, part(encoder, "conv1.conv.1."), k, training), k)
    for stage in range(4):
        blocks = part(encoder, f"conv{stage + 2}_x.")
        for index in sorted({int(name.split(".")[0]) for name in blocks}):
            stride = 2 if stage > 0 and index == 0 else 1
            x = block(x, part(blocks, f"{index}."), k, stride, training)
    return mlr(centroid(x.flatten(1, 2), k), part(state, "decoder."), k)
