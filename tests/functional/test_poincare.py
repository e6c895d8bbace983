"""The ball against geoopt and its isometry with the hyperboloid."""

import geoopt
import pytest
import torch
from torch.testing import assert_close

from lightning_priv import functional as fn

TIGHT = {"rtol": 1e-12, "atol": 1e-12}


def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
    g = torch.Generator().manual_seed(3)
    return scale * torch.randn(*shape, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("c", [0.1, 1.0, 2.0])
@pytest.mark.parametrize("scale", [1e-4, 0.03, 0.6])
def test_maps_at_the_centre_equal_geoopt(c, scale):
    ball = geoopt.PoincareBall(c=torch.tensor(c, dtype=torch.float64))
    v = draw(5, 3, scale=scale)
    x = fn.ball_exp_map_origin(v, c)
    assert_close(x, ball.expmap0(v, project=False), **TIGHT)
    assert_close(fn.ball_log_map_origin(x, c), v, **TIGHT)
    w = v.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda u: fn.ball_exp_map_origin(u, c), (w,))
    assert torch.autograd.gradcheck(lambda u: fn.ball_log_map_origin(0.2 * u, c), (w,))


@pytest.mark.parametrize("k", [0.5, 1.0, 2.0])
def test_isometry_keeps_distances_for_every_k(k):
    ball = geoopt.PoincareBall(c=torch.tensor(1 / k, dtype=torch.float64))
    x, y = fn.to_point(draw(5, 3), k), fn.to_point(draw(5, 3).flip(0), k)
    got = ball.dist(fn.lorentz_to_ball(x, k), fn.lorentz_to_ball(y, k))
    assert_close(got, fn.lorentz_distance(x, y, k), rtol=1e-9, atol=1e-9)
    assert_close(fn.ball_to_lorentz(fn.lorentz_to_ball(x, k), k), x, **TIGHT)


def test_clipping_shortens_only_long_vectors():
    x = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    want = torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]])
    assert_close(fn.clip_norm(x, 1.0), want)
    with pytest.raises(ValueError, match="max_norm must be > 0"):
        fn.clip_norm(x, 0.0)


def test_invalid_curvature_is_refused():
    with pytest.raises(ValueError, match="curvature of the ball is -c"):
        fn.ball_exp_map_origin(torch.zeros(2), -1.0)
