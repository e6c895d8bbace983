"""The fused unit against the separate layers: values, every gradient, every branch."""

import pytest
import torch
from torch.testing import assert_close

from lightning_priv import functional as fn
from lightning_priv.errors import OffManifoldError
from lightning_priv.nn import lorentz as ll
from lightning_priv.nn.lorentz import _fused_parts, fused


@pytest.fixture(autouse=True)
def _float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def unit(k=1.0, kernel=3, stride=1, padding=1, dilation=1, bias=True, activation=True, gamma=1.3):
    manifold = ll.LorentzManifold(k)
    conv = ll.LorentzConv2d(3, 5, kernel, stride, padding, dilation, bias, manifold)
    norm = ll.LorentzBatchNorm2d(5, manifold)
    with torch.no_grad():
        norm.beta.copy_(fn.to_point(0.5 * torch.randn(5), k))
        norm.gamma.fill_(gamma)
    return ll.LorentzConvNorm(conv, norm, activation)


def compare(module, x, skip=False, rtol=1e-11):
    """Outputs, running statistics and gradients of the fused and the separate form."""
    results = []
    state = {key: value.clone() for key, value in module.state_dict().items()}
    extra = torch.randn_like(module(x)) if skip else None
    weights = torch.randn_like(module(x))
    for form in (True, False):
        module.load_state_dict(state)
        module.fused = form
        assert module._can_fuse(x) == form
        inputs = [x.clone().requires_grad_()]
        if skip:
            inputs.append(extra.clone().requires_grad_())
        y = module(*inputs)
        wanted = [*inputs, *module.parameters()]
        grads = torch.autograd.grad((y * weights).sum(), wanted)
        stats = [module.norm.running_mean.clone(), module.norm.running_spread.clone()]
        results.append([y.detach(), *stats, *grads])
    scale = max(g.abs().max() for g in results[1])
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs, rtol=rtol, atol=1e-12 * scale)


@pytest.mark.parametrize("k", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"stride": 2},
        {"kernel": 1, "stride": 2, "padding": 0, "activation": False},
        {"padding": 2, "dilation": 2},
        {"kernel": (3, 1), "padding": (1, 0), "bias": False},
    ],
)
@pytest.mark.parametrize("skip", [False, True])
def test_equal_to_the_separate_layers(k, shape, skip):
    compare(unit(k, **shape), torch.randn(4, 3, 6, 6), skip)


@pytest.fixture
def plain(monkeypatch):
    """Whether each layer that was looked at needed neither series nor cuts."""
    found = []
    look_at = _fused_parts.Scalars.look_at

    def spy(self, angle):
        look_at(self, angle)
        found.append(self.plain)

    monkeypatch.setattr(_fused_parts.Scalars, "look_at", spy)
    return found


def test_equal_where_the_radius_is_cut(plain):
    module = unit(gamma=25.0)
    compare(module, torch.randn(4, 3, 6, 6), skip=True)
    assert not any(plain)


@pytest.mark.parametrize("form", ["plain", "general"])
def test_equal_where_neither_cuts_nor_series_are_needed(form, plain, monkeypatch):
    """The general form of the radial part gives the same there."""
    if form == "general":
        monkeypatch.setattr(_fused_parts, "radial_backward", _fused_parts._radial_backward_anywhere)
        monkeypatch.setattr(fused, "radial_backward", _fused_parts._radial_backward_anywhere)
    compare(unit(), 2 * torch.randn(4, 3, 6, 6), skip=True)
    assert all(plain)


def test_layers_with_manifolds_of_one_curvature_are_fused():
    conv, norm = ll.LorentzConv2d(3, 5, 3), ll.LorentzBatchNorm2d(5)
    assert ll.LorentzConvNorm(conv, norm)._can_fuse(torch.randn(2, 3, 4, 4))
    other = ll.LorentzBatchNorm2d(5, ll.LorentzManifold(2.0))
    assert not ll.LorentzConvNorm(conv, other)._can_fuse(torch.randn(2, 3, 4, 4))


def test_equal_for_negative_gamma():
    compare(unit(gamma=-0.7), torch.randn(4, 3, 6, 6))


def test_equal_on_a_map_of_one_position():
    compare(unit(stride=2), torch.randn(6, 3, 2, 2), skip=True)


def test_equal_where_points_sit_next_to_the_mean(plain):
    # one image repeated: most positions are exactly or nearly the mean
    x = torch.randn(1, 3, 1, 1).expand(4, 3, 6, 6).clone()
    x[0, 0, 0, 0] += 1e-5
    x[1, 1, 3, 3] += 1e-2
    compare(unit(padding=0), x, rtol=1e-7)
    assert not any(plain)


def test_gradient_where_all_points_are_the_mean_is_finite():
    module = unit(padding=0)
    x = torch.randn(1, 3, 1, 1).expand(4, 3, 6, 6).clone().requires_grad_()
    (grad,) = torch.autograd.grad(module(x).sum(), x)
    assert torch.isfinite(grad).all()


def test_scalars_may_stay_on_the_device(monkeypatch):
    """The form that a GPU takes: no number is read but the radius of the mean."""
    for module in (fused, _fused_parts):
        monkeypatch.setattr(module, "read", lambda value: value.reshape(()))
    compare(unit(stride=2), torch.randn(4, 3, 6, 6), skip=True)
    compare(unit(gamma=25.0), torch.randn(4, 3, 6, 6))


