"""One sample's Newton step in small matrices, against dense inverses at every leverage."""

import mpmath
import pytest
import torch
from torch import Tensor

from lightning_priv.functional.laplace_information.downdate import newton_step


def blocks(width: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(width)
    roots = torch.randn(3, 6, 1, width, width, generator=generator, dtype=torch.float64)
    g, s = roots[0] @ roots[0].mT, roots[1] @ roots[1].mT
    largest = torch.linalg.eigvals(s @ g).real.amax(-1)
    wanted = scale * torch.linspace(0.5, 1, 6, dtype=torch.float64)[:, None]
    return g * (wanted / largest)[..., None, None], s, roots[2, ..., 0]


@pytest.mark.parametrize("scale", [1e-9, 1e-4, 0.03, 0.5, 0.79, 0.9999])
@pytest.mark.parametrize("width", [1, 2, 9])
def test_every_branch_equals_the_dense_formulas(width: int, scale: float) -> None:
    g, s, r = blocks(width, scale)
    found = newton_step(g, s, r)
    inner = torch.eye(width, dtype=g.dtype) - s @ g
    v = torch.linalg.solve(inner, r[..., None])[..., 0]
    torch.testing.assert_close(found.v, v, rtol=1e-8, atol=1e-12)
    own = (g @ v[..., None])[..., 0]
    torch.testing.assert_close(found.own, own, rtol=1e-8, atol=1e-22)
    torch.testing.assert_close(found.mean_shift, 0.5 * (r * own).sum((1, 2)), rtol=1e-8, atol=0)
    leverage = (s @ g).diagonal(dim1=-2, dim2=-1).sum((1, 2))
    torch.testing.assert_close(found.leverage, leverage, rtol=1e-9, atol=0)
    assert torch.equal(found.largest > 0.8, _largest(s @ g) > 0.8)
    assert bool((found.largest >= _largest(s @ g) * (1 - 1e-9)).all())
    mpmath.mp.dps = 40
    for i in (0, 5):
        m = mpmath.matrix((s[i, 0]).tolist()) * mpmath.matrix((g[i, 0]).tolist())
        trace = sum(m[a, a] for a in range(width))
        gap = (-trace - mpmath.log(mpmath.det(mpmath.eye(width) - m))) / 2
        assert float(found.curvature[i]) == pytest.approx(float(gap), rel=1e-9)


def _largest(m: Tensor) -> Tensor:
    return torch.linalg.eigvals(m).real.amax(-1)[:, 0]


def test_high_and_low_leverage_together() -> None:
    (g, s, r), (low, _, _) = blocks(3, 0.95), blocks(3, 0.01)
    mixed = newton_step(torch.cat([low, g]), torch.cat([s, s]), torch.cat([r, r]))
    for part, alone in ((slice(0, 6), low), (slice(6, 12), g)):
        single = newton_step(alone, s, r)
        for a, b in zip(mixed, single, strict=True):
            torch.testing.assert_close(a[part], b, rtol=1e-12, atol=0)


def test_what_passes_the_limit_is_capped() -> None:
    g, s, r = blocks(2, 1.5)  # an approximate G may do that
    found = newton_step(g, s, r, limit=0.95)
    assert bool(torch.isfinite(found.curvature).all())
    assert bool((found.largest[3:] > 1).all())
    single = newton_step(g.float() / 2, s.float(), r.float())
    double = newton_step(g / 2, s, r)
    torch.testing.assert_close(single.curvature.double(), double.curvature, rtol=1e-4, atol=0)
