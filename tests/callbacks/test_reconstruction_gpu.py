"""What the CPU tests of the audit check, on a CUDA device; skipped without one."""

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from audit_kit import FEW, save_prior
from command_line import CONFIGS, CommandLine
from private_kit import REPEATABLE, fit, weights
from torch import nn
from torch.utils.data import TensorDataset

from lightning_priv.callbacks import ReconstructionAudit
from lightning_priv.functional.audit import PixelRange, observe_simulated
from lightning_priv.nn.audit_run import run_attack
from lightning_priv.nn.denoisers import DDIM, MMSE
from lightning_priv.nn.diffusion import DiffusionNetwork
from lightning_priv.nn.leak import ImprintLayer, LeakLayer
from lightning_priv.nn.reconstructors import Identity
from lightning_priv.strategies import DPSGDStrategy

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


class Attacked(pl.LightningModule):
    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        self.net = (
            LeakLayer(net, (1, 8, 8))
            if kind == "leak"
            else ImprintLayer(net, (1, 8, 8), 48, kind, 0.5, 0.04)  # type: ignore[arg-type]
        )

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(kind: str, audit: ReconstructionAudit | None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(200, 1, 8, 8, generator=generator)
    labels = torch.randint(2, (200,), generator=generator)
    strategy = DPSGDStrategy(**{**REPEATABLE, "noise_multiplier": 0.2, "probe": False})
    callbacks = [] if audit is None else [audit]
    _, module = fit(
        strategy,
        Attacked(kind),
        TensorDataset(images, labels),
        6,
        accelerator="gpu",
        callbacks=callbacks,
        max_epochs=1,
    )
    return weights(module).cpu()


@pytest.mark.parametrize("kind", ["leak", "sparse", "cumulative", "trap"])
def test_a_run_is_read_and_not_changed(kind: str) -> None:
    audit = ReconstructionAudit(every_n_steps=1, methods=[Identity()], dirpath="audit")
    assert torch.equal(train(kind, None), train(kind, audit))
    assert audit.noise is not None
    assert audit.noise.flags == ()
    assert audit.study is not None
    (level,) = audit.study.levels
    error = (level.y - audit.study.targets).flatten(1) / level.noise_std[:, None]
    assert float(error.square().mean()) == pytest.approx(1, rel=0.4)


def test_attacks_are_those_of_the_cpu() -> None:
    torch.manual_seed(0)
    network = DiffusionNetwork.build((1, 8, 8), (8, 8), 1, [False, False], 4).eval()
    levels = [observe_simulated(torch.rand(4, 1, 8, 8), s, PixelRange()) for s in (0.1, 0.5)]
    for attack in (MMSE(), DDIM(5)):
        found = []
        for device in ("cpu", "cuda"):
            attack.prepare(None, network.to(device))
            found.append(run_attack(attack, levels, device=device))
        torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-3)


def test_the_subcommand(command_line: CommandLine) -> None:
    given = save_prior(Path("given"))
    command_line.ok(
        *("audit", "--config", CONFIGS / "demo/audit_digits.yaml", *FEW),
        *("--model.init_args.path", given, "--trainer.accelerator", "gpu"),
    )
    assert Path("runs/audit_digits/audit/report.html").is_file()
