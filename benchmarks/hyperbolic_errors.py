"""Errors of Lorentz layers and networks in float32 and bfloat16 against float64."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lightning_priv import functional as fn
from lightning_priv.nn import HyperbolicResNet
from lightning_priv.nn.lorentz import LorentzBatchNorm2d


def norm_error(distance: float, spread: float, stable: bool | None) -> float:
    """Relative error of a float32 batch norm, 16 dimensions, 256 points around a far centre.

    Args:
        distance: of the centre from the origin, k = 1.
        spread: mean distance of the points from the centre, roughly.
        stable: one pass (False) or two (True) in float32, or what the layer does (None).
    """
    generator = torch.Generator().manual_seed(0)
    shape = {"generator": generator, "dtype": torch.float64}
    centre = fn.exp_map_origin(distance * F.normalize(torch.randn(16, **shape), dim=0))
    tangent = spread * torch.randn(256, 16, **shape) / 4
    s = fn.exp_map(
        centre,
        fn.parallel_transport(
            fn.to_point(torch.zeros(16).double()), centre, F.pad(tangent, (1, 0))
        ),
    )[:, 1:]
    s = s.float().double().mT.reshape(1, 16, 16, 16)  # what float32 holds of the points
    norm = LorentzBatchNorm2d(16)
    want = LorentzBatchNorm2d(16, stable=True).double()(s)
    points = s.float()
    if stable is None:
        got = norm(points)
    else:
        flat = points.flatten(2)
        mean = fn.lorentz_channel_mean(flat)
        got, _ = fn.lorentz_normalize(flat, mean, norm.beta[1:], norm.gamma, stable=stable)
        got = got.view_as(points)
    return float((got.double() - want).norm() / want.norm())


def logits_errors(
    variant: str, x: Tensor, classes: int, width: int, training: bool
) -> tuple[float, float]:
    """Relative errors of the logits at initialisation against float64: float32, bfloat16."""
    torch.manual_seed(0)
    net = HyperbolicResNet(18, classes, variant, width=width)  # type: ignore[arg-type]
    for module in net.modules():
        if isinstance(module, (LorentzBatchNorm2d, nn.BatchNorm2d)):
            module.momentum = 1.0  # running statistics are those of the first batch
    with torch.no_grad():
        net(x)
        net.train(training)
        single = net(x).double()
        with torch.autocast("cpu", torch.bfloat16):
            half = net(x).double()
        want = net.double()(x.double())
    scale = want.norm()
    return float((single - want).norm() / scale), float((half - want).norm() / scale)
