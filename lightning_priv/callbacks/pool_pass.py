"""What a model says about a pool, from all processes, without a trace in the training."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor

from lightning_priv.acquisition import Acquisition, PoolView
from lightning_priv.data.sampling import mix
from lightning_priv.errors import UnsupportedModuleError
from lightning_priv.functional import Shards
from lightning_priv.protocols import LabelPool

from ._extraction import _transferred
from ._layer_features import LayerFeatures, forward, undisturbed
from .fixed_masks import FixedMasks, dropout_layers

__all__ = ["Outputs", "pool_view"]

Outputs = Literal["logits", "probs"]

_NO_INPUTS = ("label", "labels", "target", "targets", "y", "index", "idx", "id", "sample_id")


def pool_view(
    trainer: Trainer,
    pl_module: LightningModule,
    pool: LabelPool,
    acquisition: Acquisition,
    ids: Tensor | None = None,
    seed: int = 0,
    feature_layer: Any = "auto",
    outputs: Outputs = "logits",
    multi_label: bool = False,
) -> PoolView:
    """Predictions and features that an acquisition needs, equal on every process.

    The module predicts in evaluation mode by ``forward`` (or ``acquisition_forward``, if it has
    one), without gradients and autocast. Monte-Carlo draws are members of an ensemble (outputs of
    shape (M, B, C), as those of ``StackedMembers``), else dropout by ``FixedMasks``. Modes,
    buffers and random generators are afterwards as they were.

    Args:
        trainer: the run; inside and outside of its loops.
        pl_module: the module.
        pool: the pool.
        acquisition: says what it needs; without needs nothing is computed.
        ids: global indices to score, ascending; default: the pool.
        seed: seed of the dropout masks.
        feature_layer: see ``LayerFeatures``.
        outputs: what ``forward`` gives: ``logits`` or ``probs``.
        multi_label: several labels a sample: sigmoids in the place of a softmax.

    Returns:
        The view, its rows in the order of ``ids``, on the CPU.

    Raises:
        ValueError: if a prediction or feature is NaN or infinite, with the global indices.
        ConfigurationError: if draws are asked of a module that has none.
        UnsupportedModuleError: if the module's outputs are not understood.
    """
    ids = pool.pool_indices if ids is None else ids
    needs = acquisition.needs
    if not needs:
        return PoolView(len(ids), multi_label=multi_label)
    reader = _Reader(trainer, pl_module, pool, feature_layer, outputs, multi_label)
    found: dict[str, Tensor] = {}
    with _on_device(trainer, pl_module), undisturbed(trainer, pl_module):
        _same_buffers(pl_module)
        members = "mc" in needs and reader.is_ensemble
        found = reader.read(
            ids,
            features="embeddings" in needs,
            predict="probs" in needs or members,
            draws=_masks(acquisition, seed) if "mc" in needs and not members else (),
        )
        if "labelled_embeddings" in needs and len(pool.labelled_indices):
            known = reader.read(pool.labelled_indices, features=True)
            found["labelled_embeddings"] = known["embeddings"]
    return PoolView(
        len(ids),
        found.get("probs"),
        found.get("mc"),
        found.get("embeddings"),
        found.get("labelled_embeddings"),
        multi_label=multi_label,
    )


def _masks(acquisition: Acquisition, seed: int) -> list[int]:
    """Seeds of the dropout masks of each draw."""
    return [mix(seed, draw) for draw in range(acquisition.draws)]


def _same_buffers(pl_module: LightningModule) -> None:
    """Let all processes predict with the buffers of the first, which is what a checkpoint holds.

    Weights are equal; running means of a batch norm are those of each process's own batches.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for buffer in pl_module.buffers():
            torch.distributed.broadcast(buffer, src=0)


@contextmanager
def _on_device(trainer: Trainer, pl_module: LightningModule) -> Iterator[None]:
    """The module where the Trainer computes: after a fit it lies on the CPU."""
    before, device = pl_module.device, trainer.strategy.root_device
    if before != device:
        pl_module.to(device)
    try:
        yield
    finally:
        if before != device:
            pl_module.to(before)


