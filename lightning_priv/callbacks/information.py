"""Laplace sample information of the training samples of any Lightning project."""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from matplotlib.figure import Figure
from torch import Tensor

from lightning_priv.errors import PrivacyError
from lightning_priv.files import write_atomically
from lightning_priv.functional import Shards
from lightning_priv.protocols import PrivateStrategy
from lightning_priv.reports.information import Corruption, SampleScores, Scoring, write_scores
from lightning_priv.reports.information.scoring import Baseline, Covariance, Estimator, Head

from ._extraction import extract, features_folder
from ._forgetting import ForgettingHistory, look
from ._information_media import Samples, log_information, log_order_drift
from ._once import OnceCallback
from ._training_samples import TrainingSamples, find_samples
from ._weight_decay import weight_decay
from .media import log_media, run_directory

__all__ = ["LSIProbe"]

_log = logging.getLogger(__name__)


class LSIProbe(OnceCallback):
    """Score how much each training sample tells a linear probe on the network's features.

    Laplace sample information (Kaiser et al., ICLR 2025): the KL divergence between the Laplace
    posterior of the probe with all samples and without one, in nats. The features are what goes
    into the network's last linear layer, in evaluation mode and without augmentation; every sample
    is read once, on any number of processes. Each keeps the features of its share in a file, which
    is read in pieces if it is large (``memory_gib``); sums go over all processes, nothing is padded
    and only the scores are gathered. The training is left as it is, bit for bit.

    Written below ``<run directory>/lsi/epoch=XX``: ``scores.csv`` (and ``scores.parquet`` with
    pyarrow), ``summary.json``, ``probe.pt`` and figures, with ``sets`` also ``sets.csv``. Logged:
    ``lsi/mean, std, max``, with ``corrupt`` also ``lsi/auroc/<score>`` and ``lsi/ap/<score>``,
    tables and figures.

    The scores are computed from training samples without noise. Under a private strategy they are
    covered by no epsilon: the files go to ``<run directory>/private/lsi``, with a note, and nothing
    is logged unless ``log_private`` is set, and then below ``private/lsi``.

    For other projects: batches are (x, y), (x, y, index), or mappings with a key such as ``label``.
    A data module may give ``lsi_dataloader()``, one loader in a fixed order without augmentation; a
    module may give ``lsi_forward(inputs)``, which is called in the place of ``forward``.

    Args:
        feature_layer: ``auto``: the input of the linear layer that the network calls last
            (hyperbolic points as tangent vectors at the origin); a dotted name: the output of that
            sub-module; or a function of the batch that returns features.
        when: ``fit_end``; ``every_n_epochs``; ``validation_end``; ``manual``, which scores in
            ``Trainer.validate`` and when ``score`` is called.
        every_n_epochs: epochs from one scoring to the next, with ``when: every_n_epochs``.
        prior_precision: lambda of the summed loss; ``weight_decay``: n times the optimizer's;
            ``marglik``: the lambda of largest marginal likelihood.
        covariance: covariances of the posterior to report; the first one ranks.
        estimator: how the posterior without a sample is had: ``alo`` in closed form, which leaves
            the curvature of the other samples as it was: the score ranks as the exact one, its part
            ``lsi_full_curv`` alone does not where labels are wrong; ``alo_sketch`` adds that
            change, with ``sketch_dim`` 128 in about twice the time; ``exact`` by leave-one-out;
            ``self`` without a step; ``retrain`` by the paper's training loop.
        head: kind of targets; by default it follows from the labels.
        sketch_dim: random vectors of ``alo_sketch``, and of the baseline ``trak``.
        refine_top_k: compute the highest k scores again by exact leave-one-out.
        standardize: ``zscore`` standardises each feature, ``l2`` scales each sample to length 1.
        max_samples: score only so many samples, evenly spaced.
        classes: score only samples of these classes.
        eval_transform: put in the place of the training data set's ``transform``.
        batch_size: samples in a batch of the feature extraction; default: the training loader's.
        dtype: precision of the probe.
        chunk_rows: samples that the probe works on at once.
        device: where the probe is computed; ``auto`` is a GPU if there is one.
        baselines: other scores to put beside it. ``forgetting`` counts during the training, after
            each epoch, how often the network is wrong on a sample that it was right on before (one
            more pass over the samples); ``knn_shapley`` holds all features in memory.
        cv_folds: folds of the cross-validated baselines.
        seed: seed of sketches and folds.
        protocol: of ``estimator: retrain``, see ``Scoring``.
        corrupt: a controlled corruption of what the probe is fitted to.
        dirpath: where the files go; default: below the run directory.
        keep_features: keep the features after they are scored. They are also kept if the scoring
            is interrupted, and the next run with the same weights and samples goes on from them.
        log_images: pictures in the table of the most and the least informative samples.
        top_k: rows of each end of that table.
        figures: draw figures, which takes some seconds.
        wandb: also send tables and figures to the loggers; files are written in any case.
        log_private: also log under a private strategy, where epsilon does not cover it.
        fail: ``raise``, or ``warn`` to let the training go on if the scoring fails.
        memory_gib: features of a process up to this size are held in memory, larger ones are read
            from their file in pieces, ``chunk_rows`` at a time.
        sets: also score whole sets of samples: ``classes``, or a .npy file with the number of the
            set of each sample id (negative: of none).
        sets_estimator: ``exact`` fits the probe without each set; ``alo`` takes one Newton step,
            which is good for small sets only.

    Raises:
        ValueError: if an argument is out of range.
        UnsupportedModuleError: when scoring, if layer, batches or data set cannot be used.
    """

    def __init__(
        self,
        feature_layer: str | Callable[[Any], Tensor] = "auto",
        when: Literal["fit_end", "every_n_epochs", "validation_end", "manual"] = "fit_end",
        every_n_epochs: int = 1,
        prior_precision: float | Literal["weight_decay", "marglik"] = 1.0,
        covariance: Sequence[Covariance] = ("full", "diag"),
        estimator: Estimator = "alo",
        head: Head = "auto",
        sketch_dim: int = 512,
        refine_top_k: int = 0,
        standardize: Literal["none", "zscore", "l2"] = "none",
        max_samples: int | None = None,
        classes: Sequence[int] | None = None,
        eval_transform: Callable[[Any], Any] | None = None,
        batch_size: int | None = None,
        dtype: Literal["float64", "float32"] = "float64",
        chunk_rows: int = 16384,
        device: str = "auto",
        baselines: Sequence[Baseline] = ("loss", "el2n", "grad_norm", "loo_loss", "cl_margin"),
        cv_folds: int = 5,
        seed: int = 0,
        protocol: Literal["paper", "matched"] = "paper",
        corrupt: Corruption | None = None,
        dirpath: str | None = None,
        keep_features: bool = False,
        log_images: int = 32,
        top_k: int = 25,
        figures: bool = True,
        wandb: bool = True,
        log_private: bool = False,
        fail: Literal["raise", "warn"] = "raise",
        memory_gib: float = 4.0,
        sets: str | None = None,
        sets_estimator: Literal["alo", "exact"] = "exact",
    ) -> None:
        for name, value, least in (
            ("every_n_epochs", every_n_epochs, 1),
            ("max_samples", max_samples, 2),
            ("batch_size", batch_size, 1),
            ("log_images", log_images, 0),
            ("top_k", top_k, 1),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name}={value}: give a whole number of at least {least}")
        self._from_weight_decay = prior_precision == "weight_decay"
        self.scoring = Scoring(
            prior_precision=1.0 if prior_precision == "weight_decay" else prior_precision,
            covariance=tuple(covariance),
            estimator=estimator,
            head=head,
            sketch_dim=sketch_dim,
            refine_top_k=refine_top_k,
            standardize=standardize,
            dtype=dtype,
            chunk_rows=chunk_rows,
            device=device,
            baselines=tuple(baselines),
            cv_folds=cv_folds,
            seed=seed,
            protocol=protocol,
            memory_gib=memory_gib,
            sets=sets,
            sets_estimator=sets_estimator,
        )
        self.feature_layer = feature_layer
        self.when = when
        self.every_n_epochs = every_n_epochs
        self.max_samples = max_samples
        self.classes = classes
        self.eval_transform = eval_transform
        self.batch_size = batch_size
        self.corrupt = corrupt
        self.dirpath = dirpath
        self.keep_features = keep_features
        self.log_images = log_images
        self.top_k = top_k
        self.figures = figures
        self.wandb = wandb
        self.log_private = log_private
        self.fail = fail
        self.scores: SampleScores | None = None  # of the last scoring, on every process
        self._history: dict[int, np.ndarray[Any, Any]] = {}
        self._forgetting = ForgettingHistory()
        self._rests = self._ended = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Rest if an earlier LSIProbe is there; say what is not covered by epsilon."""
        self._rests = self.is_repeated(trainer)
        self._history, self._ended = {}, False
        self._forgetting = ForgettingHistory()  # a checkpoint is loaded after this
        if not self._rests and stage == "fit" and self._private(trainer):
            rank_zero_warn(
                "LSIProbe computes scores from training samples without noise, and epsilon does "
                "not cover them: its files lie below private/lsi of the run directory and must be "
                "kept like the training data; log_private: true logs them all the same"
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count what the network has forgotten, if asked for; score every so many epochs."""
        if self._counts:
            self._try(trainer, pl_module, self._look)
        if self.when == "every_n_epochs" and not (trainer.current_epoch + 1) % self.every_n_epochs:
            self._try(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score after each validation, or in ``Trainer.validate``."""
        if trainer.sanity_checking:
            return
        manual = self.when == "manual" and trainer.state.fn == "validate"
        if self.when == "validation_end" or manual:
            self._try(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the trained network; draw how the order changed over the epochs."""
        self._ended = True  # the Trainer counts the next epoch now
        if self.when == "fit_end":
            self._try(trainer, pl_module)
        if len(self._history) > 1 and self._may_log(trainer) and trainer.is_global_zero:
            log_order_drift(trainer, self._prefix(trainer), self._history)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score if training was complete when it went on: it was killed before its scores."""
        if not self._ended and trainer.global_step > 0:
            self.on_train_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """What was counted of forgetting so far, if it is counted."""
        return {"forgetting": self._forgetting.state_dict()} if self._counts else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting from a checkpoint."""
        if "forgetting" in state_dict:
            self._forgetting.load_state_dict(state_dict["forgetting"])

    @property
    def _counts(self) -> bool:
        return "forgetting" in self.scoring.baselines

    def _try(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        act: Callable[[Trainer, LightningModule], Any] | None = None,
    ) -> None:
        if self._rests:
            return
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            _log.info("LSIProbe does nothing with fast_dev_run")
            return
        try:
            (act or self.score)(trainer, pl_module)
        except (PrivacyError, RuntimeError, TypeError, ValueError) as error:
            if self.fail == "raise":
                raise
            rank_zero_warn(f"LSIProbe failed, and fail is warn: {type(error).__name__}: {error}")

    def score(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        datamodule: LightningDataModule | None = None,
    ) -> SampleScores:
        """Extract features, score them, write and log. Every process must call it.

        Args:
            trainer: the run.
            pl_module: the network, on its device.
            datamodule: default: the trainer's.

        Returns:
            The table of scores, on every process.
        """
        datamodule, samples, shards = self._samples(trainer, pl_module, datamodule)
        store = Path(trainer.default_root_dir) / ("private" if self._private(trainer) else "")
        folder = features_folder(
            store / "lsi_features", pl_module, samples, str(self.feature_layer), shards
        )
        own, layer = extract(
            trainer, pl_module, datamodule, samples, self.feature_layer, shards, folder
        )
        total = int(shards.sum(torch.tensor(float(len(own.ids)))))
        scoring = self._resolved(trainer, pl_module, datamodule, total)
        given = {"forgetting": self._forgetting.of(own.ids)} if self._counts else {}
        try:
            scores = scoring.score(own.features, own.labels, own.ids, self.corrupt, shards, given)
        except ValueError:  # of the samples: they will be other ones when they are mended
            shutil.rmtree(folder, ignore_errors=True)
            raise
        epoch = self._epoch(trainer)
        scores.facts.update(
            feature_layer=layer,
            model=type(pl_module).__name__,
            data=type(datamodule).__name__ if datamodule is not None else None,
            epoch=epoch,
            step=trainer.global_step,
            world_size=shards.world_size,
        )
        self.scores = scores
        self._history[epoch] = scores.columns[scores.primary]
        if trainer.is_global_zero:
            self._report(trainer, scores, samples, datamodule)
        if not self.keep_features:  # every process removes what it finds: disks may differ
            shutil.rmtree(folder, ignore_errors=True)
        return scores

    def _samples(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        datamodule: LightningDataModule | None = None,
    ) -> tuple[LightningDataModule | None, TrainingSamples, Shards]:
        if datamodule is None:
            datamodule = getattr(trainer, "datamodule", None)
        choice = (self.eval_transform, self.classes, self.max_samples, self.batch_size)
        samples = find_samples(trainer, pl_module, datamodule, *choice)
        several = trainer.world_size > 1
        return datamodule, samples, Shards.of_process_group() if several else Shards()

    def _look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """One look of the forgetting count, at all samples, each process at its share."""
        datamodule, samples, shards = self._samples(trainer, pl_module)
        look(self._forgetting, trainer, pl_module, datamodule, samples, shards)

    def _resolved(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        datamodule: LightningDataModule | None,
        samples: int,
    ) -> Scoring:
        """The scoring with what follows from the run: number of classes, weight decay."""
        owners = (datamodule, pl_module)
        classes = next(
            (c for o in owners if isinstance(c := getattr(o, "num_classes", None), int)), None
        )
        scoring = replace(self.scoring, num_classes=classes)
        if not self._from_weight_decay:
            return scoring
        return replace(scoring, prior_precision=samples * weight_decay(trainer))

    def _report(
        self,
        trainer: Trainer,
        scores: SampleScores,
        samples: TrainingSamples,
        datamodule: LightningDataModule | None,
    ) -> None:
        private = self._private(trainer)
        names = getattr(datamodule, "class_names", None)
        shown = Samples(scores, samples, names, self.log_images, self.top_k)
        folder = self._folder(trainer)
        note = {"private": "computed from training samples without noise; no epsilon covers it"}
        shares = self.wandb and self._may_log(trainer)
        figures: dict[str, Figure | Path] = {}
        for name, figure in shown.figures().items() if self.figures else ():
            key = f"{self._prefix(trainer)}/{name}"
            figures[name] = (log_media(trainer, key, figure) if shares else None) or figure
        summary = write_scores(scores, folder, names, note if private else None, figures)
        write_atomically(folder / "ranking.csv", shown.table().render("csv") + "\n")
        if private:
            write_atomically(
                folder / "NOT_PRIVATE.txt",
                "These files were computed from training samples without noise. No epsilon covers "
                "them: keep them like the training data.\n",
            )
        rank_zero_info(f"lsi: {len(scores)} samples, files in {folder}")
        if self._may_log(trainer):
            log_information(trainer, self._prefix(trainer), summary, shown, self.wandb)

    def _folder(self, trainer: Trainer) -> Path:
        base = Path(self.dirpath) if self.dirpath is not None else run_directory(trainer)
        base = base / "private" / "lsi" if self._private(trainer) else base / "lsi"
        return base / f"epoch={self._epoch(trainer):02d}"

    def _epoch(self, trainer: Trainer) -> int:
        """Number of the last epoch that was trained, from 0, as in the names of checkpoints."""
        return max(0, trainer.current_epoch - 1) if self._ended else trainer.current_epoch

    def _private(self, trainer: Trainer) -> bool:
        return isinstance(trainer.strategy, PrivateStrategy)

    def _may_log(self, trainer: Trainer) -> bool:
        return self.log_private or not self._private(trainer)

    def _prefix(self, trainer: Trainer) -> str:
        return "private/lsi" if self._private(trainer) else "lsi"
