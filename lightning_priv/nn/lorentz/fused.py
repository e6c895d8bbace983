"""One autograd Function for convolution + batch norm (+ shortcut) (+ ReLU) in space components.

Written out, the layers keep many full-size tensors for the backward pass and walk over them again
and again. The scalar structure of the boost form (``functional/lorentz_norm.py``) allows an
analytic backward pass that keeps only the input x, the convolution's output z, the result y (x and
y are shared with the neighbouring layers) and four numbers for each position: what a Euclidean
conv + batch norm + ReLU keeps. Every step below is a plain tensor operation; the derivation stands
beside it. Equality with autograd of the separate layers is tested in float64.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lightning_priv.errors import OffManifoldError
from lightning_priv.functional.lorentz_norm import FAR_OUT
from lightning_priv.functional.window import window_sum, window_sum_transpose

__all__ = ["FarFromOriginError", "FusedSpec", "fused_conv_norm"]

_MAX_RADIUS = 10.0  # as in lorentz_normalize
_TINY = 1e-18  # smallest x = |s'|/r; its square is a normal float32 number


class FarFromOriginError(ArithmeticError):
    """The mean lies so far out that this one-pass form would lose digits; nothing was changed."""


@dataclass(frozen=True, slots=True)
class FusedSpec:
    """What is not a tensor: curvature, epsilon, geometry of the convolution, ReLU or not."""

    k: float
    eps: float
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    activation: bool
    always_one_pass: bool = False
    conv_dtype: torch.dtype | None = None  # of the convolution alone, under autocast


def fused_conv_norm(
    x: Tensor,
    weight: Tensor,
    time_weight: Tensor,
    bias: Tensor | None,
    beta: Tensor,
    gamma: Tensor,
    skip: Tensor | None,
    spec: FusedSpec,
) -> tuple[Tensor, Tensor, Tensor]:
    """relu( batch_norm( lorentz_conv(x) ) + skip ) in training mode.

    Args:
        x: space components, shape (B, C_in, H, W).
        weight: shape (C_out, C_in, kh, kw).
        time_weight: shape (C_out,).
        bias: shape (C_out,) or None.
        beta: the new centre, a point of shape (1 + C_out,); its time entry is not read.
        gamma: target spread, shape (1,).
        skip: added before the ReLU, shape of the output, or None.
        spec: everything else.

    Returns:
        The output, shape (B, C_out, H', W'), and, without gradient, the batch mean (C_out,) and
        the spread (1,) for the running statistics.

    Raises:
        FarFromOriginError: if the mean's space norm exceeds 2 sqrt(k); call the separate layers.
        OffManifoldError: if the convolution's output holds NaN or infinite values.
    """
    return _FusedConvNorm.apply(x, weight, time_weight, bias, beta, gamma, skip, spec)


def _sums(q: Tensor, spec: FusedSpec) -> Tensor:
    return window_sum(q, spec.kernel_size, spec.stride, spec.padding, spec.dilation)


@dataclass(slots=True)
class _Scalars:
    """Numbers of one layer: floats on the CPU (no tiny kernels), scalar tensors elsewhere."""

    mm: Any  # |m|^2
    bb: Any  # |b|^2
    mb: Any  # m.b
    mu0: Any  # time of the mean
    b0: Any  # time of beta
    length: Any  # f with mean = f * (average of the images' centroids)
    gain: Any = 0.0  # G = gamma / (spread + eps)
    denominator: Any = 1.0  # spread + eps


def _read(values: Tensor) -> list[Any]:
    return values.tolist() if values.device.type == "cpu" else list(values.unbind())


def _scalars(mean: Tensor, beta: Tensor, length: Tensor, spec: FusedSpec) -> _Scalars:
    products = [mean.dot(mean), beta.dot(beta), mean.dot(beta), length[0]]
    mm, bb, mb, length_ = _read(torch.stack(products))
    if not spec.always_one_pass:
        size = float(mm)
        if size != size or size == float("inf"):
            raise OffManifoldError(
                "the input of a Lorentz convolution and batch norm led to NaN or infinite values; "
                "check the input data, lower the learning rate or clip the gradients"
            )
        if size > FAR_OUT**2 * spec.k:
            raise FarFromOriginError
    return _Scalars(mm, bb, mb, (mm + spec.k) ** 0.5, (bb + spec.k) ** 0.5, length_)


class _FusedConvNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        time_weight: Tensor,
        bias: Tensor | None,
        beta: Tensor,
        gamma: Tensor,
        skip: Tensor | None,
        spec: FusedSpec,
    ) -> tuple[Tensor, Tensor, Tensor]:
        k = spec.k
        r = k**0.5
        # convolution with its time term
        time = (_sums(x.square().sum(1, keepdim=True), spec) + k).sqrt_()
        geometry = (spec.stride, spec.padding, spec.dilation)
        if spec.conv_dtype is None:
            z = F.conv2d(x, weight, bias, *geometry)
        else:  # everything but the product of patches and weights stays in float32
            half = spec.conv_dtype
            z = F.conv2d(x.to(half), weight.to(half), None, *geometry).to(x.dtype)
            if bias is not None:
                z.add_(bias[:, None, None])
        z.addcmul_(time, time_weight[:, None, None])
        shape = z.shape
        z = z.flatten(2)
        buffer = z * z
        p2 = buffer.sum(1, keepdim=True)
        t = (p2 + k).sqrt_()

        # centroid of the images' centroids
        image_s, image_t = z.mean(2), t.mean(2)
        inner_length = _inverse_length(image_s, image_t, r)
        inner = image_s * inner_length
        inner_t = (inner.square().sum(1, keepdim=True) + k).sqrt_()
        total_s, total_t = inner.mean(0), inner_t.mean()
        length = _inverse_length(total_s, total_t, r)
        mean = total_s * length

        beta = beta[1:]
        sc = _scalars(mean, beta, length, spec)
        dots = torch.bmm(torch.stack([mean, beta]).expand(len(z), -1, -1), z)
        m_dot, b_dot = dots[:, :1], dots[:, 1:]
        # boost s' = z + c m, x = |s'|/r, A = asinh(x) the distance to the mean in units of r
        c = (m_dot / (r * (r + sc.mu0))).sub_(t, alpha=1 / r)
        x_ = (c * sc.mm).add_(m_dot, alpha=2).mul_(c).add_(p2)
        x_ = x_.div_(k).clamp_min_(_TINY**2).sqrt_()
        angle = torch.asinh(x_)
        spread = angle.mean().mul_(r).reshape(1)
        gamma_value, spread_value = _read(torch.cat([gamma, spread]))
        sc.denominator = spread_value + spec.eps
        sc.gain = gamma_value / sc.denominator
        rho = (angle * sc.gain).clamp_(-_MAX_RADIUS, _MAX_RADIUS)
        h = rho.sinh().div_(x_)  # exact for the smallest x
        e = (c * sc.mb).add_(b_dot).mul_(h).div_(r * (r + sc.b0)).add_(rho.cosh())

        # rank-two update, in the buffer that held z^2
        y = torch.mul(z, h, out=buffer)
        y.addcmul_(c.mul_(h), mean[:, None]).addcmul_(e, beta[:, None])
        y = y.view(shape)
        if skip is not None:
            y.add_(skip)
        if spec.activation:
            y.relu_()

        ctx.spec, ctx.scalars, ctx.has_skip, ctx.has_bias = (
            spec, sc, skip is not None, bias is not None,
        )  # fmt: skip
        pixel = torch.cat([dots, t, x_, angle, h], dim=1)
        image = torch.cat([inner, inner_t, inner_length], dim=1)
        ctx.save_for_backward(
            x, z, y if spec.activation else None, time, pixel, image, mean, weight, time_weight,
            beta, gamma,
        )  # fmt: skip
        ctx.mark_non_differentiable(mean, spread)
        ctx.set_materialize_grads(False)
        return y, mean, spread

    @staticmethod
    def backward(ctx: Any, gy: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if gy is None:
            return (None,) * 8
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError(
                "the fused Lorentz unit has no second derivative; build it with fused=False"
            )
        spec, sc = ctx.spec, ctx.scalars
        x, z, y, time, pixel, image, mean, weight, time_weight, beta, gamma = ctx.saved_tensors
        k = spec.k
        r = k**0.5
        shape = gy.shape
        g = (torch.ops.aten.threshold_backward(gy, y, 0) if spec.activation else gy).flatten(2)
        batch, positions = g.shape[0], g.shape[2]
        m_dot, b_dot, t, x_, angle, h = pixel.split(1, dim=1)
        c = (m_dot / (r * (r + sc.mu0))).sub_(t, alpha=1 / r)
        hc = h * c
        rho = (angle * sc.gain).clamp_(-_MAX_RADIUS, _MAX_RADIUS)
        cosh = rho.cosh()

        # y = h z + (h c) m + e b
        buffer = g * z
        gh = buffer.sum(1, keepdim=True)
        g_dots = torch.bmm(torch.stack([mean, beta]).expand(batch, -1, -1), g)
        gm_dot, ge = g_dots[:, :1], g_dots[:, 1:]
        gh = gh + c * gm_dot
        gc = h * gm_dot
        # e = h b'/(r (r + b0)) + cosh(rho), b' = b.z + c (m.b)
        inv_b = 1 / (r * (r + sc.b0))
        b_prime = b_dot + c * sc.mb
        gh = gh + ge * (b_prime * inv_b)
        gb_dot = ge * (h * inv_b)
        gc = gc + gb_dot * sc.mb
        g_mb = (gb_dot * c).sum()
        g_inv_b = (ge * h * b_prime).sum()
        # h and cosh(rho) depend on u = |s'|^2/k and, through the gain G, on the spread:
        # dh/dG = cosh(rho) A/x, dcosh(rho)/dG = sinh(rho) A = h x A
        dh_du, dcosh_du = _radial_derivatives(x_, sc.gain, h, cosh)
        gu = gh * dh_du + ge * dcosh_du
        d_gain = (gh * (cosh / x_) + ge * (h * x_)) * angle
        cut = rho.abs() == _MAX_RADIUS
        if cut.device.type != "cpu" or cut.any():  # there h = const/x, cosh = const
            gu = torch.where(cut, gh * h / (-2 * x_ * x_), gu)
            d_gain = torch.where(cut, 0.0, d_gain)
        g_gain = _read(d_gain.sum().reshape(1))[0]
        g_spread = -g_gain * sc.gain / sc.denominator
        # spread = r mean(A), dA/du = 1/(2 x sqrt(1 + u)); the kink at x = 0 has subgradient 0
        slope = (x_ * x_ + 1).sqrt_().mul_(x_).reciprocal_().mul_(x_ > _TINY)
        gu = gu + slope * (g_spread * (0.5 * r / (batch * positions)))
        gn2 = gu / k
        # N = |z|^2 + c (2 m.z + c |m|^2)
        gm_dot_total = 2 * c * gn2
        gc = gc + gn2 * (2 * m_dot + 2 * c * sc.mm)
        g_mm = (gn2 * c.square()).sum()
        # c = m.z / (r (r + mu0)) - t/r
        inv_m = 1 / (r * (r + sc.mu0))
        gm_dot_total = gm_dot_total + gc * inv_m
        gt = gc * (-1 / r)
        g_mm = g_mm - (gc * m_dot).sum() * (r * inv_m**2 / (2 * sc.mu0))

        # gradients of the mean and of beta (without the mean's own dependence on z)
        e = h * b_prime * inv_b + cosh
        from_g = torch.bmm(torch.cat([hc, e], 1), g.mT)
        from_z = torch.bmm(torch.cat([gm_dot_total, gb_dot], 1), z.mT)
        g_mean, g_beta = (from_g + from_z).sum(0)
        g_mean = g_mean + g_mb * beta + 2 * g_mm * mean
        g_beta = g_beta + g_mb * mean - (g_inv_b * (r * inv_b**2 / sc.b0)) * beta

        # mean of images' centroids, then each centroid, back to sums over z and t
        g_image_s, g_image_t = _centroids_backward(g_mean, mean, image, sc, k)
        gt = gt + (g_image_t / positions).unsqueeze(2)
        gp2 = gn2 + gt / (2 * t)

        # gradient of z, in one buffer
        gz = torch.mul(g, h, out=buffer)
        gz.addcmul_(2 * gp2, z).addcmul_(gm_dot_total, mean[:, None])
        gz.addcmul_(gb_dot, beta[:, None]).add_((g_image_s / positions).unsqueeze(2))

        # z = conv(x) + bias + w_t T
        flat_time = time.flatten(2)
        rows = torch.cat([flat_time, torch.ones_like(flat_time)], 1)
        g_time_weight, g_bias = torch.bmm(rows, gz.mT).sum(0)
        g_time = torch.bmm(time_weight.expand(batch, 1, -1), gz).view(time.shape)
        operands = [gz.view(shape), x, weight]
        if spec.conv_dtype is not None:
            operands = [v.to(spec.conv_dtype) for v in operands]
        gx, g_weight, _ = torch.ops.aten.convolution_backward(
            *operands, None, spec.stride, spec.padding, spec.dilation, False, [0, 0], 1,
            [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False],
        )  # fmt: skip
        if g_weight is not None:
            g_weight = g_weight.to(weight.dtype)
        if ctx.needs_input_grad[0]:
            gq = window_sum_transpose(
                g_time.div_(time), tuple(x.shape[2:]), spec.kernel_size, spec.stride, spec.padding,
                spec.dilation,
            )  # fmt: skip
            # d(sum q)/dx = 2 x, dT/dq = 1/(2 T)
            gx = gx.to(x.dtype).addcmul_(x, gq)
        return (
            gx,
            g_weight,
            g_time_weight,
            g_bias if ctx.has_bias else None,
            torch.cat([g_beta.new_zeros(1), g_beta]),
            torch.as_tensor(
                g_gain / sc.denominator, dtype=gamma.dtype, device=gamma.device
            ).reshape(1),
            g.view(shape) if ctx.has_skip else None,
            None,
        )


def _inverse_length(s: Tensor, t: Tensor, r: float) -> Tensor:
    """R / sqrt(t^2 - |s|^2) of the sums of a centroid."""
    # the floor is that of centroid_space
    return (t.square() - s.square().sum(-1, keepdim=True)).clamp_min_(r * r).rsqrt_().mul_(r)


def _radial_derivatives(x: Tensor, gain: Any, h: Tensor, cosh: Tensor) -> tuple[Tensor, Tensor]:
    """dh/du and dcosh(rho)/du at fixed gain G, with u = x^2, h = sinh(G asinh(x))/x.

    dh/du = (G cosh(rho)/sqrt(1 + u) - h)/(2u), a difference of equal numbers at u -> 0: there the
    series h = G (1 + (G^2-1) u/3! + (G^2-1)(G^2-9) u^2/5! + ...) is used.
    """
    u = x * x
    g2 = gain * gain
    root = (u + 1).sqrt_()
    exact = (cosh * gain).div_(root).sub_(h).div_(u).mul_(0.5)
    a1 = gain * (g2 - 1) / 6
    a2 = a1 * (g2 - 9) / 20
    a3 = a2 * (g2 - 25) / 42
    a4 = a3 * (g2 - 49) / 72
    series = (u * (4 * a4) + 3 * a3).mul_(u).add_(2 * a2).mul_(u).add_(a1)
    near = u * (1 + g2) < 1e-3
    return torch.where(near, series, exact), h / root * (0.5 * gain)


def _centroids_backward(
    g_mean: Tensor, mean: Tensor, image: Tensor, sc: _Scalars, k: float
) -> tuple[Tensor, Tensor]:
    """Gradient of the mean, shape (C,), to each image's averages of s (B, C) and of t (B, 1).

    For m = f a, f = r/sqrt(a_t^2 - |a|^2), with time m_t = f a_t:
    ga = f (gm + (gm.m/k) m) and ga_t = -(gm.m/k) f m_t. Applied to the mean of the centroids, then,
    with the derivative m/m_t of the time of each centroid, to the centroids.
    """
    inner, inner_t, length = image[:, :-2], image[:, -2:-1], image[:, -1:]
    along = _read(g_mean.dot(mean).reshape(1))[0] / k
    share = sc.length / len(inner)
    g_inner = (g_mean + along * mean) * share - inner * (along * sc.mu0 * share / inner_t)
    along_i = (g_inner * inner).sum(1, keepdim=True) / k
    g_s = torch.addcmul(g_inner, along_i, inner).mul_(length)
    return g_s, -along_i * length * inner_t