class _Reader:
    """Passes over samples of a pool."""

    def __init__(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        pool: LabelPool,
        feature_layer: Any,
        outputs: Outputs,
        multi_label: bool,
    ) -> None:
        self.trainer, self.pl_module, self.pool = trainer, pl_module, pool
        self.features = LayerFeatures(pl_module, feature_layer)
        self.outputs, self.multi_label = outputs, multi_label
        members = getattr(pl_module, "members", None)
        self.members = members if isinstance(members, int) else 0

    @property
    def is_ensemble(self) -> bool:
        """Whether the module predicts by several members."""
        return self.members > 1

    def read(
        self,
        ids: Tensor,
        features: bool = False,
        predict: bool = False,
        draws: Sequence[int] = (),
    ) -> dict[str, Tensor]:
        """Outputs of samples, in the order of ``ids``, from all processes.

        Args:
            ids: global indices.
            features: read features.
            predict: read predictions.
            draws: seeds of dropout masks to predict under.
        """
        layers = dropout_layers(self.pl_module) if draws else None
        masks = [FixedMasks(self.pl_module, draw, layers) for draw in draws]
        what = (features, predict, masks)
        loader = self.pool.pool_dataloader(ids)
        own = ids[torch.tensor(loader.sampler.positions, dtype=torch.long)]
        parts: list[dict[str, Tensor]] = [self._batch(b, *what) for b in loader]
        if not len(ids):
            return dict.fromkeys(("probs", "embeddings"), torch.empty(0, 0))
        shards = Shards.of_process_group()
        if not parts:  # fewer blocks than processes: the shapes of one sample
            spare = self.pool.pool_dataloader(ids[:1])
            spare.sampler.positions = [0]
            (sample,) = (self._batch(b, *what) for b in spare)
            parts = [{name: value[:0] for name, value in sample.items()}]
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        rows = len(next(iter(joined.values())))
        if rows != len(own):
            raise UnsupportedModuleError(
                f"{len(own)} samples came back as {rows} predictions; the collate function and "
                "forward must keep every sample, in order"
            )
        if shards.world_size > 1:
            device = self.trainer.strategy.root_device
            where = torch.argsort(torch.argsort(ids))  # place of each id among the sorted ones
            joined = {
                name: shards.gather(value.to(device), own.to(device))[1].cpu()[where]
                for name, value in joined.items()
            }
        for name, value in joined.items():
            _refuse_broken(name, value, ids)
        if "mc" in joined:
            joined["mc"] = joined["mc"].transpose(0, 1)
            joined.setdefault("probs", joined["mc"].mean(0))
        return joined

    def _batch(
        self, batch: Any, features: bool, predict: bool, masks: Sequence[FixedMasks]
    ) -> dict[str, Tensor]:
        """Rows of one batch, samples first."""
        datamodule = self.pool if isinstance(self.pool, LightningDataModule) else None
        whole = self.trainer.precision_plugin.convert_input(batch)
        whole = _transferred(whole, self.pl_module, datamodule)
        inputs = _inputs(whole)
        found: dict[str, Tensor] = {}
        seen: list[Any] = []
        with ExitStack() as stack:
            if features:
                hook = nullcontext()
                if predict and not hasattr(self.pl_module, "acquisition_forward"):
                    hook = self.pl_module.register_forward_hook(  # type: ignore[assignment]
                        lambda _, __, output: seen.append(output)
                    )
                stack.enter_context(hook)
                found["embeddings"] = self.features(whole, inputs)
        if predict:
            output = seen[-1] if seen else self._predict(inputs)
            found |= self._probabilities(output)
        if masks:
            drawn = []
            for mask in masks:
                with mask:
                    drawn.append(self._probabilities(self._predict(inputs))["probs"])
            found["mc"] = torch.stack(drawn, 1)
        return found

    def _predict(self, inputs: Any) -> Any:
        own = getattr(self.pl_module, "acquisition_forward", None)
        if own is not None:
            return own(inputs)
        seen: list[Any] = []
        with self.pl_module.register_forward_hook(lambda _, __, out: seen.append(out)):
            forward(self.pl_module, inputs)
        if not seen:
            raise UnsupportedModuleError(
                f"lsi_forward of {type(self.pl_module).__name__} does not call forward; write "
                "acquisition_forward(x) in it, which gives logits"
            )
        return seen[-1]

    def _probabilities(self, output: Any) -> dict[str, Tensor]:
        output = getattr(output, "logits", output)
        if isinstance(output, Mapping):
            output = output.get("logits", output)
        kind = 3 if self.is_ensemble else 2
        if not isinstance(output, Tensor) or output.ndim != kind or output.shape[-1] < 1:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UnsupportedModuleError(
                f"forward of {type(self.pl_module).__name__} gives {got}; an acquisition needs "
                f"{'(members, batch, classes)' if kind == 3 else '(batch, classes)'}: write "
                "acquisition_forward(x) in the module, which gives logits"
            )
        values = output.detach()
        values = values if values.dtype == torch.float64 else values.float()
        if self.outputs == "logits":
            self._refuse_probabilities(values)
            values = values.sigmoid() if self.multi_label else values.softmax(-1)
        values = values.cpu()
        return {"mc": values.transpose(0, 1)} if self.is_ensemble else {"probs": values}

    def _refuse_probabilities(self, values: Tensor) -> None:
        if self.multi_label or values.shape[-1] < 2 or not len(values):
            return
        sums = values.sum(-1)
        if bool((values >= 0).all()) and bool(((sums - 1).abs() < 1e-4).all()):
            raise UnsupportedModuleError(
                f"forward of {type(self.pl_module).__name__} gives probabilities, not logits; a "
                "second softmax would make them all alike: set outputs: probs"
            )


def _inputs(batch: Any) -> Any:
    """What goes into forward."""
    if isinstance(batch, Mapping):
        rest = {k: v for k, v in batch.items() if k not in _NO_INPUTS}
        return next(iter(rest.values())) if len(rest) == 1 else rest
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def _refuse_broken(name: str, values: Tensor, ids: Tensor) -> None:
    bad = ~values.flatten(1).isfinite().all(1) if values.numel() else torch.zeros(0)
    if bool(bad.any()):
        broken = ids[bad.nonzero().flatten()].tolist()
        shown = ", ".join(map(str, broken[:10])) + (", ..." if len(broken) > 10 else "")
        raise ValueError(
            f"{name} is NaN or infinite for {len(broken)} samples, indices {shown}; nothing was "
            "chosen: check the training (loss, learning rate) and these samples, or take them out "
            "with pool.ignore"
        )
