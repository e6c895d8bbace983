"""One pass of an ensemble over one loader: sums for the metrics, rows for the report."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.multiplicity import Rule
from lightning_priv.metrics import (
    MultilabelAbstention,
    MultilabelMultiplicity,
    MultiplicityCollection,
)
from lightning_priv.nn.ensemble import Ensemble
from lightning_priv.reports.multiplicity_votes import Votes

from .evaluation_batches import BatchKeys, Positions

__all__ = ["EnsemblePass"]


class EnsemblePass:
    """Evaluates the members batch by batch.

    Repeats that a distributed sampler adds to fill the last round are left out everywhere.

    Args:
        ensemble: the members, on the device of the batches.
        loader: loader of this process.
        processes: number of processes that share the data.
        keys: where batches keep their parts.
        rule: decision rule, ready to decide.
        baseline: member, or ``majority``, that others are compared with.
        capacity: also compute the Rashomon capacity.
        metrics: compute the metrics; needs nothing but sums.
        rows: keep the probabilities of every sample.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        loader: Any,
        processes: int,
        keys: BatchKeys,
        rule: Rule | None = None,
        baseline: int | str = 0,
        capacity: bool = False,
        metrics: bool = True,
        rows: bool = True,
    ) -> None:
        self.ensemble = ensemble
        self.keys = keys
        self.processes = processes
        self.indexed = bool(getattr(getattr(loader, "dataset", None), "indexed", False))
        self._positions = Positions(loader, processes)
        self._rule, self._baseline, self._capacity = rule, baseline, capacity
        self._wants_metrics = metrics
        self._wants_rows = rows
        self._metrics: MultiplicityCollection | MultilabelMultiplicity | None = None
        self._abstention: MultilabelAbstention | None = None
        self._rows: list[tuple[Tensor, list[int | str], Tensor, Tensor | None]] = []
        self._has_target: bool | None = None

    @torch.no_grad()
    def update(self, batch: Any) -> None:
        """Evaluate one batch."""
        parts = self.keys.split(batch, self.indexed)
        # the members must not be disturbed by, nor disturb, autocast and grad mode of the run
        probs = self.ensemble(parts.x)
        places = self._positions.take(probs.shape[1])
        target = self._target(parts.target, probs)
        ids = parts.ids
        if ids is None and self._positions.shuffled:
            raise ConfigurationError(
                "the evaluation loader shuffles, so samples are known by no number; put ids into "
                "the batch (data.init_args.indexed true, or lightning_priv.data.WithIndex), or do "
                "not shuffle"
            )
        keep = places >= 0
        if not bool(keep.all()):
            there = keep.to(probs.device)
            probs, places = probs[:, there], places[keep]
            target = None if target is None else target[there]
            ids = None if ids is None else [i for i, k in zip(ids, keep.tolist(), strict=True) if k]
        if self._wants_metrics:
            self._update_metrics(probs, target)
        if self._wants_rows:
            names: list[int | str] = list(places.tolist()) if ids is None else ids
            kept = None if target is None else target.cpu()
            self._rows.append((places, names, probs.float().cpu(), kept))

    def _target(self, target: Tensor | None, probs: Tensor) -> Tensor | None:
        multilabel = self.ensemble.multilabel
        shape = (probs.shape[1], probs.shape[2]) if multilabel else (probs.shape[1],)
        if isinstance(target, Tensor) and not multilabel:
            target = target.reshape(-1) if target.numel() == probs.shape[1] else target
        if not isinstance(target, Tensor) or tuple(target.shape) != shape:
            if target is None:
                return None
            shown = tuple(target.shape) if isinstance(target, Tensor) else type(target).__name__
            raise ConfigurationError(
                f"targets of shape {shown} do not fit outputs of {shape}; name their place in the "
                "batch with target_key" + ("" if multilabel else ", or set multilabel: true")
            )
        target = target.long()
        classes = 2 if multilabel else probs.shape[2]
        if target.numel() and not 0 <= int(target.min()) <= int(target.max()) < classes:
            raise ConfigurationError(
                f"targets reach from {int(target.min())} to {int(target.max())}, but the members "
                f"know the classes 0 to {classes - 1}"
            )
        return target

    def _update_metrics(self, probs: Tensor, target: Tensor | None) -> None:
        votes = Votes((), probs, target, self.ensemble.multilabel)
        if self._metrics is None:
            self._metrics = self._make_metrics(votes).to(probs.device)
        if not probs.shape[1]:
            return
        if isinstance(self._metrics, MultiplicityCollection):
            self._metrics.update(votes.metric_probs, target)
            return
        self._metrics.update(probs)
        if self._abstention is not None and target is not None:
            self._abstention.to(probs.device).update(probs, target)

    def _make_metrics(self, votes: Votes) -> MultiplicityCollection | MultilabelMultiplicity:
        members, outputs = len(self.ensemble), votes.probs.shape[-1]
        baseline: Any = self._baseline
        if not votes.multilabel:
            return MultiplicityCollection(
                members,
                outputs,
                task=votes.task,  # type: ignore[arg-type]
                baseline=baseline,
                rule=self._rule,
                labelled=votes.target is not None,
                capacity=self._capacity,
            )
        if self._rule is not None and votes.target is not None:
            self._abstention = MultilabelAbstention(members, outputs, self._rule)
        return MultilabelMultiplicity(members, outputs, baseline=baseline, capacity=self._capacity)

    def compute(self) -> dict[str, float]:
        """The metrics over all processes; call it on each of them."""
        if self._metrics is None:
            return {}
        found = dict(self._metrics.compute())
        if self._abstention is not None:
            found |= {f"abstain/{k}": v for k, v in self._abstention.compute().items()}
        return {name: float(value) for name, value in found.items()}

    def votes(self) -> Votes:
        """The rows of all processes in the order of the data set; call it on each process.

        Raises:
            ConfigurationError: if a sample came twice.
        """
        rows = self._rows
        if self.processes > 1:
            gathered: list[Any] = [None] * self.processes
            torch.distributed.all_gather_object(gathered, rows)
            rows = [row for part in gathered for row in part]
        if not rows:
            raise ConfigurationError("the loader gave no batch, so there is nothing to report")
        places = torch.cat([row[0] for row in rows])
        order = places.argsort(stable=True)
        names = [name for row in rows for name in row[1]]
        ids = tuple(names[i] for i in order.tolist())
        if len(set(ids)) < len(ids):
            twice = next(name for name in ids if ids.count(name) > 1)
            raise ConfigurationError(
                f"{len(ids) - len(set(ids))} of {len(ids)} samples have an id that another one has "
                f"too, for example {twice!r}; give each sample its own id, and each sample once"
            )
        targets = [row[3] for row in rows]
        target = torch.cat(_present(targets))[order] if _present(targets) else None
        if target is not None and len(target) < len(ids):
            raise ConfigurationError("some batches have targets and some have none")
        probs = torch.cat([row[2] for row in rows], dim=1)[:, order]
        return Votes(ids, probs, target, self.ensemble.multilabel)


def _present(parts: Sequence[Tensor | None]) -> list[Tensor]:
    return [part for part in parts if part is not None]


def run_pass(
    one: EnsemblePass, trainer: Trainer, loader: Any, device: torch.device
) -> EnsemblePass:
    """Run a pass over a loader that no loop of the Trainer runs."""
    for batch in loader:
        one.update(trainer.strategy.batch_to_device(batch, device))
    return one
