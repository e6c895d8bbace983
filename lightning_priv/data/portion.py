"""Train on a part of a data set that was chosen by the scores of its samples."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lightning_priv.errors import ConfigurationError
from lightning_priv.files import read_csv
from lightning_priv.functional import lsi_order, split_portions

from .arrays import ArrayDataset
from .base import ClassificationDataModule, Samples

__all__ = ["Portion", "read_scores"]


class Portion(ClassificationDataModule):
    """A data module of which only a part of the training samples is trained on.

    The part is one of ``parts`` equal ones of an order by score, from the ``scores.csv`` that
    ``LSIProbe`` or the subcommand ``lsi`` has written for the same data; validation and test
    samples are those of ``data``. In the difficulty study of Laplace sample information (Kaiser et
    al., ICLR 2025) the order is ``largest_balanced`` and there are three parts.

    Args:
        data: the whole data set.
        scores: ``scores.csv`` with a row for each training sample of ``data``.
        part: which part, 0 is the first of the order.
        parts: how many parts; or leave it out and give ``keep``.
        keep: fraction of the order to keep from its start, in place of a part.
        order: ``largest`` or ``smallest`` scores first; ``..._balanced`` takes always from the
            class of which most is left, so that each part has the classes' shares; ``random``.
        column: column of the scores; default: the one that ranks, the first lsi_ column.
        seed: seed of the order ``random``, and of the order of each epoch.

    Raises:
        ValueError: if an argument is out of range.
        ConfigurationError: on ``setup``, if scores and data do not belong together.
    """

    def __init__(
        self,
        data: ClassificationDataModule,
        scores: str,
        part: int = 0,
        parts: int = 3,
        keep: float | None = None,
        order: Literal[
            "largest", "smallest", "largest_balanced", "smallest_balanced", "random"
        ] = "largest_balanced",
        column: str | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            data.batch_size,
            data.val_size,
            data.seed if seed is None else seed,
            data.split_seed,
            data.indexed,
            data.drop_last,
            data.num_workers,
            data.pin_memory,
        )
        if parts < 1 or not 0 <= part < parts:
            raise ValueError(f"part={part} of parts={parts}: give a part from 0 to parts - 1")
        if keep is not None and not 0 < keep <= 1:
            raise ValueError(f"keep={keep}: give a fraction above 0, up to 1")
        self.data = data
        self.scores = scores
        self.part = part
        self.parts = parts
        self.keep = keep
        self.order = order
        self.column = column

    def prepare_data(self) -> None:
        """Let the whole data set be fetched, if it may be."""
        self.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Load the whole, and keep a part of its training samples."""
        if self._train is not None:
            return
        self.data.setup(stage)
        self.num_classes = self.data.num_classes
        self.input_shape = self.data.input_shape
        self.class_names = self.data.class_names
        whole = self.data.train_dataset
        rows = self.choose(whole.targets, read_scores(Path(self.scores), whole, self.column))
        kept = Samples(whole.x, whole.targets).take(rows)
        self._train = ArrayDataset(
            kept.x, kept.y, whole.ids[rows], whole.transform, whole.augment, whole.indexed
        )
        self._val, self._test = self.data.val_dataset, self.data.test_dataset

    def choose(self, targets: Tensor, scores: Tensor) -> Tensor:
        """Positions of the chosen samples, ascending.

        Args:
            targets: class numbers of the training samples, shape (n,).
            scores: their scores, shape (n,).
        """
        seed = self.order_seed if self.order == "random" else 0
        order = lsi_order(scores, targets, self.order, seed=seed)
        if self.keep is not None:
            return order[: max(1, round(self.keep * len(order)))].sort().values
        return split_portions(order, self.parts)[self.part].sort().values


def read_scores(path: Path, dataset: ArrayDataset, column: str | None = None) -> Tensor:
    """Scores of the samples of a data set, in its order.

    Args:
        path: ``scores.csv`` with the columns index, label and scores.
        dataset: the samples; their ids must be the indices of the file.
        column: name of the column; default: the first that begins with lsi_.

    Raises:
        ConfigurationError: if the file is missing, lacks a sample or the column, or has other
            labels (the column true_label counts, if labels were corrupted for the scoring).
    """
    if not path.is_file():
        raise ConfigurationError(
            f"there is no {path}; make it by the subcommand lsi or the callback LSIProbe on the "
            "same data"
        )
    rows = read_csv(path, "score the data again")
    names = list(rows[0]) if rows else []
    column = column or next((name for name in names if name.startswith("lsi_")), None)
    label = "true_label" if "true_label" in names else "label"
    if column not in names or not {"index", label} <= set(names):
        raise ConfigurationError(
            f"{path} has the columns {', '.join(names) or 'none'}; needed are index, label and "
            f"{column or 'one that begins with lsi_'}"
        )
    try:
        found = {int(row["index"]): row for row in rows}
        scores = {i: float(row[str(column)]) for i, row in found.items()}
        labels = {i: int(row[label]) for i, row in found.items()}
    except ValueError as error:
        raise ConfigurationError(f"{path} is damaged ({error}); score the data again") from error
    ids, targets = dataset.ids.tolist(), dataset.targets.tolist()
    missing = [i for i in ids if i not in found]
    if missing:
        raise ConfigurationError(
            f"{path} has no row for {len(missing)} of {len(ids)} training samples, among them "
            f"{missing[:5]}; score the same data with the same val_size and split_seed"
        )
    wrong = [i for i, y in zip(ids, targets, strict=True) if labels[i] != y]
    if wrong:
        raise ConfigurationError(
            f"{path} has other labels for {len(wrong)} training samples, among them {wrong[:5]}; "
            "it belongs to other data"
        )
    return torch.tensor([scores[i] for i in ids], dtype=torch.float64)
