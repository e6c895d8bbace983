"""The risk corridor of a running private training."""

import math
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.reconstruction import (
    gaussian_prior_mmse,
    history_mse_quantile,
    reconstruction_risk,
    rero_composition,
    risk_corridor,
)
from lightning_priv.protocols import is_private, missing_members
from lightning_priv.reports.tables import Cell, Table

from ._once import OnceCallback
from .media import log_media

__all__ = ["RiskCorridor"]


class RiskCorridor(OnceCallback):
    """Logs what adversaries can reconstruct from the steps released so far, under ``risk/``.

    While training, on rank zero and as often as ``max_overhead`` allows:

    * ``risk/mse``, ``risk/psnr``: what the best attack from scratch reaches with ``gamma`` (absent
      while a record was probably not used yet);
    * ``risk/guess_psnr``: PSNR of guessing zeros; a bound below it is vacuous;
    * ``risk/identification``, ``risk/identification_lower``: certified enclosure of the success of
      identifying the record among candidates, ``risk/prior_success`` without the run;
    * ``risk/never_used``: probability that no step used the record;
    * ``risk/prior_mse``: mean error of an adversary with a Gaussian prior, with
      ``prior_eigenvalues``;
    * ``risk/measured_psnr``, ``risk/gap``: what an audit in the same run measured (its
      ``audit/psnr``), and how far below the bound it stays.

    At the end the figure and the table of the corridor go to ``risk/corridor``. Everything is
    computed from the public history of noise, rate and steps: it costs no privacy. None of it
    bounds an adversary with an image prior.

    Args:
        max_norm: L2 norm of a record as the network sees it; the smallest one covers all records.
            Give a public value: computing it from private data is a release of its own.
        input_shape: shape of a record; by default the data module's ``input_shape``.
        gamma: success probability of the from-scratch numbers.
        kappa: success probability of guessing among the candidates, 1/n for n of them.
        data_range: width of the pixel range.
        delta: failure probability of the epsilon in the table; by default the strategy's, or 1e-5.
        prior_eigenvalues: eigenvalues of the covariance of public data like the records.
        max_overhead: largest share of the training time that this callback may take.
    """

    def __init__(
        self,
        max_norm: float,
        input_shape: list[int] | None = None,
        gamma: float = 0.05,
        kappa: float = 0.1,
        data_range: float = 1.0,
        delta: float | None = None,
        prior_eigenvalues: list[float] | None = None,
        max_overhead: float = 0.01,
    ) -> None:
        for name, value in (("gamma", gamma), ("kappa", kappa), ("max_overhead", max_overhead)):
            if not 0 < value < 1:
                raise ValueError(f"{name} must be strictly between 0 and 1; got {value}")
        for name, value in (("max_norm", max_norm), ("data_range", data_range)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be a positive number; got {value}")
        self.max_norm, self.input_shape = max_norm, input_shape
        self.gamma, self.kappa, self.data_range, self.delta = gamma, kappa, data_range, delta
        self.prior_eigenvalues, self.max_overhead = prior_eigenvalues, max_overhead
        self._dimension = 0
        self._idle = False
        self._next = 0.0  # time before which nothing is computed
        self._seen: tuple[tuple[float, float, int], ...] = ()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the run is private and find the size of a record."""
        self._idle = stage != "fit" or self.is_repeated(trainer)
        if self._idle:
            return
        strategy, missing = trainer.strategy, missing_members(trainer.strategy)
        if not is_private(strategy) or missing:
            raise ConfigurationError(
                f"RiskCorridor needs a private training, but the strategy is "
                f"{type(strategy).__name__}, without {', '.join(missing) or 'a privacy account'}; "
                "set trainer.strategy to lightning_priv.strategies.DPSGDStrategy or remove the "
                "callback"
            )
        shape = self.input_shape
        if shape is None:
            shape = getattr(getattr(trainer, "datamodule", None), "input_shape", None)
        if not shape:
            raise ConfigurationError(
                "RiskCorridor does not know the shape of a record: the data module has no "
                "input_shape; give the callback input_shape, for example [3, 32, 32]"
            )
        self._dimension = math.prod(shape)
        self._next, self._seen = 0.0, ()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the corridor if it is due."""
        if self._idle or not trainer.is_global_zero or time.monotonic() < self._next:
            return
        history = self._history(trainer)
        if not history or history == self._seen:
            return
        start = time.monotonic()
        values = self._values(trainer, history)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
        end = time.monotonic()
        self._seen, self._next = history, end + (end - start) / self.max_overhead

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the final numbers, the table and the figure."""
        if self._idle or not trainer.is_global_zero:
            return
        history = self._history(trainer)
        if not history:
            return
        values = self._values(trainer, history)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
        delta = self.delta or _number(getattr(trainer.strategy, "delta", None)) or 1e-5
        log_media(trainer, "risk/corridor", self._table(history, delta, values))
        log_media(trainer, "risk/corridor", self._figure(history, delta))

    def _history(self, trainer: Trainer) -> tuple[tuple[float, float, int], ...]:
        strategy: Any = trainer.strategy
        return tuple((float(s), float(q), int(t)) for s, q, t in strategy.history if int(t))

    def _values(
        self, trainer: Trainer, history: tuple[tuple[float, float, int], ...]
    ) -> dict[str, float]:
        lower, upper = rero_composition(self.kappa, history)
        values = {
            "risk/identification": upper,
            "risk/identification_lower": lower,
            "risk/prior_success": self.kappa,
            "risk/guess_psnr": self._psnr(self.max_norm**2 / self._dimension),
            "risk/never_used": math.exp(
                sum(t * math.log1p(-q) if q < 1 else -math.inf for _, q, t in history)
            ),
        }
        if min(s for s, _, _ in history) == 0:
            return values  # no privacy: the error is zero
        mse = history_mse_quantile(self.gamma, self._dimension, self.max_norm, history)
        if mse < math.inf:
            values |= {"risk/mse": mse, "risk/psnr": self._psnr(mse)}
            if self.prior_eigenvalues is not None:
                prior = gaussian_prior_mmse(self.prior_eigenvalues, math.sqrt(mse))
                values["risk/prior_mse"] = float(prior)
        measured = _number(trainer.callback_metrics.get("audit/psnr"))
        if measured is not None:
            values["risk/measured_psnr"] = measured
            if mse < math.inf:
                values["risk/gap"] = values["risk/psnr"] - measured
        return values

    def _psnr(self, mse: float) -> float:
        return 10 * math.log10(self.data_range**2 / mse)

    def _table(
        self,
        history: tuple[tuple[float, float, int], ...],
        delta: float,
        values: dict[str, float],
    ) -> Table:
        risk = reconstruction_risk(
            history,
            self._dimension,
            self.max_norm,
            self.gamma,
            self.kappa,
            delta,
            self.data_range,
        )
        scratch = f"from scratch, probability {self.gamma:g}"
        rows: list[list[Cell]] = [
            ["steps", risk.steps],
            [f"epsilon at delta = {delta:g}, certified", risk.epsilon],
            [f"{scratch}: PSNR in dB", risk.psnr],
            [f"{scratch}: MSE", risk.mse],
            ["guessing zeros: MSE", risk.guess_mse],
            ["record never used, probability", risk.never_used],
            ["identification, guessing", risk.kappa],
            ["identification, certified bound", risk.identification],
            ["identification, from epsilon and delta alone", risk.identification_by_dp],
        ]
        for key, name in (
            ("risk/prior_mse", "Gaussian prior: mean MSE"),
            ("risk/measured_psnr", "measured by the audit: PSNR in dB"),
        ):
            if key in values:
                rows.append([name, values[key]])
        return Table(["adversary and quantity", "value"], rows)

    def _figure(self, history: tuple[tuple[float, float, int], ...], delta: float) -> Any:
        from lightning_priv.reports.corridor import corridor_figure

        # several phases are drawn as if all had the least noise and the largest rate
        noise = min(s for s, _, _ in history)
        corridor = risk_corridor(
            self.gamma,
            self.kappa,
            self._dimension,
            self.max_norm,
            sum(t for _, _, t in history),
            self.data_range,
            max(q for _, q, _ in history),
            points=61,
            around=noise or None,
        )
        return corridor_figure(corridor, noise or None, delta)


def _number(value: Any) -> float | None:
    """A scalar, a one-element tensor or nothing."""
    if value is None or isinstance(value, str):
        return None
    number = float(value)
    return number if math.isfinite(number) else None
