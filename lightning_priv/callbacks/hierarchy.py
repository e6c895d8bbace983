"""Whether a classifier's features form a hierarchy: distance to the origin against specificity."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics.functional import spearman_corrcoef

from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.hierarchy import HierarchyRadii, hierarchy_radii
from lightning_priv.functional.poincare import lorentz_to_ball
from lightning_priv.reports.hierarchy import hierarchy_figure
from lightning_priv.reports.hyperbolic_umap import hyperbolic_umap, require_umap
from lightning_priv.reports.latent import poincare_disk, radius_histogram
from lightning_priv.reports.tables import Table

from ._head_features import HeadFeatures
from .media import log_media

__all__ = ["HierarchyPictures"]

_FEW = 20  # names that a legend still shows


class HierarchyPictures(Callback):
    """Draw how far from the origin samples, classes and superclasses lie, at the end of ``test``.

    Features are those before the classifier's head, in its geometry (see ``FeatureQuality``).
    Written to ``<run directory>/media/lorentz``:

    - ``hierarchy`` (figure and table): the radii of the centroids of everything, of superclasses
      and of classes, and of the samples. Centroids lie nearer the origin than points whatever the
      points are, so a grey band shows superclasses of randomly grouped classes: a learnt hierarchy
      lies above it. Beside it the radius of samples against the largest probability;
    - ``superclasses`` (table): the radius of each superclass, and the mean of its classes;
    - ``radius``: histogram of the samples' radii, by superclass;
    - ``disk``: two-dimensional hyperbolic features on the Poincaré disk;
    - ``umap``: with ``umap: true``, features of any dimension on the Poincaré disk by UMAP (needs
      the extra ``umap``).

    Logged are ``lorentz/radius_{everything,superclasses,classes,samples}`` (means),
    ``lorentz/radius_random_superclasses``, ``lorentz/hierarchy_p_value`` (of superclasses as far
    out as these by chance) and ``lorentz/radius_confidence`` (Spearman's rank correlation of
    radius and largest probability). With several processes rank zero draws and measures what it
    sees.

    Args:
        superclasses: classes of each superclass; by default ``superclasses`` of the data module.
        groupings: random groupings to compare with.
        max_samples: samples to collect.
        umap: draw the UMAP.
        umap_samples: samples in it; all pairs are compared.
        head: dotted name of the head in the module.

    Raises:
        ValueError: if an argument is out of range.
        ConfigurationError: when the test starts, if the superclasses do not fit the data, or
            umap-learn is asked for and not installed.
        UnsupportedModuleError: when the test starts, if there is no such head.
    """

    def __init__(
        self,
        superclasses: Mapping[str, Sequence[str]] | None = None,
        groupings: int = 500,
        max_samples: int = 5000,
        umap: bool = False,
        umap_samples: int = 1000,
        head: str = "net.head",
    ) -> None:
        for name, value in (
            ("groupings", groupings), ("max_samples", max_samples), ("umap_samples", umap_samples),
        ):  # fmt: skip
            if value < 20:
                raise ValueError(f"{name}={value}: give at least 20")
        self.superclasses = superclasses
        self.groupings = groupings
        self.max_samples = max_samples
        self.umap = umap
        self.umap_samples = umap_samples
        self.head = head
        self.result: HierarchyRadii | None = None
        self._features: HeadFeatures | None = None
        self._points: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._confidence: list[Tensor] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the hierarchy and what is installed; listen to the head."""
        self._points, self._labels, self._confidence = [], [], []
        self._tree(trainer)
        if self.umap:
            require_umap()
        self._features = HeadFeatures(pl_module, self.head, "HierarchyPictures")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take features, labels and confidences of the batch."""
        left = self.max_samples - sum(map(len, self._points))
        if left <= 0 or not trainer.is_global_zero:
            return
        assert self._features is not None
        self._points.append(self._features.take()[:left].cpu())
        self._labels.append(batch[1][:left].cpu())
        if isinstance(outputs, Mapping) and "logits" in outputs:
            probabilities = outputs["logits"][:left].detach().float().softmax(1)
            self._confidence.append(probabilities.amax(1).cpu())

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, draw and log."""
        assert self._features is not None
        k = self._features.k
        self._close()
        values: dict[str, Tensor | float] = {}
        if trainer.is_global_zero and self._points:
            values = self._draw(trainer, k)
        for name, value in values.items():
            pl_module.log(f"lorentz/{name}", float(value), rank_zero_only=True)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Stop listening."""
        self._close()

    def _draw(self, trainer: Trainer, k: float | None) -> dict[str, Tensor | float]:
        names, superclass_of = self._tree(trainer)
        points, labels = torch.cat(self._points), torch.cat(self._labels)
        generator = torch.Generator().manual_seed(0)
        found = hierarchy_radii(points, labels, superclass_of, k, self.groupings, generator)
        self.result = found
        levels = {
            "everything": found.root[None],
            "superclasses": found.superclass,
            "classes": found.class_centroid,
            "samples": found.sample,
        }
        values: dict[str, Tensor | float] = {f"radius_{n}": r.mean() for n, r in levels.items()}
        values["radius_random_superclasses"] = found.random.mean()
        values["hierarchy_p_value"] = found.p_value
        certainty = None
        confidence = torch.cat(self._confidence) if self._confidence else torch.empty(0)
        if len(confidence) == len(points):
            certainty = (found.sample, confidence)
            ranks = spearman_corrcoef(found.sample.float(), confidence)
            values["radius_confidence"] = ranks
        present = labels.unique()
        groups = superclass_of[present]
        families = [
            (names[int(g)], found.superclass[i], found.class_centroid[groups == g])
            for i, g in enumerate(groups.unique())
        ]
        title = "geodesic" if k is not None else "Euclidean"
        figure = hierarchy_figure(levels, found.random, certainty, families, f"{title} distances")
        log_media(trainer, "lorentz/hierarchy", figure)
        rows = [
            (n, r.numel(), float(r.mean()), float(r.min()), float(r.max()))
            for n, r in {**levels, "random superclasses (means)": found.random}.items()
        ]
        columns = ["level", "number", "mean radius", "smallest", "largest"]
        log_media(trainer, "lorentz/hierarchy", Table(columns, rows, "distance to the origin"))
        members = [(n, len(c), float(r), float(c.mean())) for n, r, c in families]
        columns = ["superclass", "classes", "radius", "mean radius of its classes"]
        log_media(trainer, "lorentz/superclasses", Table(columns, members, "superclasses"))
        own = superclass_of[labels]
        present_groups = own.unique().tolist()
        if len(present_groups) <= _FEW:
            radii = {names[g]: found.sample[own == g] for g in present_groups}
            log_media(trainer, "lorentz/radius", radius_histogram(radii))
        self._draw_disks(trainer, points, own, names, k)
        return values

    def _draw_disks(
        self, trainer: Trainer, points: Tensor, own: Tensor, names: list[str], k: float | None
    ) -> None:
        if k is not None and points.shape[1] == 2:
            from lightning_priv.functional.lorentz import to_point

            disk = lorentz_to_ball(to_point(points, k), k) / k**0.5
            figure = poincare_disk(disk.float(), own, names, title="features (test)")
            log_media(trainer, "lorentz/disk", figure)
        if self.umap:
            some = torch.linspace(0, len(points) - 1, min(len(points), self.umap_samples)).long()
            neighbours = min(15, len(some) - 1)
            disk = hyperbolic_umap(points[some], k, neighbours)
            figure = poincare_disk(disk, own[some], names, title="features by UMAP (test)")
            log_media(trainer, "lorentz/umap", figure)

    def _tree(self, trainer: Trainer) -> tuple[list[str], Tensor]:
        """Names of the superclasses, and the superclass of each class."""
        data = getattr(trainer, "datamodule", None)
        tree = self.superclasses or getattr(data, "superclasses", None)
        classes = [str(name) for name in getattr(data, "class_names", ())]
        if not tree:
            raise ConfigurationError(
                f"HierarchyPictures needs superclasses, and {type(data).__name__} has none; write "
                "superclasses: {name: [class, class], ...} in the callback"
            )
        listed = [name for members in tree.values() for name in members]
        if sorted(listed) != sorted(classes):
            wrong = sorted({*listed} ^ {*classes}) or sorted(
                {n for n in listed if listed.count(n) > 1}
            )
            raise ConfigurationError(
                f"superclasses must hold every class of {type(data).__name__} once; look at "
                f"{', '.join(wrong[:10])}"
            )
        superclass_of = torch.empty(len(classes), dtype=torch.long)
        for number, members in enumerate(tree.values()):
            for name in members:
                superclass_of[classes.index(name)] = number
        return list(tree), superclass_of

    def _close(self) -> None:
        if self._features is not None:
            self._features.close()
            self._features = None
