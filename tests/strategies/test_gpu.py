"""What the CPU tests check, on a CUDA device; skipped without one."""

import pytest
import torch
from private_kit import REPEATABLE, Gradients, SmallModule, fit, small_data, small_module, weights
from torch import nn

from lightning_priv.strategies import DPSGDDDPStrategy, DPSGDStrategy

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("engine", ["bk", "hooks", "ghost", "functorch"])
@pytest.mark.parametrize("physical", [None, 5])
def test_released_gradient_is_that_of_the_cpu(engine, physical):
    released = []
    for accelerator in ("cpu", "gpu"):
        seen = Gradients()
        strategy = DPSGDStrategy(
            noise_multiplier=0.0,
            max_grad_norm=0.3,
            deterministic=True,
            seed=7,
            engine=engine,
            physical_batch_size=physical,
        )
        fit(
            strategy,
            small_module(lr=0.0).double(),
            small_data(dtype=torch.float64),
            accelerator=accelerator,
            precision="64-true",
            callbacks=[seen],
            max_epochs=1,
        )
        released.append(torch.stack(seen.released).cpu())
    torch.testing.assert_close(released[0], released[1], rtol=0, atol=1e-10)


class Silent(SmallModule):
    def loss(self, batch):
        return 0 * super().loss(batch)


@pytest.mark.parametrize("noise_rng", ["default", "secure"])
def test_noise_law(noise_rng):
    seen = Gradients()
    strategy = DPSGDStrategy(
        noise_multiplier=2.0, max_grad_norm=0.5, noise_rng=noise_rng, probe=False
    )
    module = Silent(nn.Linear(6, 300), lr=1e-3)
    fit(strategy, module, accelerator="gpu", callbacks=[seen])
    noise = torch.cat(seen.released).cpu() * 16
    assert abs(noise.mean()) < 4.5 / len(noise) ** 0.5
    assert abs(noise.std() - 1.0) < 4.5 / (2 * len(noise)) ** 0.5


def test_by_name_it_takes_the_gpu():
    devices = []

    class Where(SmallModule):
        def training_step(self, batch, batch_idx):
            devices.append(batch[0].device.type)
            return self.loss(batch)

    fit("dp_sgd", Where(), accelerator="gpu", max_epochs=1)
    assert set(devices) == {"cuda"}


def test_bf16_mixed():
    strategy = DPSGDStrategy(**REPEATABLE)
    _, module = fit(strategy, accelerator="gpu", precision="bf16-mixed")
    assert torch.isfinite(weights(module)).all()


@pytest.mark.ddp
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_nccl_equals_one_gpu():
    _, alone = fit(DPSGDStrategy(**REPEATABLE), accelerator="gpu")
    several = DPSGDDDPStrategy(**REPEATABLE, process_group_backend="nccl", start_method="spawn")
    _, module = fit(several, accelerator="gpu", devices=2, batch_size=8)
    assert (weights(alone).cpu() - weights(module).cpu()).abs().max() < 1e-4
