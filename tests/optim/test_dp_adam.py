"""Second moments without the noise: the formula, a simulation, and the strategy's part."""

import copy

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from private_kit import REPEATABLE, Gradients, SmallModule, fit, private, weights
from torch import nn

from lightning_priv.functional import adaptive_gradient_noise
from lightning_priv.optim import DPAdamBC
from lightning_priv.strategies import DPSGDStrategy


def test_the_formula_step_by_step():
    """With a noise variance that changes, weight decay, and the floor in force for one number."""
    lr, (b1, b2), floor, decay = 0.1, (0.8, 0.95), 1e-3, 0.2
    start = torch.tensor([1.0, -2.0], dtype=torch.float64)
    parameter = nn.Parameter(start.clone())
    optimizer = DPAdamBC([parameter], lr, (b1, b2), floor, decay)
    gradients = torch.tensor([[3.0, 0.01], [2.0, -0.02], [4.0, 0.01]], dtype=torch.float64)
    variances = [1.0, 4.0, 0.25]
    expected = start
    for t in range(1, 4):
        parameter.grad = gradients[t - 1].clone()
        optimizer.param_groups[0]["noise_variance"] = variances[t - 1]
        optimizer.step()
        ages = torch.arange(t - 1, -1, -1, dtype=torch.float64)
        first, second = (1 - b1) * b1**ages, (1 - b2) * b2**ages
        mean = (first[:, None] * gradients[:t]).sum(0) / (1 - b1**t)
        square = (second[:, None] * gradients[:t] ** 2).sum(0) / (1 - b2**t)
        noise = float(second @ torch.tensor(variances[:t]).double()) / (1 - b2**t)
        expected = (1 - lr * decay) * expected
        expected = expected - lr * mean / (square - noise).clamp_min(floor).sqrt()
        torch.testing.assert_close(parameter.data, expected, rtol=1e-12, atol=0)


def test_without_noise_it_is_adamw():
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(5)) for _ in range(2))
    a = DPAdamBC([ours], lr=0.01, floor=1e-30, weight_decay=0.1)
    b = torch.optim.AdamW([theirs], lr=0.01, eps=0.0, weight_decay=0.1)
    for _ in range(20):
        ours.grad = torch.randn(5)
        theirs.grad = ours.grad.clone()
        a.step()
        b.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_second_moment_of_noisy_gradients_is_that_of_the_gradients():
    """Simulation: E[v_hat - n_hat] = E[g^2], where plain Adam's v_hat is larger by the noise."""
    generator = torch.Generator().manual_seed(1)
    size, signal, noise = 20_000, 0.3, 2.0
    parameter = nn.Parameter(torch.zeros(size))
    optimizer = DPAdamBC([parameter], lr=0.0, betas=(0.9, 0.99))
    optimizer.param_groups[0]["noise_variance"] = noise**2
    for _ in range(40):
        g = signal * torch.randn(size, generator=generator)
        parameter.grad = g + noise * torch.randn(size, generator=generator)
        optimizer.step()
    state = optimizer.state[parameter]
    v_hat = state["square"] / (1 - 0.99**40)
    n_hat = float(state["noise"]) / (1 - 0.99**40)
    corrected = v_hat - n_hat
    error = float(corrected.std()) / size**0.5
    assert abs(float(corrected.mean()) - signal**2) < 4 * error < 0.03
    assert abs(float(v_hat.mean()) - signal**2 - noise**2) < 4 * error
    assert n_hat == pytest.approx(noise**2, rel=1e-12)


class Adam(SmallModule):
    def configure_optimizers(self):
        return DPAdamBC(self.parameters(), lr=0.01)


def test_the_strategy_tells_the_variance_of_its_noise():
    module = Adam()
    fit(private(noise_multiplier=2.0, max_grad_norm=0.5), module, max_epochs=1)
    (optimizer,) = module.trainer.optimizers
    assert optimizer.param_groups[0]["noise_variance"] == pytest.approx((2.0 * 0.5 / 16) ** 2)


def test_the_variance_follows_an_adaptive_clipping_norm():
    """Told of each step what was added in that step; here the records' gradients are zero."""
    told = []

    class Silent(Adam):
        def loss(self, batch):
            return 0 * super().loss(batch)

        def on_before_optimizer_step(self, optimizer):
            told.append(optimizer.param_groups[0]["noise_variance"] ** 0.5)

    seen = Gradients()
    strategy = private(clipping="adaptive", clip_learning_rate=1.0, probe=False)
    fit(strategy, Silent(nn.Linear(6, 900)), max_epochs=2, callbacks=[seen])
    assert len(set(told)) == len(told)
    assert told[0] == pytest.approx(adaptive_gradient_noise(1.0, 2.0) / 16)
    for released, stated in zip(seen.released, told, strict=True):
        assert abs(float(released.std()) / stated - 1) < 4.5 / (2 * released.numel()) ** 0.5


def test_resume_repeats_the_uninterrupted_run():
    saved = ModelCheckpoint("ckpt", every_n_train_steps=7, save_top_k=-1, filename="{step}")
    _, whole = fit(
        DPSGDStrategy(**REPEATABLE), Adam(), callbacks=[saved], enable_checkpointing=True
    )
    strategy = DPSGDStrategy(**REPEATABLE, count_abandoned=False)
    _, resumed = fit(strategy, Adam(), ckpt_path="ckpt/step=7.ckpt")
    assert torch.equal(weights(resumed), weights(whole))


def test_the_state_keeps_its_precision():
    parameter = nn.Parameter(torch.ones(2))
    optimizer = DPAdamBC([parameter])
    parameter.grad = torch.ones(2)
    optimizer.param_groups[0]["noise_variance"] = 1 / 3
    optimizer.step()
    other = DPAdamBC([parameter])
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for name in ("step", "noise"):
        assert torch.equal(other.state[parameter][name], optimizer.state[parameter][name])
        assert other.state[parameter][name].dtype == torch.float64


@pytest.mark.parametrize(
    "wrong", [{"lr": -1.0}, {"floor": 0.0}, {"betas": (1.0, 0.9)}, {"weight_decay": -1.0}]
)
def test_mistakes(wrong):
    with pytest.raises(ValueError, match=r"at least|must be in"):
        DPAdamBC([nn.Parameter(torch.ones(1))], **wrong)
