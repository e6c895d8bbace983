"""Accuracy of a classifier under attacks within a budget."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.adversarial import Bounds, pgd
from lightning_priv.metrics.robustness import RobustAccuracy
from lightning_priv.reports.robustness import robustness_curves
from lightning_priv.reports.tables import Table

from .media import log_media

__all__ = ["AdversarialEvaluation"]

AttackName = Literal["fgsm", "pgd"]


class AdversarialEvaluation(Callback):
    """Attack every batch of ``test`` and log the accuracy that is left.

    FGSM takes one step of the whole budget; PGD the paper's 7 steps of a quarter of it, projected
    to the l_infinity ball, from the image itself. The network is in evaluation mode; every budget
    is an attack of its own. Logged are ``test/accuracy_<attack>_<epsilon>``; at the end a table and
    curves go to ``<run directory>/media/test/robustness``.

    ``attack_space: pixel`` is the honest setting: a budget of 8/255 changes each pixel value in
    [0, 1] by at most 8/255 and leaves no value outside [0, 1], whatever the normalisation.
    ``normalized`` is that of the HCNN paper's code, for parity with its table: the budget is taken
    in the units of the *normalised* image, which makes it smaller by the standard deviation (about
    four times), and nothing is clipped.

    Args:
        epsilons: budgets, in 255ths; the paper's are 0.8, 1.6 and 3.2.
        attacks: some of ``fgsm`` and ``pgd``.
        attack_space: ``pixel`` or ``normalized``, see above.
        steps: steps of PGD.
        random_start: let PGD start at a random place in the ball (with a seed of its own).
        max_batches: attack at most so many batches, in each process; all by default.

    Raises:
        ValueError: if an argument is out of range.
        ConfigurationError: when the test starts, if pixels are asked for and the data module does
            not tell how its images are scaled.
    """

    def __init__(
        self,
        epsilons: Sequence[float] = (0.8, 1.6, 3.2),
        attacks: Sequence[AttackName] = ("fgsm", "pgd"),
        attack_space: Literal["pixel", "normalized"] = "pixel",
        steps: int = 7,
        random_start: bool = False,
        max_batches: int | None = None,
    ) -> None:
        if not epsilons or min(epsilons) < 0 or sorted(set(epsilons)) != list(epsilons):
            raise ValueError(f"epsilons must ascend from 0 or more, got {list(epsilons)}")
        if not attacks or not set(attacks) <= {"fgsm", "pgd"}:
            raise ValueError(f"attacks must be some of fgsm, pgd, got {list(attacks)}")
        if attack_space not in ("pixel", "normalized"):
            raise ValueError(f"attack_space must be pixel or normalized, got {attack_space!r}")
        if steps < 1 or (max_batches is not None and max_batches < 1):
            raise ValueError(f"steps={steps}, max_batches={max_batches}: give at least 1")
        self.epsilons = [float(e) for e in epsilons]
        self.attacks = list(attacks)
        self.attack_space = attack_space
        self.steps = steps
        self.random_start = random_start
        self.max_batches = max_batches
        self._metrics: dict[str, RobustAccuracy] = {}
        self._clean: RobustAccuracy | None = None
        self._scale: tuple[Tensor, Tensor] | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the metrics; find how images are scaled."""
        device = pl_module.device
        self._metrics = {name: RobustAccuracy(self.epsilons).to(device) for name in self.attacks}
        self._clean = RobustAccuracy([0.0]).to(device)
        self._scale = _scale_of(trainer) if self.attack_space == "pixel" else None

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Attack the batch with every attack and budget."""
        if self.max_batches is not None and batch_idx >= self.max_batches:
            return
        assert self._clean is not None
        # the loop runs in inference mode, whose tensors take no part in a backward pass
        with torch.inference_mode(False):
            x, y = batch[0].detach().clone(), batch[1].clone()
            logits = {}
            with trainer.precision_plugin.forward_context():
                for name in self._metrics:
                    found = [self._attack(name, pl_module, x, y, e) for e in self.epsilons]
                    with torch.no_grad():
                        logits[name] = [pl_module(one) for one in found]
                with torch.no_grad():
                    clean = pl_module(x)
        for name, metric in self._metrics.items():
            metric.update(logits[name], y)
        self._clean.update([clean], y)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log accuracies; draw the curves."""
        assert self._clean is not None
        clean = float(self._clean.compute())
        curves: dict[str, list[tuple[float, float]]] = {}
        for name, metric in self._metrics.items():
            values = metric.compute().reshape(-1).tolist()  # torchmetrics squeezes
            for epsilon, value in zip(self.epsilons, values, strict=True):
                # the metric has the samples of all processes: equal values are averaged
                pl_module.log(f"test/accuracy_{name}_{epsilon:g}", value, sync_dist=True)
            curves[name] = [(0.0, clean), *zip(self.epsilons, values, strict=True)]
        rows = [(name, e, v) for name, points in curves.items() for e, v in points]
        title = f"accuracy under attack ({self.attack_space} space)"
        log_media(trainer, "test/robustness", Table(["attack", "epsilon", "accuracy"], rows, title))
        log_media(trainer, "test/robustness", robustness_curves(curves, title))

    def _attack(
        self, name: str, classify: LightningModule, x: Tensor, y: Tensor, epsilon: float
    ) -> Tensor:
        budget: float | Tensor = epsilon / 255
        bounds: Bounds | None = None
        if self._scale is not None:
            factor, shift = (part.to(x) for part in self._scale)
            budget = budget * factor
            bounds = (-shift, factor - shift)  # of pixels 0 and 1
        if name == "fgsm":
            return pgd(classify, x, y, budget, steps=1, step_size=budget, bounds=bounds)
        generator = torch.Generator(x.device).manual_seed(0) if self.random_start else None
        return pgd(
            classify, x, y, budget, self.steps, bounds=bounds,
            random_start=self.random_start, generator=generator,
        )  # fmt: skip


def _scale_of(trainer: Trainer) -> tuple[Tensor, Tensor]:
    """Factor and shift of x = factor pixel - shift, pixel in [0, 1], each (1, C, 1, 1)."""
    data = getattr(trainer, "datamodule", None)
    transform = getattr(getattr(data, "test_dataset", None), "transform", None)
    if hasattr(getattr(data, "test_dataset", None), "transform") and transform is None:
        return torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)  # stored as the network gets them
    scale = getattr(transform, "scale", transform)  # of a transform that also resizes
    factor, shift = getattr(scale, "factor", None), getattr(scale, "shift", None)
    unit = getattr(scale, "unit", None)
    if factor is None or shift is None or unit is None:
        raise ConfigurationError(
            f"attack_space: pixel needs to know how {type(data).__name__} scales its images, and "
            "its test_dataset.transform is no lightning_priv.data Scale; use such a data module, "
            "or attack_space: normalized"
        )
    return (unit * factor).view(1, -1, 1, 1), shift.view(1, -1, 1, 1)
