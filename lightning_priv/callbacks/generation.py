"""Fréchet and kernel distances between real and generated images."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from lightning_priv.data.sampling import mix
from lightning_priv.errors import ConfigurationError, UnsupportedModuleError
from lightning_priv.nn.small import SmallCNN

from .latent import as_autoencoder

__all__ = ["GenerationQuality"]

_log = logging.getLogger(__name__)
_EXTRACTOR_SEED = 0
_EXTRACTOR_SAMPLES = 10_000
_LEAST_KID = 2


class _Pooled(nn.Module):
    """Features before the head of a ``SmallCNN``."""

    def __init__(self, net: SmallCNN) -> None:
        super().__init__()
        self.body = net.body
        self.num_features = net.head.in_features

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))


class _Features(nn.Module):
    """Stands where torchmetrics wants an extractor: what comes in are features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


class GenerationQuality(Callback):
    """FID and KID of an autoencoder's reconstructions and samples, at the end of ``test``.

    Real images are those of the test part. Following the HCNN paper, reconstructions are those of
    the *validation* images, and as many images are drawn from the prior as there are test images,
    by random numbers of their own that follow from the seed, the process and the batch.
    Logged are ``test/fid_reconstruction``, ``test/fid_generation``, and the same for ``kid``.

    The features come from ``extractor``: FIDs compare with published ones only if it is the
    Inception network of that publication (``lightning_priv.models.InceptionFeatures`` reads its
    weights from a file). Without an extractor nothing of the kind is at hand offline: then a small
    CNN is trained on the labels of the training part (10,000 of its samples at most), always from
    the same seed, and the metrics are called ``fid_offline_...`` and ``kid_offline_...``. They rank
    models on one data set and compare with nothing else.

    Args:
        extractor: from images in [0, 1], shape (B, C, H, W), to features, shape (B, D), with D in
            its attribute ``num_features``.
        kid_subset_size: images in a subset of KID; at most the number of images.
        offline_epochs: epochs of training the small CNN.

    Raises:
        ValueError: if an argument is out of range.
        UnsupportedModuleError: when the test starts, if the module is no autoencoder, or without an
            extractor if the data module has no labelled training part.
        ConfigurationError: when the test starts, if there are no validation images, or the
            extractor does not say how many features it gives.
    """

    def __init__(
        self,
        extractor: nn.Module | None = None,
        kid_subset_size: int = 100,
        offline_epochs: int = 10,
    ) -> None:
        if kid_subset_size < _LEAST_KID or offline_epochs < 1:
            raise ValueError(
                f"kid_subset_size={kid_subset_size}, offline_epochs={offline_epochs}: give at "
                f"least {_LEAST_KID} and 1"
            )
        self.extractor = extractor
        self.kid_subset_size = kid_subset_size
        self.offline_epochs = offline_epochs
        self._extract: nn.Module = _Features(1)
        self._metrics: dict[str, tuple[FrechetInceptionDistance, KernelInceptionDistance]] = {}

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the metrics; train the small CNN if there is no extractor."""
        as_autoencoder(pl_module, "GenerationQuality")
        data = getattr(trainer, "datamodule", None)
        if getattr(data, "val_dataset", None) is None:
            raise ConfigurationError(
                "GenerationQuality reconstructs validation images, and there are none; set "
                "--data.init_args.val_size, for example 0.1"
            )
        extractor = self.extractor or self._train(trainer, data)
        size = getattr(extractor, "num_features", None)
        if not isinstance(size, int):
            raise ConfigurationError(
                f"the extractor {type(extractor).__name__} must say how many features it gives in "
                f"its attribute num_features (a whole number), got {size!r}"
            )
        self._extract = extractor.to(pl_module.device).eval().requires_grad_(False)
        self._metrics = {
            what: (
                FrechetInceptionDistance(feature=_Features(size)).to(pl_module.device),
                KernelInceptionDistance(
                    feature=_Features(size), subset_size=self.kid_subset_size
                ).to(pl_module.device),
            )
            for what in ("reconstruction", "generation")
        }

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take real images, and draw as many."""
        x = _images(batch).float()
        self._update(["reconstruction", "generation"], x, real=True)
        with isolate_rng():
            # processes start from one seed and would all draw the same images
            torch.manual_seed(mix(torch.initial_seed(), trainer.global_rank, batch_idx))
            drawn = as_autoencoder(pl_module, "").sample(len(x)).float()
        self._update(["generation"], drawn, real=False)

    @torch.no_grad()
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reconstruct the validation images; log the distances."""
        module = as_autoencoder(pl_module, "")
        with trainer.precision_plugin.forward_context():
            for batch in trainer.datamodule.val_dataloader():  # type: ignore[attr-defined]
                x = _images(batch).to(pl_module.device)
                drawn = module.decode(module.encode_mean(x))
                self._update(["reconstruction"], drawn, real=False)
        label = "" if self.extractor is not None else "offline_"
        for what, (fid, kid) in self._metrics.items():
            try:
                with isolate_rng():
                    torch.manual_seed(0)  # the same subsets on every process
                    mean, _ = kid.compute()
            except ValueError as error:
                raise ConfigurationError(
                    f"kid_subset_size={self.kid_subset_size}, but there are fewer images in the "
                    f"validation or the test part ({error}); give a smaller subset"
                ) from error
            # metrics have the samples of all processes: equal values are averaged
            for name, value in (("fid", fid.compute()), ("kid", mean)):
                pl_module.log(f"test/{name}_{label}{what}", value.float(), sync_dist=True)
        self._metrics = {}

    @torch.no_grad()
    def _update(self, names: Sequence[str], images: Tensor, real: bool) -> None:
        """Give the features of images to metrics; the extractor sees every image once."""
        with torch.autocast(images.device.type, enabled=False):
            features = self._extract(images.float())
        for name in names:
            for metric in self._metrics[name]:
                metric.update(features, real=real)

    def _train(self, trainer: Trainer, data: Any) -> nn.Module:
        """A small CNN trained on the training part: the same on every process and in every run."""
        dataset = getattr(data, "plain_train_dataset", None)
        if dataset is None or getattr(data, "num_classes", 0) < 2:
            raise UnsupportedModuleError(
                "GenerationQuality without an extractor trains a small CNN on the data module's "
                "labels, and it has none; give an extractor, for example "
                "lightning_priv.models.InceptionFeatures"
            )
        with isolate_rng(), torch.inference_mode(False), torch.enable_grad():
            torch.manual_seed(_EXTRACTOR_SEED)
            if len(dataset) > _EXTRACTOR_SAMPLES:
                dataset = dataset.take(torch.randperm(len(dataset))[:_EXTRACTOR_SAMPLES])
            x, y = dataset.inputs().float(), dataset.targets
            net = SmallCNN(data.num_classes, x.shape[1], width=16)
            optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
            for _ in range(self.offline_epochs):
                for rows in torch.randperm(len(x)).split(64):
                    optimizer.zero_grad()
                    F.cross_entropy(net(x[rows].clone()), y[rows].clone()).backward()
                    optimizer.step()
            with torch.no_grad():
                share = (net(x[:2000]).argmax(1) == y[:2000]).float().mean()
        _log.info("GenerationQuality trained its extractor to %.1f %%", 100 * float(share))
        return _Pooled(net)


def _images(batch: Any) -> Tensor:
    x = batch[0] if isinstance(batch, (tuple, list)) else batch
    assert isinstance(x, Tensor)
    return x
