"""Train, validate and test on one or two gloo processes; write what each process saw.

Run as ``python two_processes.py DEVICES FOLDER`` (Lightning starts the second process by itself).
"""

import json
import sys
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torchmetrics import MeanMetric

from lightning_priv.data import PhotoPatches


class Recorder(LightningModule):
    """A linear classifier that notes the sample ids."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 11))
        self.register_buffer("counter", torch.zeros(1))  # DDP exchanges buffers in each forward
        self.mean_id = MeanMetric()
        self.seen: dict[str, list[list[int]]] = {"train": [], "val": [], "test": [], "predict": []}

    def training_step(self, batch: tuple[Tensor, ...], _: int) -> Tensor:
        x, y, ids = batch
        self.seen["train"].append(ids.tolist())
        return nn.functional.cross_entropy(self.net(x), y)

    def validation_step(self, batch: tuple[Tensor, ...], _: int) -> None:
        self.seen["val"].append(batch[2].tolist())
        self.mean_id(batch[2])
        self.log("val", self.mean_id)

    def test_step(self, batch: tuple[Tensor, ...], number: int) -> None:
        self.seen["test"].append(batch[2].tolist())
        self.mean_id(batch[2])
        self.log("test", self.mean_id)

    def predict_step(self, batch: tuple[Tensor, ...], _: int) -> Tensor:
        self.seen["predict"].append(batch[2].tolist())
        return batch[2]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def main() -> None:
    devices, folder = int(sys.argv[1]), Path(sys.argv[2])
    # 91 samples to train on (one left out), 19 to validate and 33 to test on: no equal shares.
    # Shares of 9 and 10 validation samples would be 1 and 2 batches of 9.
    data = PhotoPatches(18 // devices, val_size=19, max_per_class=13, indexed=True, seed=5)
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    model = Recorder()
    trainer.fit(model, data)
    val = float(trainer.callback_metrics["val"])
    weights = model.net[1].weight.detach().double().tolist()
    (test,) = trainer.test(model, data, verbose=False)
    trainer.predict(model, data, return_predictions=False)
    result = {"seen": model.seen, "val": val, "test": test["test"], "weights": weights}
    (folder / f"{devices}_{trainer.global_rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
