"""Hyperbolic networks at the learning rate of the paper have no NaN and learn."""

import math

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from lightning_priv.data import PhotoPatches
from lightning_priv.models import Classifier
from lightning_priv.nn import HyperbolicResNet
from lightning_priv.optim import RiemannianSGD

CASES = [(v, p) for v in ("l", "hecnn") for p in ("32-true", "bf16-mixed")]


class Losses(Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(float(outputs["loss"]))


def train(variant, precision, steps, **options):
    """The paper's optimizer at its first learning rate; a loss that is no number raises."""
    seed_everything(0)

    def optimizer(params):
        return RiemannianSGD(params, lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)

    net = HyperbolicResNet(18, 11, variant, width=8)
    model = Classifier(net, 11, optimizer=optimizer)
    losses = Losses()
    trainer = Trainer(
        accelerator="cpu",
        precision=precision,
        max_steps=steps,
        max_epochs=-1,
        callbacks=[losses],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=2,
    )
    trainer.fit(model, PhotoPatches(batch_size=32, **options))
    assert trainer.global_step == steps == len(losses.values)
    state = net.state_dict()
    assert all(torch.isfinite(value).all() for value in state.values())
    for name, value in state.items():
        if name.endswith(".beta"):
            assert value[0] == pytest.approx(float((1 + value[1:].square().sum()).sqrt()), rel=1e-4)
    return torch.tensor(losses.values)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "precision"), CASES)
def test_a_thousand_steps_have_no_nan_and_learn(variant, precision):
    losses = train(variant, precision, 1000)
    assert losses[-100:].mean() < 0.7 * math.log(11)


@pytest.mark.parametrize(("variant", "precision"), CASES)
def test_the_first_steps_have_no_nan(variant, precision):
    assert torch.isfinite(train(variant, precision, 4, max_per_class=30)).all()
