"""One autograd Function for convolution + batch norm (+ shortcut) (+ ReLU) in space components.

Written out, the layers keep many full-size tensors for the backward pass and walk over them again
and again. The scalar structure of the boost form (``functional/lorentz_norm.py``) allows an
analytic backward pass that keeps only the input x, the convolution's output z, the result y (x and
y are shared with the neighbouring layers) and four numbers for each position: what a Euclidean
conv + batch norm + ReLU keeps. Every step below is a plain tensor operation; the derivation stands
beside it. Equality with autograd of the separate layers is tested in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lightning_priv.errors import OffManifoldError
from lightning_priv.functional.lorentz_norm import FAR_OUT
from lightning_priv.functional.window import window_sum, window_sum_transpose
from lightning_priv.nn.lorentz._fused_parts import (
    MAX_RADIUS,
    TINY,
    Radial,
    Scalars,
    add,
    add_product,
    centroids_backward,
    inverse_length,
    radial_backward,
    read,
    read_all,
)

__all__ = ["FarFromOriginError", "FusedSpec", "fused_conv_norm"]


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
        one = x.new_ones(())
        # convolution with its time term
        z = _convolve(x, weight, bias, spec)
        buffer = torch.empty_like(z)  # for squares, and then the result
        time = add(_window_squares(x, spec, buffer), one, k).sqrt_()
        z.addcmul_(time, time_weight.view(-1, 1, 1))
        shape = z.shape
        z, buffer = z.flatten(2), buffer.flatten(2)
        p2 = torch.mul(z, z, out=buffer).sum(1, keepdim=True)
        t = add(p2, one, k).sqrt_()

        # centroid of the images' centroids, and the numbers of the layer
        inner, inner_t = z.mean(2), t.mean(2)
        inverse = inverse_length(inner, inner_t, k)
        inner, inner_t = inner.mul_(inverse), inner_t.mul_(inverse)
        beta = beta[1:]
        mean, sc = _mean(inner.sum(0), inner_t.sum(), len(z), beta, spec)
        rows = torch.stack([mean, beta])
        dots = torch.bmm(rows.expand(len(z), -1, -1), z)
        m_dot, b_dot = dots.chunk(2, 1)
        # boost s' = z + c m with tau = -r c, x = |s'|/r, A = asinh(x) the distance to the mean / r
        tau = add(t, m_dot, -1 / (r + sc.mu0))
        u = add_product(p2, tau, m_dot, -2 / r)
        u = add_product(u, tau, tau, sc.mm / k, out=u)
        if k != 1:
            u.div_(k)
        x_ = u.clamp_min_(TINY**2).sqrt_()
        angle = x_.asinh()
        mean_angle = angle.mean()
        sc.denominator = read(mean_angle) * r + spec.eps
        sc.gain = read(gamma) / sc.denominator
        sc.look_at(angle)
        rho = angle * sc.gain
        if not sc.plain:
            rho.clamp_(-MAX_RADIUS, MAX_RADIUS)
        sinh = rho.sinh_()
        h = sinh / x_  # exact for the smallest x
        cosh = torch.addcmul(one, sinh, sinh).sqrt_()
        b_prime = add(b_dot, tau, -sc.mb / r)
        e = add_product(cosh, h, b_prime, 1 / (r * (r + sc.b0)))

        # y = h z + (h c) m + e b (+ skip), in the buffer that held z^2
        if skip is None:
            y = torch.mul(z, h, out=buffer)
        else:
            y = torch.addcmul(skip.flatten(2), z, h, out=buffer)
        y.addcmul_(tau.mul_(h), mean[:, None], value=-1 / r).addcmul_(e, beta[:, None])
        y = y.view(shape)
        if spec.activation:
            y.relu_()

        ctx.spec, ctx.scalars = spec, sc
        ctx.save_for_backward(
            x, z, y if spec.activation else None, time, dots, t, x_, angle, h,
            inner, inner_t, inverse, rows, weight, time_weight, gamma,
        )  # fmt: skip
        spread = mean_angle.mul_(r).reshape(1)
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
        (
            x, z, y, time, dots, t, x_, angle, h, *image, rows, weight, time_weight, gamma,
        ) = ctx.saved_tensors  # fmt: skip
        k = spec.k
        r = k**0.5
        shape = gy.shape
        g = (torch.ops.aten.threshold_backward(gy, y, 0) if spec.activation else gy).flatten(2)
        batch = len(g)
        one = g.new_ones(())
        mean, beta = rows.unbind()
        m_dot, b_dot = dots.chunk(2, 1)
        tau = add(t, m_dot, -1 / (r + sc.mu0))
        sinh = h * x_
        cosh = torch.addcmul(one, sinh, sinh).sqrt_()
        root = torch.addcmul(one, x_, x_).sqrt_()
        b_prime = add(b_dot, tau, -sc.mb / r)
        inv_b = 1 / (r * (r + sc.b0))
        inv_m = 1 / (r * (r + sc.mu0))

        # y = h z - (h tau/r) m + e b
        buffer = g * z
        gh = buffer.sum(1, keepdim=True)
        gm_dot, ge = torch.bmm(rows.expand(batch, -1, -1), g).chunk(2, 1)
        gh = add_product(gh, tau, gm_dot, -1 / r, out=gh)
        # e = h b'/(r (r + b0)) + cosh(rho), b' = b.z - tau (m.b)/r
        gh = add_product(gh, ge, b_prime, inv_b, out=gh)
        h_ge = h * ge  # r (r + b0) times the gradient of b'
        w = add(gm_dot, ge, sc.mb * inv_b).mul_(h)  # -r times the gradient of tau
        # h and cosh(rho) depend on u = |s'|^2/k and, through the gain G, on the spread
        d, g_gain = radial_backward(Radial(x_, angle, h, cosh, root), gh, ge, sc, r)
        # k u = |z|^2 - (2/r) tau (m.z) + (|m|^2/k) tau^2
        d_tau = d * tau
        w = add_product(w, d, m_dot, 1 / k, out=w)
        w = add(w, d_tau, -sc.mm / (r * k))
        # tau = t - m.z/(r + mu0): the gradient of m.z is inv_m times
        gm = add(w, d_tau, -(r + sc.mu0) / k)

        # gradients of the mean and of beta (without the mean's own dependence on z)
        sums = [w * m_dot, d_tau * tau, h_ge * tau, h_ge * b_prime]
        w_m, dt_t, hge_t, hge_b = read_all([product.sum() for product in sums])
        along_m = (dt_t / k - inv_m**2 * r * k * w_m / sc.mu0) / k  # through |m|^2 and mu0
        along_b = -r * inv_b**2 * hge_b / sc.b0
        g_mb = -inv_b / r * hge_t
        e = add_product(cosh, h, b_prime, inv_b)
        tau_g, e_g = torch.bmm(torch.cat([tau * h, e], 1), g.mT).sum(0)
        gm_z, hge_z = torch.bmm(torch.cat([gm, h_ge], 1), z.mT).sum(0)
        g_mean = add(add(tau_g, gm_z, -r * inv_m), beta, -r * g_mb)  # times -r
        g_mean = add(g_mean, mean, -r * along_m)
        g_beta = add(add(add(e_g, hge_z, inv_b), mean, g_mb), beta, along_b)

        # mean of images' centroids, then each centroid, back to the averages of z and t
        factor = -1 / (r * g.shape[2])
        g_image_s, minus_g_image_t = centroids_backward(g_mean, mean, image, sc, k, factor)
        # minus the factor of z: t and u depend on |z|^2
        gp2 = add(minus_g_image_t.unsqueeze(2), w, 1 / r).div_(t)
        gp2 = add(gp2, d, -1 / k)

        # gradient of z, in one buffer
        gz = torch.addcmul(g_image_s.unsqueeze(2), g, h, out=buffer)
        gz.addcmul_(gp2, z, value=-1)
        gz = add_product(gz, gm, mean[:, None], inv_m, out=gz)
        gz = add_product(gz, h_ge, beta[:, None], inv_b, out=gz)

        # z = conv(x) + bias + w_t T
        flat_time = time.flatten(2)
        parts = torch.cat([flat_time, one.expand_as(flat_time)], 1)
        g_time_weight, g_bias = torch.bmm(parts, gz.mT).sum(0)
        gx, g_weight = _convolve_backward(gz.view(shape), x, weight, ctx.needs_input_grad, spec)
        if gx is not None:
            g_time = torch.bmm(time_weight.expand(batch, 1, -1), gz).view(time.shape)
            _add_window_squares_backward(gx, x, g_time.div_(time), spec)
        return (
            gx,
            g_weight,
            g_time_weight,
            g_bias if ctx.needs_input_grad[3] else None,
            torch.cat([g_beta.new_zeros(1), g_beta]),
            gamma.new_full((1,), g_gain / sc.denominator),
            g.view(shape) if ctx.needs_input_grad[6] else None,
            None,
        )


def _mean(
    total: Tensor, total_t: Tensor, count: int, beta: Tensor, spec: FusedSpec
) -> tuple[Tensor, Scalars]:
    """The mean from the sum of ``count`` centroids of length 1, and what follows from it."""
    ss, st, tt = read_all([total.dot(total), total.dot(beta), total_t])
    bb = read(beta.dot(beta))
    squared = tt * tt - ss
    # at least count^2 but for rounding; ``inf - inf`` is noticed below
    squared = (
        max(squared, float(count) ** 2)
        if isinstance(squared, float)
        else squared.clamp_min(float(count) ** 2)
    )
    length = (spec.k / squared) ** 0.5
    mm = ss * length * length
    if not spec.always_one_pass:
        size = float(mm)
        if size != size or size == float("inf"):
            raise OffManifoldError(
                "the input of a Lorentz convolution and batch norm led to NaN or infinite values; "
                "check the input data, lower the learning rate or clip the gradients"
            )
        if size > FAR_OUT**2 * spec.k:
            raise FarFromOriginError
    mu0, b0 = (mm + spec.k) ** 0.5, (bb + spec.k) ** 0.5
    return total * length, Scalars(mm, bb, st * length, mu0, b0, length)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, spec: FusedSpec) -> Tensor:
    geometry = (spec.stride, spec.padding, spec.dilation)
    if spec.conv_dtype is None:
        return F.conv2d(x, weight, bias, *geometry)
    # everything but the product of patches and weights stays in float32
    half = spec.conv_dtype
    z = F.conv2d(x.to(half), weight.to(half), None, *geometry).to(x.dtype)
    return z if bias is None else z.add_(bias[:, None, None])


def _convolve_backward(
    gz: Tensor, x: Tensor, weight: Tensor, needs: Sequence[bool], spec: FusedSpec
) -> tuple[Tensor | None, Tensor | None]:
    operands = [gz, x, weight]
    if spec.conv_dtype is not None:
        operands = [v.to(spec.conv_dtype) for v in operands]
    gx, g_weight, _ = torch.ops.aten.convolution_backward(
        *operands, None, spec.stride, spec.padding, spec.dilation, False, [0, 0], 1,
        [needs[0], needs[1], False],
    )  # fmt: skip
    return (
        None if gx is None else gx.to(x.dtype),
        None if g_weight is None else g_weight.to(weight.dtype),
    )


def _pointwise(spec: FusedSpec) -> bool:
    return spec.kernel_size == (1, 1) and spec.padding == (0, 0)


def _read_positions(x: Tensor, spec: FusedSpec) -> Tensor:
    """View of the positions that a convolution with window 1 reads."""
    return x[:, :, :: spec.stride[0], :: spec.stride[1]]


def _window_squares(x: Tensor, spec: FusedSpec, buffer: Tensor) -> Tensor:
    """Sum of |x|^2 over the window of each output position, shape (B, 1, H', W').

    A ``buffer`` that is large enough holds the squares: fresh memory costs more than the squares.
    """
    if _pointwise(spec):
        x = _read_positions(x, spec)
    fits = buffer.is_contiguous() and x.numel() <= buffer.numel()
    squares = buffer.view(-1)[: x.numel()].view(x.shape) if fits else torch.empty_like(x)
    q = torch.mul(x, x, out=squares).sum(1, keepdim=True)
    if _pointwise(spec):
        return q
    return window_sum(q, spec.kernel_size, spec.stride, spec.padding, spec.dilation)


def _add_window_squares_backward(gx: Tensor, x: Tensor, g: Tensor, spec: FusedSpec) -> None:
    """Add x times the sum of g over the windows that read a position, to gx in place.

    d(sum |x|^2)/dx = 2 x and dT/d(sum) = 1/(2 T): for ``g`` = (gradient of T)/T that is the
    gradient of x through T.
    """
    if _pointwise(spec):
        _read_positions(gx, spec).addcmul_(_read_positions(x, spec), g)
        return
    gx.addcmul_(
        x,
        window_sum_transpose(
            g, (x.shape[2], x.shape[3]), spec.kernel_size, spec.stride, spec.padding, spec.dilation
        ),
    )
