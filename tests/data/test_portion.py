"""Training on the part of a data set that its scores choose."""

from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import CommandLine

from lightning_priv.data import Digits, Portion
from lightning_priv.errors import ConfigurationError


@pytest.fixture
def scores() -> dict[int, float]:
    """A file of scores: the id itself is the score."""
    data = Digits()
    data.setup()
    ids, labels = data.train_dataset.ids.tolist(), data.train_dataset.targets.tolist()
    lines = ["index,label,lsi_full,loss"]
    lines += [f"{i},{y},{i / 10},{-i}" for i, y in zip(ids, labels, strict=True)]
    Path("scores.csv").write_text("\n".join(lines) + "\n")
    return {i: i / 10 for i in ids}


def portion(**options: Any) -> Portion:
    data = Portion(Digits(batch_size=64), "scores.csv", **options)
    data.setup()
    return data


def test_parts_share_the_samples_without_overlap(scores: dict[int, float]) -> None:
    parts = [portion(part=part) for part in range(3)]
    ids = [set(part.train_dataset.ids.tolist()) for part in parts]
    assert sorted(len(i) for i in ids) == [431, 431, 431]
    assert set.union(*ids) == set(scores)
    means = [sum(scores[i] for i in part) / len(part) for part in ids]
    assert means[0] > means[1] > means[2]
    # balanced: each part has the classes' shares
    counts = torch.stack([part.train_dataset.targets.bincount(minlength=10) for part in parts])
    assert int((counts.max(0).values - counts.min(0).values).max()) <= 1
    whole = Digits()
    whole.setup()
    assert parts[0].val_dataset is not None
    assert whole.val_dataset is not None
    assert torch.equal(parts[0].val_dataset.ids, whole.val_dataset.ids)
    assert torch.equal(parts[0].test_dataset.inputs(), whole.test_dataset.inputs())
    batches = list(parts[0].train_dataloader())
    assert sum(len(x) for x, _ in batches) == 431


def test_orders_columns_and_pruning(scores: dict[int, float]) -> None:
    top = set(sorted(scores)[-129:])
    assert set(portion(order="largest", keep=0.1).train_dataset.ids.tolist()) == top
    small = portion(order="smallest", keep=0.1, column="loss")
    assert set(small.train_dataset.ids.tolist()) == top
    one, two = (portion(order="random", keep=0.5, seed=s).train_dataset.ids for s in (1, 2))
    assert not torch.equal(one, two)
    assert torch.equal(one, portion(order="random", keep=0.5, seed=1).train_dataset.ids)


def test_wrong_scores_are_explained(scores: dict[int, float]) -> None:
    text = Path("scores.csv").read_text()
    with pytest.raises(ConfigurationError, match="has the columns index, label, lsi_full, loss"):
        portion(column="other")
    Path("scores.csv").write_text("\n".join(text.splitlines()[:-3]) + "\n")
    with pytest.raises(ConfigurationError, match="no row for 3 of 1293"):
        portion()
    head, first, *rest = text.splitlines()
    index, label, *others = first.split(",")
    wrong = ",".join([index, str((int(label) + 1) % 10), *others])
    Path("scores.csv").write_text("\n".join([head, wrong, *rest]) + "\n")
    with pytest.raises(ConfigurationError, match="other labels for 1 training samples"):
        portion()
    Path("scores.csv").unlink()
    with pytest.raises(ConfigurationError, match="subcommand lsi"):
        portion()
    for options, message in (({"part": 3}, "part=3"), ({"keep": 0.0}, "keep")):
        with pytest.raises(ValueError, match=message):
            Portion(Digits(), "scores.csv", **options)  # type: ignore[arg-type]


def test_trains_from_yaml(scores: dict[int, float], command_line: CommandLine) -> None:
    Path("portion.yaml").write_text(
        """
seed_everything: 0
trainer: {accelerator: cpu, max_epochs: 1, default_root_dir: runs/p, enable_progress_bar: false,
          enable_model_summary: false}
model:
  class_path: lightning_priv.models.Classifier
  init_args:
    net: {class_path: lightning_priv.nn.MLP, init_args: {in_features: 64, num_classes: 10}}
    num_classes: 10
data:
  class_path: lightning_priv.data.Portion
  init_args:
    scores: scores.csv
    keep: 0.2
    data: {class_path: lightning_priv.data.Digits, init_args: {batch_size: 64}}
"""
    )
    command_line.ok("fit", "--config", "portion.yaml")
    command_line.ok("test", "--config", "portion.yaml", "--ckpt_path", "last")
