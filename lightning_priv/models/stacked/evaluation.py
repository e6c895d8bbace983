"""M classifiers that are validated, tested and asked for predictions at once."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_priv.errors import DivergenceError
from lightning_priv.nn.stacked import StackedNet

from .roster import Roster
from .scores import MemberScores

__all__ = ["EvaluatedMembers"]


class EvaluatedMembers(LightningModule):
    """The part of ``StackedMembers`` that does not train.

    Logs means over members (``val/loss``, ``val/accuracy``) and single members under
    ``members/val_accuracy/<seed>``.

    Args:
        nets: one network a member; they are copied.
        seeds: one a member.
        loss: loss of (logits, labels) of one member.
    """

    def __init__(self, nets: list[nn.Module], seeds: list[int], loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss
        self.seeds = seeds
        self.roster = Roster(seeds)
        self.scores: dict[str, Tensor] = {}
        stacked = StackedNet(nets)
        # in a tuple it is not registered: its layers are, as `net` and by their own names
        self._stacked = (stacked,)
        self.net = stacked.stack
        self._counted = MemberScores(len(seeds))
        self._validated = False  # since the last training epoch ended

    @property
    def members(self) -> int:
        """Number M of members."""
        return len(self.seeds)

    @property
    def stacked(self) -> StackedNet:
        """The networks as one module."""
        return self._stacked[0]

    @property
    def failed(self) -> dict[int, str]:
        """Reason for each member that has diverged, by seed."""
        return self.roster.failed

    @property
    def stopped(self) -> dict[int, int]:
        """Epoch in which a member stopped early, by seed."""
        return self.roster.stopped

    def forward(self, x: Tensor) -> Tensor:
        """Inputs (B, ...) to the logits of all members (M, B, num_classes)."""
        return self.stacked(x)

    def on_validation_epoch_start(self) -> None:
        """Forget what the sanity check counted."""
        self._counted.reset()

    def on_test_epoch_start(self) -> None:
        """Start counting."""
        self._counted.reset()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Count losses and hits of each member."""
        self._evaluate(batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Count losses and hits of each member."""
        self._evaluate(batch)

    def _evaluate(self, batch: Any) -> None:
        x, y = batch[0], batch[1]
        logits = self(x)
        targets = y.expand(self.members, *y.shape)
        losses = torch.stack([self.loss(z, t) for z, t in zip(logits, targets, strict=True)])
        self._counted.update(losses, logits, targets)

    def on_validation_epoch_end(self) -> None:
        """Log scores of all members and their means."""
        self.report("val", self._counted)
        self._validated = not self.trainer.sanity_checking

    def on_test_epoch_end(self) -> None:
        """Log scores of all members and their means."""
        self.report("test", self._counted)

    def report(self, stage: str, counted: MemberScores) -> None:
        """Log what was counted in an epoch, keep it in ``scores``, and start anew."""
        scores = counted.compute(self.trainer.world_size)
        if scores is None:
            return
        sound = self.roster.sound
        for name, values in scores.items():
            self.scores[f"{stage}/{name}"] = values
            mean = values[sound].mean() if sound.any() else values.mean()
            self.log(
                f"{stage}/{name}",
                mean.to(self.device),
                prog_bar=stage == "val",
                rank_zero_only=False,
            )
            if stage != "train":
                single = zip(self.seeds, values.to(self.device), strict=True)
                self.log_dict({f"members/{stage}_{name}/{seed}": v for seed, v in single})
        counted.reset()

    def predict_step(
        self, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        """Probabilities of all members (M, B, num_classes), with ``label`` and ``index`` (B,)."""
        x, *rest = batch if isinstance(batch, (tuple, list)) else (batch,)
        logits = self(x)
        finite = logits.isfinite().all(-1).all(-1)
        if not finite.all():
            bad = [self.seeds[m] for m in (~finite).nonzero().flatten().tolist()]
            raise DivergenceError(
                f"members with seeds {bad} give NaN or infinite values; leave them out (they are "
                "not exported), or check the inputs"
            )
        out = {"probs": logits.softmax(-1)}
        out.update(zip(("label", "index"), rest, strict=False))
        return out