@pytest.mark.parametrize("skip", [False, True])
def test_autocast_only_touches_the_convolution(skip):
    torch.set_default_dtype(torch.float32)
    module = unit()
    x = torch.randn(4, 3, 6, 6)
    extra = (torch.randn(4, 5, 6, 6),) if skip else ()
    weights = torch.randn(4, 5, 6, 6)
    results = []
    for half in (True, False):
        image = x.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            assert module._can_fuse(image)
            y = module(image, *extra)
        assert y.dtype == torch.float32
        grads = torch.autograd.grad((y * weights).sum(), [image, *module.parameters()])
        results.append([y, *grads])
    limits = [1e-2, *[1e-1] * 6]  # gradients: half precision also flips ReLUs
    for ours, theirs, limit in zip(*results, limits, strict=True):
        assert ours.dtype == theirs.dtype
        assert 0 < (ours - theirs).norm() <= limit * theirs.norm()


def test_no_gradient_for_the_image():
    module = unit()
    x = torch.randn(4, 3, 6, 6)
    module(x).sum().backward()
    fused = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    module.fused = False
    module(x).sum().backward()
    for ours, p in zip(fused, module.parameters(), strict=True):
        assert_close(ours, p.grad, rtol=1e-10, atol=1e-10)


def test_far_from_the_origin_it_takes_the_two_pass_form():
    module = unit()
    with torch.no_grad():
        module.conv.bias.fill_(3.0)
    x = torch.randn(4, 3, 6, 6)
    got = module(x)
    points = module.conv(x).flatten(2)
    mean = fn.lorentz_channel_mean(points)
    args = (mean, module.norm.beta[1:], module.norm.gamma)
    want, _ = fn.lorentz_normalize(points, *args, stable=True)
    assert mean.norm() > 2
    assert_close(got, want.view_as(got).relu(), rtol=0, atol=0)


def test_saved_activations_are_those_of_euclidean_layers():
    """Input, convolution's output, result and a few maps of one channel; the first is shared."""
    torch.set_default_dtype(torch.float32)
    manifold = ll.LorentzManifold()
    conv = ll.LorentzConv2d(64, 64, 3, padding=1, manifold=manifold)
    module = ll.LorentzConvNorm(conv, ll.LorentzBatchNorm2d(64, manifold))
    x = torch.randn(2, 64, 8, 8, requires_grad=True)
    kept = {}

    def pack(t):
        kept[t.data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        module(x)
    parameters = {p.data_ptr() for p in module.parameters()} | {module.norm.beta[1:].data_ptr()}
    activations = sum(size for pointer, size in kept.items() if pointer not in parameters)
    assert activations < 3.2 * x.numel() * 4


def test_second_derivatives_are_refused_not_wrong():
    """Also for a linear read-out, whose gradient does not itself require one."""
    module = unit()
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match="no second derivative; build it with fused=False"):
        torch.autograd.grad(module(x).sum(), x, create_graph=True)


def test_a_frozen_norm_keeps_its_statistics():
    module = unit()
    x = torch.randn(4, 3, 6, 6)
    module(x)
    module.train()
    module.norm.eval()
    before = {key: value.clone() for key, value in module.norm.state_dict().items()}
    want = module.norm(module.conv(x)).relu()
    assert_close(module(x), want, rtol=0, atol=0)
    for key, value in module.norm.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("k", [1e-4, 0.01, 1.0, 100.0])
def test_float32_is_accurate_for_every_curvature(k):
    """The distance from which two passes are taken is one in units of sqrt(k)."""
    module = unit(k)
    x = torch.randn(4, 3, 6, 6) * k**0.5
    want = module(x)
    got = module.float()(x.float())
    assert (got.double() - want).norm() < 2e-4 * want.norm()


@pytest.mark.parametrize(
    "case", ["eval", "frozen norm", "subclass", "learnable", "hook", "stable", "off"]
)
def test_other_situations_take_the_separate_layers(case):
    module = unit()
    x = torch.randn(2, 3, 4, 4)
    assert module._can_fuse(x)
    if case == "eval":
        module.eval()
    elif case == "frozen norm":
        module.norm.eval()
    elif case == "subclass":
        module.norm.__class__ = type("Own", (ll.LorentzBatchNorm2d,), {})
    elif case == "learnable":
        manifold = ll.LorentzManifold(learnable=True)
        conv = ll.LorentzConv2d(3, 5, 3, manifold=manifold)
        module = ll.LorentzConvNorm(conv, ll.LorentzBatchNorm2d(5, manifold))
    elif case == "hook":
        module.norm.register_forward_hook(lambda *_: None)
    elif case == "stable":
        module.norm.stable = True
    elif case == "off":
        module.fused = False
    assert not module._can_fuse(x)
    assert torch.isfinite(module(x)).all()


def test_errors_are_those_of_the_layers():
    module = unit()
    with pytest.raises(ValueError, match="built for 3 channels"):
        module(torch.randn(2, 4, 4, 4))
    with pytest.raises(ValueError, match="more than one value per channel"):
        module(torch.randn(1, 3, 1, 1))
    with pytest.raises(OffManifoldError, match="NaN or infinite"):
        module(torch.full((2, 3, 4, 4), float("nan")))


@pytest.mark.parametrize("fused", [True, False])
def test_channels_last_images_give_the_same(fused):
    torch.manual_seed(0)
    conv, norm = ll.LorentzConv2d(3, 5, 3, padding=1), ll.LorentzBatchNorm2d(5)
    unit = ll.LorentzConvNorm(conv, norm, fused=fused)
    x = torch.randn(4, 3, 6, 6)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        unit.to(memory_format=layout).zero_grad()
        y = unit(x.to(memory_format=layout))
        y.square().sum().backward()
        found.append([y.detach(), *(p.grad.clone() for p in unit.parameters())])
    assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)
