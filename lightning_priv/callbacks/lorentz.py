"""Watch where the points of a hyperbolic network lie, and warn before they leave the numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from lightning_priv.errors import OffManifoldError, UnsupportedModuleError
from lightning_priv.nn.lorentz.observation import (
    StageReport,
    lorentz_stages,
    manifold_values,
    observe,
)
from lightning_priv.protocols import is_private
from lightning_priv.reports.manifold import radius_bands

from .media import log_media

__all__ = ["ManifoldMonitor"]

_CUT_SHARE = 0.01
_RESOLUTION = 5e-3  # relative error of distances that is still taken
_COLLAPSE = 1e-3  # 100 times the eps of a norm
_LARGEST = [field in ("top", "reach", "centre") for field in asdict(StageReport())]


class ManifoldMonitor(Callback):
    """Log radii, cut points, spreads and curvature of the Lorentz layers every so many steps.

    Before every ``every_n_steps``-th step the network is run once more on the first samples of the
    batch that is about to be trained on, in its training mode, without gradients. Random numbers,
    running statistics and gradients are as they were, so a run has the same weights with and
    without the callback; and the steps between are as fast as without it.

    For each stage (a group of layers, named by their place in the module) these are logged, where
    a radius is a distance to the origin in units of sqrt(k):

    - ``lorentz/<stage>/radius_q05, radius_q50, radius_q95, radius_max`` of the stage's last layer,
      ``lorentz/<stage>/reach``, the largest radius behind any of its layers;
    - ``lorentz/<stage>/spread`` and ``centre``: the smallest mean distance to the batch mean, and
      the largest radius of that mean, of what enters a norm;
    - ``lorentz/<stage>/cut``: the largest share of positions that a norm cuts at radius 10;
    - ``lorentz/k``: squared radius of the manifold (``k_0``, ``k_1``, ... if there are several).

    A warning comes once for each stage and reason:

    - ``centre`` above ln(4 * 0.005 / eps) / 2, 6.0 in float32 and 16.1 in float64: rounding errors
      of distances grow as eps exp(2 r) / 4 and reach 0.5 % there; soon the norm divides noise;
    - ``reach`` above half the radius at which |s|^2 overflows: 22 in float32, 178 in float64; 5.9
      in 16-bit floats, whose largest value is 65504;
    - ``cut`` above 1 %: cut positions have no gradient and coordinates of 11,000 sqrt(k);
    - ``spread`` below 0.001: the norm multiplies differences, and rounding errors, by
      gamma/spread;
    - NaN or infinite values: the step that follows will fail.

    With several processes, quantiles, ``spread`` and ``cut`` are means over the processes and the
    others maxima. Rank zero logs. At the end of the fit, also of one that failed, the radii are
    drawn to ``lorentz/radius``.

    The numbers are computed from training samples without noise: under a private strategy nothing
    but k is logged unless ``log_private`` is set, and then below ``private/lorentz/``.

    Args:
        every_n_steps: optimizer steps from one look to the next.
        max_samples: look at most at so many samples of the batch, in each process; at least 2.
        log_private: also log under a private strategy, where epsilon does not cover it.

    Raises:
        ValueError: if an argument is out of range.
        UnsupportedModuleError: when the fit starts, if the model has no Lorentz layer; or if a
            batch has no tensor at its first place.
    """

    def __init__(
        self, every_n_steps: int = 100, max_samples: int = 64, log_private: bool = False
    ) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps}: give a whole number of at least 1")
        if max_samples < 2:
            raise ValueError(
                f"max_samples={max_samples}: give at least 2, which norms need in training"
            )
        self.every_n_steps = every_n_steps
        self.max_samples = max_samples
        self.log_private = log_private
        self._history: dict[str, list[list[float]]] = {}
        self._warned: set[tuple[str, str]] = set()
        self._last = -1

    def state_dict(self) -> dict[str, Any]:
        """What was seen so far, so that the figure of a resumed run is whole."""
        return {"history": self._history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what a checkpoint has seen."""
        self._history = {k: [list(row) for row in v] for k, v in state_dict["history"].items()}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that there is something to look at."""
        self._last = -1
        self._warned = set()
        if not lorentz_stages(pl_module):
            raise UnsupportedModuleError(
                f"ManifoldMonitor found no Lorentz layer in {type(pl_module).__name__}; use a "
                "network with layers of lightning_priv.nn.lorentz, such as HyperbolicResNet with "
                "variant el, l or hecnn, or leave the callback out"
            )
        if self._hidden(trainer):
            rank_zero_warn(
                "ManifoldMonitor logs only k, because its other numbers come from training "
                "samples and epsilon does not cover them; log_private: true logs them all the same"
            )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Look at the network before the step, if it is time to."""
        step = trainer.global_step
        if step % self.every_n_steps or step == self._last:
            return
        self._last = step
        values = _curvatures(pl_module)
        if not self._hidden(trainer):
            stages = list(lorentz_stages(pl_module))
            reports = self._look(trainer, pl_module, _samples(batch)[: self.max_samples], stages)
            self._warn(reports, step, _limits(trainer, pl_module))
            for stage, report in reports.items():
                self._history.setdefault(stage, []).append([step, *astuple(report)])
                values.update(_named(stage, report))
        if trainer.is_global_zero:
            prefix = "private/lorentz" if self._private(trainer) else "lorentz"
            for logger in trainer.loggers:
                logger.log_metrics({f"{prefix}/{k}": v for k, v in values.items()}, step=step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the radii."""
        self._draw(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Draw the radii up to the failure."""
        self._draw(trainer)

    def _look(
        self, trainer: Trainer, pl_module: LightningModule, x: Tensor, stages: Sequence[str]
    ) -> dict[str, StageReport]:
        """Report the stages of this batch, joined over all processes."""
        try:
            with isolate_rng(), trainer.precision_plugin.forward_context():
                reports = observe(pl_module, lambda: pl_module(x))
        except OffManifoldError:  # a norm met NaN; the step itself will raise it
            nothing = StageReport(*[math.nan] * len(_LARGEST))
            reports = dict.fromkeys(stages, nothing)
        rows = torch.tensor([astuple(reports[stage]) for stage in stages], device=x.device)
        # every process comes here, whatever happened above, so that none waits for another
        joined = trainer.strategy.all_gather(rows).view(-1, *rows.shape)
        largest = torch.tensor(_LARGEST, device=x.device)
        rows = torch.where(largest, joined.amax(0), joined.mean(0))
        return {s: StageReport(*row) for s, row in zip(stages, rows.tolist(), strict=True)}

    def _warn(
        self, reports: Mapping[str, StageReport], step: int, limits: tuple[float, float]
    ) -> None:
        for stage, report in reports.items():
            for reason, text in _complaints(report, *limits).items():
                if (stage, reason) not in self._warned:
                    self._warned.add((stage, reason))
                    rank_zero_warn(f"ManifoldMonitor at step {step}, {stage}: {text}")

    def _draw(self, trainer: Trainer) -> None:
        finite = {
            stage: [row for row in rows if all(map(math.isfinite, row[:5]))]
            for stage, rows in self._history.items()
        }
        shown = {stage: rows for stage, rows in finite.items() if rows}
        if shown and trainer.is_global_zero:
            prefix = "private/lorentz" if self._private(trainer) else "lorentz"
            log_media(trainer, f"{prefix}/radius", radius_bands(shown))

    def _private(self, trainer: Trainer) -> bool:
        return is_private(trainer.strategy)

    def _hidden(self, trainer: Trainer) -> bool:
        return self._private(trainer) and not self.log_private


def _complaints(report: StageReport, centre: float, reach: float) -> dict[str, str]:
    """What is wrong in a stage, by reason."""
    found = {}
    if not math.isfinite(report.reach):
        found["nan"] = "there are NaN or infinite values; the step that follows will fail"
    if report.centre > centre:
        found["centre"] = (
            f"a norm's input has its mean at radius {report.centre:.3g}, above {centre:.3g}, where "
            "rounding errors of distances pass 0.5 %; lower the learning rate, clip gradients, or "
            "use trainer.precision 64-true"
        )
    if report.reach > reach:
        found["reach"] = (
            f"points lie at radius {report.reach:.3g}, above {reach:.3g}, half way to overflow; "
            "lower the learning rate, clip gradients, or raise the weight decay"
        )
    if report.cut > _CUT_SHARE:
        found["cut"] = (
            f"{report.cut:.1%} of the positions are cut at radius 10, above {_CUT_SHARE:.0%}; they "
            "have no gradient; lower the learning rate of gamma or raise the weight decay"
        )
    if report.spread < _COLLAPSE:
        found["spread"] = (
            f"a norm's input has a spread of {report.spread:.2g}, below {_COLLAPSE:g}: it is "
            "nearly one point, and the norm magnifies rounding errors; lower the learning rate, "
            "or check that the samples differ"
        )
    return found


def _limits(trainer: Trainer, pl_module: LightningModule) -> tuple[float, float]:
    """Largest radius of a norm's mean, and of any point, that raise no warning."""
    dtype = next(p.dtype for p in pl_module.parameters() if p.is_floating_point())
    numbers = torch.finfo(dtype if dtype == torch.float64 else torch.float32)
    centre = math.log(4 * _RESOLUTION / numbers.eps) / 2
    largest = 65504.0 if str(trainer.precision).startswith("16") else math.sqrt(numbers.max)
    return centre, math.asinh(largest) / 2


def _curvatures(pl_module: LightningModule) -> dict[str, float]:
    values = manifold_values(pl_module)
    if len(values) == 1:
        return {"k": values[0]}
    return {f"k_{number}": value for number, value in enumerate(values)}


def _named(stage: str, report: StageReport) -> dict[str, float]:
    quantiles = ("radius_q05", "radius_q50", "radius_q95", "radius_max")
    names = (*quantiles, "reach", "centre", "spread", "cut")
    values = zip(names, astuple(report), strict=True)
    # a stage without a norm has no spread, and one that was not called has nothing
    called = report.median == report.median
    return {f"{stage}/{name}": value for name, value in values if called and value == value}


def _samples(batch: Any) -> Tensor:
    x = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if not isinstance(x, Tensor):
        raise UnsupportedModuleError(
            f"ManifoldMonitor got a batch of type {type(batch).__name__} without a tensor at its "
            "first place; give batches (x, ...) or x, as the data modules of lightning_priv do"
        )
    return x
