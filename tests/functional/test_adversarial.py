"""Attacks keep their budget and their bounds, and find what linear algebra says."""

import pytest
import torch
from torch.testing import assert_close

from lightning_priv.errors import DivergenceError
from lightning_priv.functional import fgsm, pgd
from lightning_priv.nn import HyperbolicResNet


def linear(generator):
    weight = torch.randn(3, 12, generator=generator)
    return weight, lambda x: x.flatten(1) @ weight.T


def test_fgsm_on_a_linear_model_is_the_sign_of_the_weights():
    generator = torch.Generator().manual_seed(0)
    weight, classify = linear(generator)
    x, y = torch.rand(5, 3, 2, 2, generator=generator), torch.tensor([0, 1, 2, 0, 1])
    probabilities = classify(x).softmax(1)
    want = (probabilities - torch.eye(3)[y]) @ weight
    moved = fgsm(classify, x, y, 0.1)
    assert_close(moved, x + 0.1 * want.sign().view_as(x))
    assert not moved.requires_grad


@pytest.mark.parametrize("epsilon", [0.8 / 255, 8 / 255, torch.tensor([0.01, 0.2, 0.0])])
@pytest.mark.parametrize("random_start", [False, True])
def test_budgets_and_bounds_are_never_passed(epsilon, random_start):
    torch.manual_seed(0)
    net = HyperbolicResNet(10, 3, "l", width=2).eval()
    budget = epsilon.view(3, 1, 1) if isinstance(epsilon, torch.Tensor) else epsilon
    x, y = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    x[0, 0] = 0.0
    x[1, 1] = 1.0
    for attack in (fgsm, pgd):
        options = {"random_start": random_start} if attack is pgd else {}
        free = attack(net, x, y, budget, **options)
        boxed = attack(net, x, y, budget, bounds=(0.0, 1.0), **options)
        for found in (free, boxed):
            assert ((found - x).abs() <= budget).all()  # exactly, no tolerance
        assert boxed.min() >= 0
        assert boxed.max() <= 1
        assert (free - x).abs().max() > 0.7 * (budget if isinstance(budget, float) else 0.2)
        loss = torch.nn.functional.cross_entropy
        assert loss(net(free), y) > loss(net(x), y)
    assert all(p.grad is None for p in net.parameters())


def test_pgd_is_at_least_as_strong_as_fgsm_on_a_curved_loss():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(12, 32), torch.nn.Tanh(), torch.nn.Linear(32, 3)
    )
    x, y = torch.rand(200, 3, 2, 2), torch.randint(0, 3, (200,))
    loss = [
        torch.nn.functional.cross_entropy(net(attack(net, x, y, 0.3)), y) for attack in (fgsm, pgd)
    ]
    assert loss[1] > loss[0]


def test_a_budget_of_zero_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    _, classify = linear(generator)
    x, y = torch.rand(5, 3, 2, 2), torch.zeros(5, dtype=torch.long)
    assert_close(pgd(classify, x, y, 0.0), x, rtol=0, atol=0)


def test_wrong_arguments_are_refused():
    x, y = torch.rand(2, 3), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match="epsilon must be at least 0"):
        fgsm(lambda v: v, x, y, -0.1)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        pgd(lambda v: v, x, y, 0.1, steps=0)
    with pytest.raises(ValueError, match="outside of the bounds"):
        fgsm(lambda v: v, 3 * x, y, 0.1, bounds=(0.0, 1.0))


@pytest.mark.parametrize("attack", [fgsm, pgd])
def test_a_gradient_that_is_nan_is_no_robustness(attack):
    x, y = torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 2, 0])
    # finite logits, and a gradient of 0 * inf
    with pytest.raises(DivergenceError, match=r"the network gives NaN.*attack in float32"):
        attack(lambda x: (x.flatten(1)[:, :3] * 0).sqrt(), x, y, 0.1)
    x[0, 0, 0, 0] = float("nan")
    with pytest.raises(DivergenceError, match=r"the inputs hold NaN"):
        attack(lambda x: x.flatten(1)[:, :3], x, y, 0.1)
