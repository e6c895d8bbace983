"""Leave-one-out information of a linear probe from its definition, dense and in float64.

Nothing is shared with the package: losses are torch's, Hessians come from automatic
differentiation over all C (d + 1) weights, fits are plain Newton steps, divergences use slogdet.
"""

import torch
from torch import Tensor
from torch.nn import functional


def probe_loss(w: Tensor, x: Tensor, y: Tensor, head: str, noise_variance: float = 1.0) -> Tensor:
    """Summed negative log-likelihood; w (C, d + 1), x (n, d + 1)."""
    z = x @ w.mT
    if head == "softmax":
        return functional.cross_entropy(z, y, reduction="sum")
    if head == "regression":
        return 0.5 * (z - y.view_as(z)).square().sum() / noise_variance
    return functional.binary_cross_entropy_with_logits(z, y.view_as(z).double(), reduction="sum")


def hessian(w: Tensor, x: Tensor, y: Tensor, head: str) -> Tensor:
    """K x K Hessian of the summed loss, class-major."""
    h = torch.func.hessian(lambda v: probe_loss(v, x, y, head))(w)
    return h.reshape(w.numel(), w.numel())


def newton_fit(x: Tensor, y: Tensor, l2: float, head: str, outputs: int) -> Tensor:
    """The minimiser, to a gradient of about 1e-13."""
    w = torch.zeros(outputs, x.shape[1], dtype=torch.float64)

    def total(v: Tensor) -> Tensor:
        return probe_loss(v, x, y, head) + 0.5 * l2 * v.square().sum()

    for _ in range(100):
        g = torch.func.grad(total)(w)
        if g.abs().max() < 1e-13:
            break
        p = hessian(w, x, y, head) + l2 * torch.eye(w.numel(), dtype=w.dtype)
        step = torch.linalg.solve(p, g.flatten()).view_as(w)
        length = 1.0
        while length > 1e-3 and total(w - length * step) > total(w) + 1e-12:
            length /= 2
        w = w - length * step
    return w


def output_curvature(w: Tensor, x: Tensor, head: str) -> Tensor:
    """S_j, (n, C, C)."""
    z = x @ w.mT
    if head == "softmax":
        p = z.softmax(1)
        return torch.diag_embed(p) - p[:, :, None] * p[:, None]
    if head == "regression":
        return torch.eye(len(w), dtype=w.dtype).expand(len(x), -1, -1)
    p = z.sigmoid()
    return torch.diag_embed(p * (1 - p))


def dense_precision(w: Tensor, x: Tensor, y: Tensor, l2: float, head: str, covariance: str, basis):
    """The K x K posterior precision of a covariance structure."""
    k, eye = w.numel(), torch.eye(w.numel(), dtype=w.dtype)
    if covariance in ("full", "diag"):
        p = hessian(w, x, y, head) + l2 * eye
        return p if covariance == "full" else p.diagonal().diag()
    s = output_curvature(w, x, head)
    if covariance == "kfac":  # laplace-torch's blocks: weights, then biases
        a, b = x[:, :-1].mT @ x[:, :-1] / len(x), s.sum(0)
        p = torch.zeros(len(w), x.shape[1], len(w), x.shape[1], dtype=w.dtype)
        p[:, :-1, :, :-1] = b[:, None, :, None] * a[None, :, None, :]
        p[:, -1, :, -1] = b
        return p.reshape(k, k) + l2 * eye
    q = torch.kron(*basis)
    whole = torch.einsum("jab,jf,jg->afbg", s, x, x).reshape(k, k)
    eigenvalues = (q.mT @ whole @ q).diagonal()
    return q @ eigenvalues.diag() @ q.mT + l2 * eye


def dense_kl(p: Tensor, q: Tensor, delta: Tensor) -> tuple[float, float]:
    """Mean shift and curvature of KL(N(0, p^-1) || N(delta, q^-1))."""
    relative = torch.linalg.solve(p, q)
    shape = relative.trace() - len(p) - torch.linalg.slogdet(q)[1] + torch.linalg.slogdet(p)[1]
    return float(0.5 * delta @ q @ delta), float(0.5 * shape)


def reference_scores(
    x: Tensor, y: Tensor, l2: float, head: str, outputs: int, covariance: str, chosen=None
) -> Tensor:
    """(k, 2) mean shift and curvature of chosen samples (all by default)."""
    x = torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64)], 1)
    w = newton_fit(x, y, l2, head, outputs)
    basis = (
        torch.linalg.eigh(output_curvature(w, x, head).sum(0)).eigenvectors,
        torch.linalg.eigh(x.mT @ x).eigenvectors,
    )
    p = dense_precision(w, x, y, l2, head, covariance, basis)
    out = []
    for i in range(len(x)) if chosen is None else chosen:
        keep = torch.arange(len(x)) != i
        v = newton_fit(x[keep], y[keep], l2, head, outputs)
        q = dense_precision(v, x[keep], y[keep], l2, head, covariance, basis)
        out.append(dense_kl(p, q, (v - w).flatten()))
    return torch.tensor(out, dtype=torch.float64)
