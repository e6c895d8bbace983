"""The privacy budget while training runs, and what clipping does to the gradients."""

from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_priv.protocols import is_private, missing_members
from lightning_priv.reports.figures import learning_curves

from ._once import OnceCallback
from .media import log_media

__all__ = ["ClippingMonitor", "PrivacyBudget"]


class PrivacyBudget(OnceCallback):
    """Logs what has been spent by several accountants, and may lower the limit.

    The strategy alone enforces its limit; this callback shows it. At the end of each epoch it logs
    ``privacy/epsilon_rdp``, ``privacy/epsilon_pld``, ``privacy/delta`` and, if there is a limit,
    ``privacy/budget_left``; at the end of training it draws validation metrics against epsilon.

    Args:
        max_epsilon: end training before this epsilon would be passed, if that is lower than the
            strategy's own limit.
        curves: validation metrics to draw against epsilon.
    """

    def __init__(
        self, max_epsilon: float | None = None, curves: tuple[str, ...] = ("val/accuracy",)
    ) -> None:
        if max_epsilon is not None and not max_epsilon > 0:
            raise ValueError(f"max_epsilon={max_epsilon}; it must be above 0, or left out")
        self.max_epsilon = max_epsilon
        self.curves = tuple(curves)
        self._points: dict[str, list[tuple[float, float]]] = {}
        self._rests = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lower the limit before training."""
        self._rests = stage != "fit" or self.is_repeated(trainer)
        if self._rests:
            return
        strategy = private_strategy(trainer, type(self).__name__)
        if self.max_epsilon is not None:
            strategy.lower_limit(self.max_epsilon)

    def state_dict(self) -> dict[str, Any]:
        """The curves, so that those of a resumed run are whole."""
        return {"points": self._points}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the curves of a checkpoint."""
        self._points = {k: [tuple(p) for p in v] for k, v in state_dict["points"].items()}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log epsilon by several accountants."""
        if self._rests:
            return
        strategy = private_strategy(trainer, type(self).__name__)
        spent = strategy.epsilon()
        pl_module.log("privacy/epsilon_rdp", strategy.epsilon(accountant="rdp"))
        pl_module.log("privacy/epsilon_pld", strategy.epsilon(accountant="pld"))
        pl_module.log("privacy/delta", strategy.delta)
        if strategy.limit is not None:
            pl_module.log("privacy/budget_left", max(0.0, strategy.limit - spent))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the validation metrics at the epsilon spent so far."""
        if self._rests or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        spent = private_strategy(trainer, type(self).__name__).epsilon()
        for name in self.curves:
            if name in trainer.callback_metrics:
                value = float(trainer.callback_metrics[name])
                self._points.setdefault(name, []).append((spent, value))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what was spent, and draw."""
        if self._rests:
            return
        strategy = private_strategy(trainer, type(self).__name__)
        rank_zero_info(
            f"privacy spent: epsilon {strategy.epsilon():.4f} at delta {strategy.delta:.3g} in "
            f"{strategy.steps} steps"
            + ("" if strategy.limit is None else f"; the limit is {strategy.limit:g}")
        )
        points = {k: v for k, v in self._points.items() if v}
        if points and trainer.is_global_zero:
            log_media(trainer, "privacy/curve", learning_curves(points, xlabel="epsilon"))


class ClippingMonitor(OnceCallback):
    """Logs the clipping norm, and on request what clipping does to the records.

    ``privacy/max_grad_norm`` is public. ``private/clipped_fraction``, ``private/grad_norm_median``,
    ``private/grad_norm_max`` and ``private/batch_size`` depend on the records and are not covered
    by epsilon; they are logged only if the strategy has ``log_private: true``.

    The trainer's ``log_every_n_steps`` says how often.
    """

    def __init__(self) -> None:
        self._rests = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Say so if there is nothing to be shown."""
        self._rests = stage != "fit" or self.is_repeated(trainer)
        if self._rests:
            return
        if not private_strategy(trainer, type(self).__name__).settings.log_private:
            rank_zero_warn(
                "ClippingMonitor logs privacy/max_grad_norm only: norms and clipped fractions "
                "depend on the records and are not covered by epsilon. The strategy's log_private: "
                "true logs them, for those who may see them"
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what the last step has seen."""
        if self._rests:
            return
        strategy = private_strategy(trainer, type(self).__name__)
        pl_module.log("privacy/max_grad_norm", strategy.max_grad_norm)
        if not strategy.settings.log_private:
            return
        seen = [] if strategy.logical_step is None else strategy.logical_step.seen
        empty = torch.zeros(0, device=pl_module.device)
        norms = _of_all_ranks(trainer, torch.cat([empty, *(s.norms.float() for s in seen)]))
        clipped = _of_all_ranks(trainer, torch.cat([empty, *(s.clipped.float() for s in seen)]))
        pl_module.log("private/batch_size", float(len(norms)))
        if len(norms):
            pl_module.log("private/clipped_fraction", clipped.mean())
            pl_module.log("private/grad_norm_median", norms.median())
            pl_module.log("private/grad_norm_max", norms.max())


def private_strategy(trainer: Trainer, asking: str) -> Any:
    """The trainer's strategy, if it keeps a privacy account.

    Raises:
        MisconfigurationException: saying who needs one.
    """
    strategy, missing = trainer.strategy, missing_members(trainer.strategy)
    if not is_private(strategy) or missing:
        raise MisconfigurationException(
            f"{asking} needs a private strategy, the trainer has {type(strategy).__name__}, "
            f"without {', '.join(missing) or 'a privacy account'}; set trainer.strategy: "
            "lightning_priv.strategies.DPSGDStrategy"
        )
    return strategy


def _of_all_ranks(trainer: Trainer, values: Tensor) -> Tensor:
    """The values of all ranks, one after the other; ranks may have different numbers of them."""
    if trainer.world_size == 1:
        return values
    size = torch.tensor(len(values), device=values.device)
    longest = int(trainer.strategy.reduce(size, reduce_op="max"))
    padded = torch.full((longest,), float("nan"), device=values.device)
    padded[: len(values)] = values
    gathered = trainer.strategy.all_gather(padded).flatten()
    return gathered[~gathered.isnan()]
