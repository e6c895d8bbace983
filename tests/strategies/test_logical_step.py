import lightning.pytorch as pl
import pytest
import torch
from private_kit import (
    REPEATABLE,
    Gradients,
    SmallModule,
    fit,
    private,
    small_data,
    small_module,
    weights,
)
from torch import nn
from torch.utils.data import DataLoader

from lightning_priv.data.sampling import PoissonSampler
from lightning_priv.strategies import DPSGDStrategy


def clipped_sum_by_hand(module, data, rows, bound):
    """Clipped gradients of the records, one after the other, added up."""
    parameters = list(module.parameters())
    total = torch.zeros(sum(p.numel() for p in parameters), dtype=parameters[0].dtype)
    for i in rows:
        x, y = data[i]
        loss = nn.functional.cross_entropy(module.net(x[None]), y[None])
        g = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
        total += g * min(1.0, bound / (g.norm().item() + 1e-6))
    return total


@pytest.mark.parametrize("engine", ["bk", "hooks", "ghost", "functorch"])
@pytest.mark.parametrize("physical", [None, 5])
def test_released_gradient_is_the_clipped_sum_over_the_expected_batch(engine, physical):
    data = small_data(dtype=torch.float64)
    module = small_module().double()
    expected, seen = [], Gradients()

    class ByHand(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            rows = PoissonSampler(16 / 96, 96, 1, 7, position=batch_idx).select(batch_idx)
            with torch.enable_grad():
                expected.append(clipped_sum_by_hand(pl_module, data, rows, 0.3) / 16)

    strategy = private(
        noise_multiplier=0.0,
        max_grad_norm=0.3,
        deterministic=True,
        seed=7,
        engine=engine,
        physical_batch_size=physical,
    )
    fit(strategy, module, data, max_epochs=1, precision="64-true", callbacks=[seen, ByHand()])
    assert len(seen.released) == 6
    for released, by_hand in zip(seen.released, expected, strict=True):
        torch.testing.assert_close(released, by_hand, rtol=0, atol=1e-10)


def test_physical_batches_do_not_change_the_training():
    results = []
    for physical in (None, 5, 1):
        strategy = DPSGDStrategy(**REPEATABLE, physical_batch_size=physical)
        trainer, module = fit(strategy)
        assert trainer.global_step == 18
        assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 3
        results.append(weights(module))
    assert (results[0] - results[1]).abs().max() < 1e-5
    assert (results[0] - results[2]).abs().max() < 1e-5


class Silent(SmallModule):
    """The records' gradients are zero: what is left is the noise."""

    def loss(self, batch):
        return 0 * super().loss(batch)


@pytest.mark.parametrize("noise_rng", ["default", "secure"])
def test_noise_has_the_stated_law_and_is_drawn_once_a_step(noise_rng):
    seen = Gradients()
    net = nn.Linear(6, 300)
    strategy = private(
        noise_multiplier=2.0, max_grad_norm=0.5, noise_rng=noise_rng, probe=False, engine="hooks"
    )
    draws = []

    class CountDraws(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 0:
                noise = trainer.strategy.logical_step.noise
                add_to = noise.add_to
                noise.add_to = lambda values, std: (draws.append(std), add_to(values, std))

    fit(strategy, Silent(net, lr=1e-3), callbacks=[CountDraws(), seen])
    assert draws == [1.0] * 18
    noise = torch.cat(seen.released) * 16
    count = len(noise)
    assert count == 18 * 2100
    assert abs(noise.mean()) < 4.5 / count**0.5
    assert abs(noise.std() - 1.0) < 4.5 / (2 * count) ** 0.5
    # normal: the share within one and two standard deviations
    for bound, share in ((1.0, 0.682689), (2.0, 0.954500)):
        inside = (noise.abs() < bound).double().mean().item()
        assert abs(inside - share) < 4.5 * (share * (1 - share) / count) ** 0.5
    # steps and parameters are independent of one another
    steps = torch.stack(seen.released) * 16
    correlation = (steps[1:] * steps[:-1]).mean()
    assert abs(correlation) < 4.5 / (17 * 2100) ** 0.5


def test_noise_does_not_depend_on_the_records():
    def released_minus_clipped(data_seed):
        noisy, plain = Gradients(), Gradients()
        for seen, sigma in ((noisy, 1.0), (plain, 0.0)):
            strategy = DPSGDStrategy(**{**REPEATABLE, "noise_multiplier": sigma})
            fit(strategy, small_module(lr=0.0), small_data(seed=data_seed), callbacks=[seen])
        return torch.stack(noisy.released) - torch.stack(plain.released)

    torch.testing.assert_close(
        released_minus_clipped(0), released_minus_clipped(1), rtol=0, atol=1e-6
    )


def test_noise_is_new_in_every_run():
    results = [weights(fit(private())[1]) for _ in range(2)]
    assert (results[0] - results[1]).abs().max() > 1e-2
    # not even the user's own seed makes it predictable
    pl.seed_everything(5)
    first = weights(fit(private())[1])
    pl.seed_everything(5)
    assert (first - weights(fit(private())[1])).abs().max() > 1e-2


def test_without_noise_and_clipping_it_is_plain_full_batch_training():
    data = small_data(dtype=torch.float64)
    strategy = private(noise_multiplier=0.0, max_grad_norm=1e9, sample_rate=1.0)
    trainer, module = fit(
        strategy, small_module().double(), data, 96, precision="64-true", max_epochs=8
    )
    assert trainer.global_step == 8
    _, plain = fit("auto", small_module().double(), data, 96, precision="64-true", max_epochs=8)
    torch.testing.assert_close(weights(module), weights(plain), rtol=0, atol=1e-12)


@pytest.mark.parametrize("engine", ["bk", "hooks", "ghost", "functorch"])
def test_the_raw_gradient_is_never_seen(engine):
    seen = Gradients()
    module = small_module()
    before_zero_grad = []
    module.on_before_zero_grad = lambda optimizer: before_zero_grad.append(Gradients._flat(module))
    strategy = private(noise_multiplier=1e-3, engine=engine)
    fit(strategy, module, callbacks=[seen])
    # only gradients released before (those of the last step) can be there
    last = [None, *seen.released]
    for step, after in enumerate(zip(*[iter(seen.elsewhere)] * 4, strict=True)):
        for gradient in after:
            assert gradient is None or torch.equal(gradient, last[step])
    assert all(g is None for g in before_zero_grad)


def test_empty_batches_are_steps():
    seen = Gradients()
    sizes = []

    class Sizes(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            sizes.append(len(batch[0]))
            assert batch[0].shape[1:] == (6,)

    strategy = DPSGDStrategy(**REPEATABLE)
    trainer, module = fit(strategy, batch_size=1, max_epochs=1, callbacks=[seen, Sizes()])
    assert trainer.global_step == strategy.steps == len(seen.released) == 96
    assert 20 < sizes.count(0) < 50  # 96/e is 35
    assert strategy.history == [(1.0, 1 / 96, 96)]
    empty = [g for g, n in zip(seen.released, sizes, strict=True) if n == 0]
    assert all(g.std() > 0.5 for g in empty)  # noise, divided by an expected batch of 1
    assert torch.isfinite(weights(module)).all()


def test_workers_and_empty_batches():
    strategy = DPSGDStrategy(**REPEATABLE)
    loader = DataLoader(small_data(), batch_size=2, shuffle=True, num_workers=2)
    trainer, module = fit(strategy, loader=loader, max_epochs=1)
    assert trainer.global_step == 48
    same = DPSGDStrategy(**REPEATABLE)
    _, other = fit(same, batch_size=2, max_epochs=1)
    assert torch.equal(weights(module), weights(other))


@pytest.mark.parametrize("workers", [0, 2])
def test_no_batch_is_used_twice_although_workers_draw_ahead(workers):
    used = []

    class Used(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            used.append(batch[0].double().sum().item())

    loader = DataLoader(small_data(), batch_size=16, num_workers=workers)
    strategy = DPSGDStrategy(**REPEATABLE)
    fit(strategy, loader=loader, limit_train_batches=4, callbacks=[Used()], max_epochs=3)
    data = small_data().tensors[0].double()
    stream = PoissonSampler(1 / 6, 96, 12, 7)
    expected = [data[stream.select(step)].sum().item() for step in range(12)]
    assert used == pytest.approx(expected, abs=1e-4)


def test_denominator_is_the_expected_batch_and_can_be_given():
    seen, halved = Gradients(), Gradients()
    fit(DPSGDStrategy(**REPEATABLE), small_module(lr=0.0), callbacks=[seen])
    given = DPSGDStrategy(**REPEATABLE, denominator=32.0)
    fit(given, small_module(lr=0.0), callbacks=[halved])
    assert given.denominator == 32
    torch.testing.assert_close(torch.stack(seen.released), 2 * torch.stack(halved.released))


def test_sensitivity_is_bounded_whatever_the_record():
    """Remove one record: the released sums differ by at most C, in every clipping mode."""
    data = small_data(records=24)
    data.tensors[0][3] *= 1e4
    for clipping in ("flat", "per_layer", "automatic"):
        runs = []
        for rate in (1.0, 0.0):
            rates = [1.0] * 24
            rates[3] = rate
            seen = Gradients()
            strategy = private(
                noise_multiplier=0.0,
                max_grad_norm=0.7,
                rates=rates,
                steps_per_epoch=1,
                denominator=1.0,
                clipping=clipping,
            )
            fit(strategy, small_module(), data, max_epochs=1, callbacks=[seen])
            runs.append(seen.released[0].double())
        difference = (runs[0] - runs[1]).norm()
        assert 0.5 < difference <= 0.7 * (1 + 1e-4)


def test_bf16_mixed_stays_close_to_float32():
    results = []
    for precision in ("32-true", "bf16-mixed"):
        strategy = DPSGDStrategy(**REPEATABLE)
        _, module = fit(strategy, precision=precision)
        assert all(p.dtype == torch.float32 for p in module.parameters())
        results.append(weights(module))
    assert 0 < (results[0] - results[1]).abs().max() < 2e-2


def test_noise_destroys_and_clipping_matters():
    def accuracy(strategy):
        module = small_module(lr=0.5)
        fit(strategy, module, max_epochs=10)
        x, y = small_data(2000, seed=5).tensors
        return (module.net(x).argmax(1) == y).float().mean().item()

    assert accuracy("auto") > 0.9
    assert accuracy(private(noise_multiplier=0.3)) > 0.75
    drowned = [accuracy(private(noise_multiplier=1000.0)) for _ in range(3)]
    assert sum(drowned) / 3 < 0.62
    runs = []
    for bound in (0.01, 1.0):
        strategy = private(noise_multiplier=0.0, max_grad_norm=bound, sample_rate=1.0)
        runs.append(weights(fit(strategy, max_epochs=3)[1]))
    assert (runs[0] - runs[1]).abs().max() > 1e-2


def test_hooks_are_gone_and_the_module_is_as_before():
    module = small_module()
    before = set(module.state_dict())
    names = {n: set(vars(m)) for n, m in module.named_modules()}
    seen = {}

    class During(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            seen.update(pl_module.state_dict())

    trainer, _ = fit(private(), module, callbacks=[During()])
    assert set(seen) == before == set(module.state_dict())
    for name, layer in module.named_modules():
        hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks)
        assert not any(hooks)
        assert set(vars(layer)) - names[name] <= {"_trainer", "_current_fx_name", "_hparams"}
    for parameter in module.parameters():
        assert not vars(parameter)
    assert trainer.strategy.logical_step is None
