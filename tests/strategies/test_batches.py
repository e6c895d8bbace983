from collections import namedtuple
from dataclasses import dataclass

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from private_kit import SmallModule, fit
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import default_collate
from torchmetrics.classification import MulticlassAccuracy

from lightning_priv.errors import PrivacyError
from lightning_priv.strategies import DPSGDStrategy
from lightning_priv.strategies.batches import CollateWithEmpty, has_rows, merge_outputs, take_rows

Pair = namedtuple("Pair", "left right")


@dataclass
class Record:
    x: torch.Tensor
    names: list
    scale: float = 2.0


def test_rows_of_any_structure():
    x = torch.arange(8.0).view(4, 2)
    batch = {
        "x": x,
        "pair": Pair(x[:, 0], np.arange(4)),
        "names": ["a", "b", "c", "d"],
        "nested": [x, (x + 1, "constant")],
        "class_weights": torch.ones(10),
        "record": Record(x, ["p", "q", "r", "s"]),
        "number": 3,
    }
    assert has_rows(batch, 4)
    assert not has_rows(batch, 5)
    for rows in (slice(1, 3), torch.tensor([1, 2])):
        part = take_rows(batch, rows, 4)
        assert torch.equal(part["x"], x[1:3])
        assert isinstance(part["pair"], Pair)
        assert part["pair"].right.tolist() == [1, 2]
        assert part["names"] == ["b", "c"]
        assert torch.equal(part["nested"][1][0], x[1:3] + 1)
        assert part["nested"][1][1] == "constant"
        assert len(part["class_weights"]) == 10
        assert part["record"].names == ["q", "r"]
        assert part["record"].scale == 2.0
        assert part["number"] == 3
    assert torch.equal(batch["x"], x)


def test_two_tensors_in_a_batch_of_two_are_not_two_records():
    batch = [torch.zeros(2, 3), torch.tensor([0, 1])]
    x, y = take_rows(batch, slice(0, 1), 2)
    assert x.shape == (1, 3)
    assert y.tolist() == [0]


def test_packed_sequences_are_refused():
    packed = pack_sequence([torch.zeros(3), torch.zeros(2)])
    with pytest.raises(PrivacyError, match="PackedSequence"):
        take_rows([packed, torch.zeros(2)], slice(0, 1), 2)


def test_empty_batches_have_the_structure_of_full_ones():
    collate = CollateWithEmpty(default_collate, {"x": torch.ones(3, 2), "y": 1, "name": "n"})
    empty = collate([])
    assert empty["x"].shape == (0, 3, 2)
    assert empty["y"].shape == (0,)
    assert empty["y"].dtype == torch.int64
    assert empty["name"] == []
    assert collate([{"x": torch.ones(3, 2), "y": 1, "name": "n"}])["x"].shape == (1, 3, 2)


def test_outputs_are_joined():
    merged = merge_outputs(
        [
            (3, {"logits": torch.zeros(3, 2), "mean": torch.tensor(1.0), "what": "first"}),
            (1, {"logits": torch.ones(1, 2), "mean": torch.tensor(5.0), "what": "last"}),
        ]
    )
    assert merged["logits"].shape == (4, 2)
    assert merged["mean"] == 2.0
    assert merged["what"] == "last"
    assert merge_outputs([]) == {}


class Logs(SmallModule):
    def __init__(self):
        super().__init__()
        self.accuracy = MulticlassAccuracy(3, average="micro")

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.net(x)
        self.accuracy(logits, y)
        loss = torch.nn.functional.cross_entropy(logits, y)
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log_dict({"records": float(len(x))}, reduce_fx="sum", on_step=True, on_epoch=False)
        self.log("largest", x.max(), reduce_fx="max", on_step=True, on_epoch=False)
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
        return {"loss": loss, "logits": logits.detach(), "y": y}


class Steps(pl.Callback):
    def __init__(self):
        self.rows = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        metrics = trainer.logged_metrics
        assert outputs["logits"].shape == (len(batch[0]), 3)
        assert torch.equal(outputs["y"], batch[1])
        self.rows.append([metrics[k] for k in ("loss_step", "records", "largest")])
        self.rows[-1].append(outputs["loss"])


def test_what_is_logged_does_not_depend_on_the_physical_batches():
    kept = []
    for physical in (None, 5):
        steps = Steps()
        strategy = DPSGDStrategy(
            noise_multiplier=1.0, deterministic=True, seed=3, physical_batch_size=physical
        )
        torch.manual_seed(1)
        trainer, module = fit(
            strategy,
            Logs(),
            callbacks=[steps],
            max_epochs=1,
            logger=CSVLogger("logs"),
            log_every_n_steps=1,
        )
        assert "log" not in vars(module)
        epoch = [trainer.callback_metrics[k] for k in ("loss_epoch", "accuracy")]
        kept.append((torch.tensor(steps.rows), torch.tensor(epoch)))
    torch.testing.assert_close(kept[0][0], kept[1][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(kept[0][1][1], kept[1][1][1])
    torch.testing.assert_close(kept[0][1], kept[1][1], rtol=1e-5, atol=1e-6)
