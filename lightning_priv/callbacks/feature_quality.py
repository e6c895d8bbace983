"""What the features of a classifier are good for beyond its own classes."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_priv.errors import ConfigurationError
from lightning_priv.metrics.geodesic import FewShotAccuracy, RadiusAUROC, RetrievalByDistance

from ._head_features import HeadFeatures

__all__ = ["FeatureQuality"]


class FeatureQuality(Callback):
    """Retrieval, few-shot classification and outliers by the features before a classifier's head.

    At the end of ``test`` these are logged, in the geometry of the head (geodesic distances and
    Lorentz centroids before a ``LorentzMLR`` or ``PoincareMLR``, else Euclidean ones):

    - ``lorentz/retrieval_recall`` and ``lorentz/retrieval_map_r``: ``RetrievalByDistance``;
    - ``lorentz/few_shot_accuracy``: ``FewShotAccuracy`` of the nearest centroid;
    - ``lorentz/outlier_auroc``: ``RadiusAUROC``, if there are ``outliers``: test samples against
      another data set's, by the distance to the origin.

    Where classes have too few samples for the episodes, a warning says so and these are left out.

    Args:
        top: neighbours that retrieval looks at.
        ways: classes of a few-shot episode.
        shots: labelled points of a class in an episode.
        queries: points of a class to classify in an episode.
        episodes: number of episodes.
        outliers: data module whose test part the network does not know; its samples go through the
            same network.
        max_samples: samples to collect, in each process; retrieval compares all pairs.
        head: dotted name of the head in the module.

    Raises:
        ValueError: if an argument is out of range.
        UnsupportedModuleError: when the test starts, if there is no such head.
        ConfigurationError: when the test ends, if the network cannot take the outliers.
    """

    def __init__(
        self,
        top: int = 1,
        ways: int = 5,
        shots: int = 1,
        queries: int = 5,
        episodes: int = 200,
        outliers: LightningDataModule | None = None,
        max_samples: int = 2000,
        head: str = "net.head",
    ) -> None:
        RetrievalByDistance(top)
        FewShotAccuracy(ways, shots, queries, episodes)
        if max_samples < 2:
            raise ValueError(f"max_samples must be at least 2, got {max_samples}")
        self.top, self.ways, self.shots = top, ways, shots
        self.queries, self.episodes = queries, episodes
        self.outliers = outliers
        self.max_samples = max_samples
        self.head = head
        self._features: HeadFeatures | None = None
        self._retrieval = RetrievalByDistance()
        self._few_shot = FewShotAccuracy()
        self._radius = RadiusAUROC()
        self._seen = 0

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to the head; make the metrics."""
        self._features = HeadFeatures(pl_module, self.head, "FeatureQuality")
        k, device = self._features.k, pl_module.device
        self._retrieval = RetrievalByDistance(self.top, k).to(device)
        self._few_shot = FewShotAccuracy(self.ways, self.shots, self.queries, self.episodes, k).to(
            device
        )
        self._radius = RadiusAUROC(k).to(device)
        self._seen = 0

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take the features of the batch."""
        left = self.max_samples - self._seen
        if left <= 0:
            return
        assert self._features is not None
        points, labels = self._features.take()[:left], batch[1][:left]
        self._seen += len(points)
        self._retrieval.update(points, labels)
        self._few_shot.update(points, labels)
        self._radius.update(points, False)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the outliers' features; log."""
        try:
            if self.outliers is not None:
                self._take_outliers(trainer, pl_module, self.outliers)
        finally:
            self._close()
        found = {}
        try:
            found = {f"retrieval_{name}": v for name, v in self._retrieval.compute().items()}
            found["few_shot_accuracy"] = self._few_shot.compute()
        except ValueError as error:  # a test of few batches may have too few classes
            rank_zero_warn(f"FeatureQuality leaves out what needs more samples: {error}")
        if self.outliers is not None:
            found["outlier_auroc"] = self._radius.compute().float()
        for name, value in found.items():
            # the metrics have the samples of all processes: equal values are averaged
            pl_module.log(f"lorentz/{name}", value, sync_dist=True)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Stop listening."""
        self._close()

    def _take_outliers(
        self, trainer: Trainer, pl_module: LightningModule, outliers: LightningDataModule
    ) -> None:
        """Every process takes the same outliers: repeated ones do not change the area."""
        assert self._features is not None
        if trainer.is_global_zero:
            outliers.prepare_data()
        trainer.strategy.barrier()
        outliers.setup("test")
        taken = 0
        with trainer.precision_plugin.forward_context(), torch.no_grad():
            for batch in outliers.test_dataloader():
                x = (batch[0] if isinstance(batch, (tuple, list)) else batch).to(pl_module.device)
                try:
                    pl_module(x)
                except (RuntimeError, ValueError) as error:
                    raise ConfigurationError(
                        f"FeatureQuality: {type(pl_module).__name__} cannot take the outliers of "
                        f"{type(outliers).__name__}, shape {tuple(x.shape[1:])}: "
                        f"{str(error).splitlines()[0]}; give a data set of the same kind of image"
                    ) from error
                points = self._features.take()[: self.max_samples - taken]
                taken += len(points)
                self._radius.update(points, True)
                if taken >= self.max_samples:
                    return

    def _close(self) -> None:
        if self._features is not None:
            self._features.close()
            self._features = None
