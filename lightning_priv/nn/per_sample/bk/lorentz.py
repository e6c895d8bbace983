"""Lorentz layers: linear maps with one more input, the time component, which has its own weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_priv.functional._stable import asinhc, root, safe_sqrt, sinhc
from lightning_priv.functional.hyperplane import hyperplane_response
from lightning_priv.functional.lorentz_norm import lorentz_image_mean
from lightning_priv.functional.window import window_sum
from lightning_priv.nn.lorentz import (
    LorentzConv1d,
    LorentzConv2d,
    LorentzGroupNorm,
    LorentzLinear,
    LorentzMLR,
)
from lightning_priv.nn.per_sample.bk.convolution import Convolution
from lightning_priv.nn.per_sample.bk.linear import summed
from lightning_priv.nn.per_sample.bk.parts import Dense, Part, Scope
from lightning_priv.nn.per_sample.bk.product import Product
from lightning_priv.nn.per_sample.bk.rules import Rule, Taken, input_of, trainable
from lightning_priv.nn.per_sample.bk.windows import Geometry
from lightning_priv.nn.per_sample.layers import Call, Layer

__all__ = ["LORENTZ_RULES"]

_MAX_RADIUS = 10.0  # as in lorentz_normalize


def _linear(layer: Layer, call: Call, gradients: Sequence[Tensor | None], scope: Scope) -> Taken:
    """For y = W s + b + w_t t,  t = sqrt(k + |s|^2)."""
    g = gradients[0]
    if g is None:
        return []
    module: Any = layer.module
    s = input_of(layer, call, g)
    parts: list[Part] = []
    if (weight := trainable(module, "weight")) is not None:
        parts.append(Product(weight, s, g, scope))
    if (bias := trainable(module, "bias")) is not None:
        parts.append(Dense(bias, summed(g), scope))
    if (time_weight := trainable(module, "time_weight")) is not None:
        time = (s.square().sum(-1, keepdim=True) + module.k).sqrt()
        parts.append(Dense(time_weight, summed(g * time), scope))
    return parts


def _convolution(
    layer: Layer, call: Call, gradients: Sequence[Tensor | None], scope: Scope
) -> Taken:
    """For y = conv(s, W, b) + w_t T,  T = sqrt(k + sum over the window of |s|^2)."""
    g = gradients[0]
    if g is None:
        return []
    module: Any = layer.module
    s = input_of(layer, call, g)
    if s.dim() != len(module.kernel_size) + 2:
        return None
    geometry = Geometry(
        module.kernel_size, module.stride, module.padding, module.dilation, module.groups
    )
    parts: list[Part] = []
    if (weight := trainable(module, "weight")) is not None:
        parts.append(Convolution(weight, s, g, geometry, scope))
    if (bias := trainable(module, "bias")) is not None:
        parts.append(Dense(bias, g.flatten(2).sum(2), scope))
    if (time_weight := trainable(module, "time_weight")) is not None:
        time = (_window_sums(module, s) + module.k).sqrt().flatten(2)
        by_group = g.flatten(2).unflatten(1, (module.groups, -1))
        products = torch.einsum("bgpt,bgt->bgp", by_group, time)
        parts.append(Dense(time_weight, products.flatten(1), scope))
    return parts


def _window_sums(module: Any, s: Tensor) -> Tensor:
    """Sum of |s|^2 over each window, for each group of channels."""
    squares = module._squares(s)
    sizes = (module.kernel_size, module.stride, module.padding, module.dilation)
    if s.dim() == 4:
        return window_sum(squares, *sizes)
    as_plane = [(v, *size) for v, size in zip((1, 1, 0, 1), sizes, strict=True)]
    return window_sum(squares.unsqueeze(2), *as_plane).squeeze(2)


def _group_norm(
    layer: Layer, call: Call, gradients: Sequence[Tensor | None], scope: Scope
) -> Taken:
    """The formula of ``lorentz_normalize``, two-pass form, differentiated by beta and gamma.

    y = h s' + e b,  rho = gamma rho_1,  h = r sinh(rho)/|s'|,
    e = h (b.s')/(r (r + t_b)) + cosh(rho),  t_b = sqrt(k + |b|^2);
    the centred point s' and rho_1 depend on neither.
    """
    gy = gradients[0]
    if gy is None:
        return []
    module: Any = layer.module
    x = input_of(layer, call, gy)
    points, gy = (v.flatten(2) if v.dim() > 2 else v.unsqueeze(2) for v in (x, gy))
    k, r, b = module.k, root(module.k), module.beta_space.detach()[:, None]
    one = points.shape[2] == 1
    mean = torch.zeros_like(points[:, :, :1])
    if not one:
        mean = lorentz_image_mean(points, k)[..., None]
    t = (points.square().sum(1, keepdim=True) + k).sqrt()
    t_m = (mean.square().sum(1, keepdim=True) + k).sqrt()
    ds = points - mean
    dt = (ds * (points + mean)).sum(1, keepdim=True) / (t + t_m)
    one_plus_c = ((mean * ds).sum(1, keepdim=True) - (r + t_m) * dt) / (r * (r + t_m))
    s = torch.addcmul(ds, one_plus_c, mean)
    q = s.square().sum(1, keepdim=True)
    reach, length = asinhc(q / k), safe_sqrt(q)
    distance = length * reach
    if module.gamma is None:
        scale, gamma = torch.ones_like(mean[:, :1]), 1.0
    elif module.variance == "frechet":
        scale = (distance.square().mean(2, keepdim=True) + module.eps).rsqrt()
        gamma = module.gamma.detach()
    else:
        scale = 1 / (distance.mean(2, keepdim=True) + module.eps)
        gamma = module.gamma.detach()
    unit = distance * scale / r  # rho_1
    free = unit * gamma
    rho = free.clamp(-_MAX_RADIUS, _MAX_RADIUS)
    cut = rho != free
    cosh, sinh = rho.cosh(), rho.sinh()
    h = torch.where(
        cut, r * sinh / torch.where(cut, length, 1.0), gamma * scale * reach * sinhc(rho.square())
    )
    t_b = (b.square().sum() + k).sqrt()
    inverse = 1 / (r * (r + t_b))
    b_dot = (b * s).sum(1, keepdim=True)
    e = h * b_dot * inverse + cosh
    gs, gb = (gy * s).sum(1, keepdim=True), (gy * b).sum(1, keepdim=True)
    parts: list[Part] = []
    if (beta := trainable(module, "beta")) is not None:
        g_beta = (e * gy + gb * h * inverse * s).sum(2)
        # through t_b: d(1/(r (r + t_b)))/db = -r inverse^2 b / t_b
        g_beta = g_beta - (gb * h * b_dot).sum(2) * (r * inverse**2 / t_b) * b.T
        if not module.trivialize_beta:  # the time component is not read
            g_beta = torch.nn.functional.pad(g_beta, (1, 0))
        parts.append(Dense(beta, g_beta, scope))
    if (own := trainable(module, "gamma")) is not None:
        dh = scale * reach * cosh  # r cosh(rho) rho_1 / |s'|
        g_gamma = (gs + gb * b_dot * inverse) * dh + gb * sinh * unit
        parts.append(Dense(own, torch.where(cut, 0, g_gamma).sum(2), scope))
    return parts


def _mlr(layer: Layer, call: Call, gradients: Sequence[Tensor | None], scope: Scope) -> Taken:
    """Logits depend on z.s, |z| and the offsets: one gradient each, for every logit."""
    g = gradients[0]
    if g is None:
        return []
    module: Any = layer.module
    s = input_of(layer, call, g)
    s, g = s.reshape(len(s), -1, s.shape[-1]), g.reshape(len(g), -1, g.shape[-1])
    normals, offsets = module.normals.detach(), module.offsets.detach()
    time = (s.square().sum(-1, keepdim=True) + module.k).sqrt()
    lengths = normals.norm(dim=-1)
    leaves = [s @ normals.mT, lengths.expand_as(g).clone(), offsets.expand_as(g).clone()]
    with torch.enable_grad():
        for leaf in leaves:
            leaf.requires_grad_()
        logits = hyperplane_response(leaves[0], time, leaves[1], leaves[2], module.k)
        by_product, by_length, by_offset = torch.autograd.grad(logits, leaves, g)
    parts: list[Part] = []
    if (own := trainable(module, "normals")) is not None:
        unit = normals / lengths.where(lengths > 0, 1.0)[:, None]
        by_normal = torch.bmm(by_product.mT, s) + by_length.sum(1)[..., None] * unit
        parts.append(Dense(own, by_normal, scope))
    if (own := trainable(module, "offsets")) is not None:
        parts.append(Dense(own, by_offset.sum(1), scope))
    return parts


def _euclidean_parameters(module: Any) -> bool:
    """A learnable k would need gradients of its own through every layer."""
    return not module.manifold.learnable


_CONVOLUTION = Rule(lambda m: _euclidean_parameters(m) and m.linear == "chen", _convolution)

LORENTZ_RULES: dict[type[nn.Module], Rule] = {
    LorentzLinear: Rule(
        lambda m: _euclidean_parameters(m) and m.linear == "chen" and not m.normalize, _linear
    ),
    LorentzConv1d: _CONVOLUTION,
    LorentzConv2d: _CONVOLUTION,
    LorentzGroupNorm: Rule(_euclidean_parameters, _group_norm),
    LorentzMLR: Rule(_euclidean_parameters, _mlr),
}
