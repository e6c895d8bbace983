"""The prior's training: the loss, the average, the files, and what it remembers of its images."""

import json
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from command_line import CONFIGS, CommandLine

from lightning_priv.data import Digits
from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.audit import image_hashes, shared_images
from lightning_priv.models import DiffusionPrior

TINY = {"block_channels": [8, 8], "attention": [False, False], "norm_groups": 4}


def prior(**options: object) -> DiffusionPrior:
    torch.manual_seed(0)
    return DiffusionPrior(**{**TINY, "save_dir": None, **options})  # type: ignore[arg-type]


def fit(module: DiffusionPrior, steps: int = 6, **options: object) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,  # type: ignore[arg-type]
    )
    trainer.fit(module, datamodule=Digits(batch_size=32))
    return trainer


def test_a_training_writes_a_prior_that_knows_its_images(tmp_path: Path) -> None:
    module = prior(save_dir="auto")
    assert not module.is_trained
    trainer = fit(module, 6, default_root_dir=tmp_path)
    assert module.is_trained
    again = DiffusionPrior.from_pretrained(tmp_path / "prior")
    assert again.is_trained
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 300])
    assert torch.equal(again.eval()(x, t), module.eval()(x, t))
    assert again.hashes == module.hashes
    assert len(module.hashes or ()) <= 6 * 32
    data = trainer.datamodule  # type: ignore[attr-defined]
    train, held = (2 * d.inputs() - 1 for d in (data.plain_train_dataset, data.test_dataset))
    assert int(shared_images(train, again.hashes or ()).sum()) > 100
    assert not shared_images(held, again.hashes or ()).any()
    with pytest.raises(ConfigurationError, match="not trained further"):
        fit(again, 2)


def test_the_average_follows_its_formula() -> None:
    class Watched(DiffusionPrior):
        def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
            before = next(self.average.parameters()).clone()
            super().on_train_batch_end(outputs, batch, batch_idx)
            n = int(self.updates)
            keep = min(self.ema_decay, (1 + n) / (10 + n))
            new = next(self.network.parameters())
            expected = keep * before + (1 - keep) * new
            torch.testing.assert_close(next(self.average.parameters()).data, expected.data)

    torch.manual_seed(0)
    module = Watched(**TINY, save_dir=None, ema_decay=0.2)  # type: ignore[arg-type]
    fit(module, 4)
    assert int(module.updates) == 4


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_loss_falls(prediction: str) -> None:
    module = prior(prediction=prediction)
    data = Digits()
    data.setup()
    images = 2 * data.test_dataset.inputs() - 1

    def loss() -> float:
        generator = torch.Generator().manual_seed(0)
        return float(module._loss(module.network, images, generator))

    before = loss()
    fit(module, 25)
    assert loss() < 0.85 * before


def test_a_checkpoint_keeps_average_and_images(tmp_path: Path) -> None:
    module = prior()
    trainer = fit(module, 3, default_root_dir=tmp_path)
    trainer.save_checkpoint(tmp_path / "prior.ckpt")
    again = DiffusionPrior.load_from_checkpoint(tmp_path / "prior.ckpt")
    assert again.hashes == module.hashes
    assert again.is_trained
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 300])
    assert torch.equal(again.eval()(x, t), module.eval()(x, t))


def test_samples_have_the_shape_and_range_of_images() -> None:
    found = prior().sample(3, steps=3, generator=torch.Generator().manual_seed(0))
    assert found.shape == (3, 1, 8, 8)
    assert float(found.abs().max()) <= 1


def test_data_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"image_shape: \[1, 8, 8\]"):
        fit(prior(image_shape=[1, 16, 16]))
    with pytest.raises(ConfigurationError, match="pixel_mean and pixel_std"):
        fit(prior(pixel_mean=[0.5], pixel_std=[2.0]))
    with pytest.raises(ConfigurationError, match="take data with images"):
        prior().training_step([torch.zeros(4, 30), torch.zeros(4)], 0)
    with pytest.raises(ValueError, match="ema_decay"):
        prior(ema_decay=1.0)


def test_a_mirror_is_the_same_image_and_a_pixel_is_not() -> None:
    x = torch.rand(4, 3, 8, 8) * 2 - 1
    hashes = image_hashes(x)
    assert hashes == image_hashes(x.flip(-1))
    assert len(set(hashes)) == 4
    x[0, 0, 0, 0] = 1 - x[0, 0, 0, 0].abs()
    assert shared_images(x, hashes).tolist() == [False, True, True, True]
    assert image_hashes(x[:1]) != image_hashes(x[:1].reshape(1, 1, 24, 8))


def test_the_demo_trains_from_the_command_line(command_line: CommandLine) -> None:
    config = CONFIGS / "demo/prior_digits.yaml"
    command_line.ok(
        "fit",
        "--config",
        config,
        "--trainer.max_steps",
        3,
        "--trainer.enable_progress_bar",
        "false",
    )
    root = Path("runs/prior_digits/prior")
    assert json.loads((root / "model_index.json").read_text())["_class_name"] == "DDPMPipeline"
    assert DiffusionPrior.from_pretrained(root).average.image_shape == (1, 8, 8)
