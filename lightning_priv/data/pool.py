"""A data module of which only some training samples are labelled yet."""

import copy
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .oracles import Oracle
from .pool_books import PoolBooks
from .pool_journal import PoolJournal
from .pool_loading import (
    first_labels,
    labelled_loader,
    require_labels,
    scoring_loader,
    scoring_set,
    template_of,
    training_set,
)
from .pool_state import PoolState
from .pool_views import PoolSubset, fingerprint

__all__ = ["ActivePool"]

# of base they would mean all samples, labelled or not
_OF_THE_WHOLE = ("train_dataset", "plain_train_dataset", "resample_training", "lsi_dataloader")
_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class ActivePool(PoolBooks):
    """The labelled part and the pool of another data module; nothing in that one is changed.

    Training batches hold labelled samples only. Validation, test and prediction are those of
    ``base``. Indices are always positions in ``base``'s training data set, never in the pool.

    ``base`` is set up once, not in each of several fits, because its data sets stay in use between
    them; so its ``teardown`` is not called.

    The state (who was labelled in which round, bought labels, queries) is part of checkpoints.
    ``keep`` also writes it to a file, as a whole, before a query takes effect and after it: a run
    that dies between the two asks for the same labels again and chooses no other samples.

    Args:
        base: a data module with a ``train_dataset``, or whose training loader has a map-style data
            set.
        initial: samples labelled at the start: a number to draw by ``seed``, global indices, or a
            text file with one index a line.
        query_size: labels that a round buys.
        stratified: draw the initial ones with the shares of the classes, which must be known.
        oracle: who labels: ``dataset`` (labels of the data set), a function of the indices, or an
            ``Oracle`` such as ``LabelFolder``.
        pool_transform: transform with which the pool is scored: ``eval`` (without augmentation),
            ``train``, or a function to put in the place of the data set's ``transform``.
        seed: seed of the initial draw and of queries; by default that of ``seed_everything``,
            else 0.
        serve: ``labelled``, or ``all`` for private training, whose account needs every sample in
            the loader with a sampling rate of its own.
        pool_batch_size: samples in a batch when the pool is scored.

    Raises:
        ValueError: if an argument is out of range.
        ConfigurationError: on ``setup``, if ``base`` has no fitting training data.
    """

    def __init__(
        self,
        base: LightningDataModule,
        initial: int | list[int] | str = 100,
        query_size: int = 50,
        stratified: bool = False,
        oracle: Oracle | Callable[[Sequence[int]], Any] | Literal["dataset"] = "dataset",
        pool_transform: Literal["eval", "train"] | Callable[[Any], Any] = "eval",
        seed: int | None = None,
        serve: Literal["labelled", "all"] = "labelled",
        pool_batch_size: int = 512,
    ) -> None:
        for name, value, least in (
            ("query_size", query_size, 1),
            ("pool_batch_size", pool_batch_size, 1),
            ("initial", initial if isinstance(initial, int) else 0, 0),
        ):
            if isinstance(value, bool) or value < least:
                raise ValueError(f"{name}={value}: give a whole number of at least {least}")
        require_labels(initial)
        if serve not in ("labelled", "all"):
            raise ValueError(f"serve={serve!r}: give 'labelled' or 'all'")
        if isinstance(oracle, str) and oracle != "dataset":
            raise ValueError(f"oracle={oracle!r}: give 'dataset', a function, or an Oracle")
        if isinstance(base, ActivePool):
            raise ValueError("base is an ActivePool already; give the data module inside it")
        super().__init__(base, oracle)
        self.save_hyperparameters(ignore=["base", "oracle", "pool_transform"], logger=False)
        self.initial = initial
        self.query_size = query_size
        self.stratified = stratified
        self.pool_transform = pool_transform
        self.seed = seed
        self.serve = serve
        self.pool_batch_size = pool_batch_size
        for hook in _HOOKS:  # only those that base has: others stay the module's own
            if is_overridden(hook, base):
                setattr(self, hook, getattr(base, hook))
        self._stages: set[str | None] = set()
        self._loaded: dict[str, Any] | None = None
        self._whole: Any = None
        self._plain: Any = None
        self._template: DataLoader[Any] | None = None

    def __getattr__(self, name: str) -> Any:
        """What only ``base`` knows: num_classes, input_shape, class_names, batch_size, ..."""
        if name.startswith("_") or name in _OF_THE_WHOLE or "base" not in self.__dict__:
            raise AttributeError(f"ActivePool has no attribute {name!r}")
        return getattr(self.base, name)

    # -- set-up ------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Let ``base`` fetch its data, if it may."""
        self._share_trainer()
        self.base.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Set up ``base``, once a stage; for training, find its samples, label the initial ones."""
        self._share_trainer()
        if stage not in self._stages:
            self.base.setup(stage)  # type: ignore[arg-type]
            self._stages.add(stage)
        if stage in (None, "fit") and self._state is None:
            self._whole = training_set(self.base)
            seed = self.order_seed if self.seed is None else self.seed
            state = PoolState(len(self._whole), fingerprint(self._whole), seed)
            state.label(first_labels(self._whole, self.initial, self.stratified, state), round=0)
            self._state = state
            self._load()

    def _loader(self) -> DataLoader[Any]:
        """The training loader of ``base``, whose settings are taken over."""
        if self._template is None:
            self._template = template_of(self.base)
        return self._template

    # -- data sets and loaders ---------------------------------------------------------------------

    @property
    def whole_dataset(self) -> Any:
        """All training samples, with the labels of the data set."""
        _ = self.state
        return self._whole

    @property
    def train_dataset(self) -> Dataset[Any]:
        """The labelled samples, or with ``serve: all`` every sample, as they are trained on."""
        state = self.state
        if self.serve == "all":
            whole: Dataset[Any] = self._whole
            if not state.labels and self.oracle == "dataset":
                return whole
            # of one class from the start: a private account knows its data set by that
            return PoolSubset(whole, torch.arange(state.size), state.labels)
        return PoolSubset(self._whole, state.labelled, state.labels)

    @property
    def plain_train_dataset(self) -> PoolSubset:
        """The labelled samples without augmentation."""
        return self.plain_subset(self.labelled_indices)

    @property
    def pool_dataset(self) -> PoolSubset:
        """The samples that can be asked for, without augmentation, each with its global index."""
        return self.plain_subset(self.pool_indices, indexed=True)

    def plain_subset(self, ids: Tensor, indexed: bool = False) -> PoolSubset:
        """Chosen samples as they are scored.

        Args:
            ids: global indices, shape (n,).
            indexed: give each sample its global index, too.
        """
        if self._plain is None:
            self._plain = scoring_set(self.base, self._whole, self.pool_transform)
        return PoolSubset(self._plain, ids, self.state.labels, indexed)

    def train_dataloader(self) -> DataLoader[Any]:
        """The labelled samples in an order that follows from seed and epoch."""
        self._share_trainer()
        fitting: Any = None if self.trainer is None else self.trainer.fit_loop
        epoch = 0 if fitting is None else fitting.epoch_progress.current.processed
        return labelled_loader(
            self.train_dataset, self._loader(), self.order_seed, self._processes(), epoch
        )

    def pool_dataloader(self, ids: Tensor | None = None) -> DataLoader[Any]:
        """Samples to score in blocks, each once over all processes, without augmentation.

        Items have the form of those of ``base``, which its collate function knows; which they are
        says ``sampler.positions``.

        Args:
            ids: global indices; default: the pool.
        """
        self._share_trainer()
        dataset = self.plain_subset(self.pool_indices if ids is None else ids)
        return scoring_loader(
            dataset, self._loader(), self.pool_batch_size, self.order_seed, self._processes()
        )

    def val_dataloader(self) -> Any:
        """The loader of ``base``."""
        self._share_trainer()
        return self.base.val_dataloader() if is_overridden("val_dataloader", self.base) else []

    def test_dataloader(self) -> Any:
        """The loader of ``base``."""
        self._share_trainer()
        return self.base.test_dataloader()

    def predict_dataloader(self) -> Any:
        """The loader of ``base``."""
        self._share_trainer()
        return self.base.predict_dataloader()

    @property
    def order_seed(self) -> int:
        """Seed of the order of training samples that is in force now."""
        own = getattr(self.base, "order_seed", None)
        return own if isinstance(own, int) else int(os.environ.get("PL_GLOBAL_SEED", "0"))

    def _share_trainer(self) -> None:
        self.base.trainer = self.trainer

    def _processes(self) -> tuple[int, int]:
        if self.trainer is not None:
            return self.trainer.world_size, self.trainer.global_rank
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_world_size(), torch.distributed.get_rank()
        return 1, 0

    def twin(self, seed: int) -> "ActivePool":
        """A pool over the same data with books of its own, as after ``setup`` with another seed.

        Args:
            seed: its seed.
        """
        other = copy.copy(self)
        other.seed = seed
        state = PoolState(self.state.size, self.state.fingerprint, seed)
        first = first_labels(self._whole, self.initial, self.stratified, state)
        state.label(first, round=0)
        other._state, other._journal, other._loaded = state, PoolJournal(), None
        return other

    # -- checkpoints -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The books, and the state of ``base`` if it has one."""
        if self._state is None:
            return {}
        base = self.base.state_dict() if is_overridden("state_dict", self.base) else None
        return {"pool": self._state.to_dict(), **({"base": base} if base else {})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the books of a checkpoint.

        Raises:
            ConfigurationError: if they belong to another data set.
        """
        if "base" in state_dict:
            self.base.load_state_dict(state_dict["base"])
        self._loaded = state_dict.get("pool")
        self._load()

    def _load(self) -> None:
        if self._state is not None and self._loaded is not None:
            self._state.load(self._loaded, "the pool of the checkpoint")
            self._loaded = None
