"""The aggregates of an audit with their intervals."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_priv.functional.audit import AuditStudy, bootstrap_mean
from lightning_priv.reports.tables import Cell, Table

from .laws import Laws

__all__ = ["WARNING", "AuditRow", "summary_rows", "summary_table"]

#: Printed with every result.
WARNING = (
    "An audit is one attack: it shows a lower bound on the risk. A poor reconstruction here is no "
    "proof that a better attacker fails; only the formal bounds limit every attacker they speak of."
)


@dataclass(frozen=True)
class AuditRow:
    """One metric of one attack at one noise level, averaged over the targets.

    Attributes:
        attack: name.
        mu: Gaussian privacy.
        epsilon: at the study's delta.
        simulated: whether the noise was drawn for the audit.
        metric: ``mse``, ``psnr``, ``ssim``, ``gain``, ``residual``, ``labels``, ...
        mean: over the targets.
        low: lower end of the 95 % bootstrap interval.
        high: upper end.
    """

    attack: str
    mu: float
    epsilon: float
    simulated: bool
    metric: str
    mean: float
    low: float
    high: float


def summary_rows(study: AuditStudy, laws: Laws) -> list[AuditRow]:
    """All metrics of all attacks at all levels."""
    rows = []
    for attack, metrics in study.scores.items():
        for metric, values in metrics.items():
            mean, low, high = bootstrap_mean(values)
            for k, level in enumerate(study.levels):
                rows.append(
                    AuditRow(
                        attack,
                        level.mu,
                        float(laws.epsilon[k]),
                        level.simulated,
                        metric,
                        float(mean[k]),
                        float(low[k]),
                        float(high[k]),
                    )
                )
    return rows


def summary_table(study: AuditStudy, laws: Laws) -> Table:
    """Mean error of each attack (columns) at each level (rows), beside the laws."""
    attacks = list(study.scores)
    columns = ["mu", "epsilon", "noise", "no prior (law)", "Gaussian prior (law)", *attacks]
    rows: list[list[Cell]] = []
    for k, level in enumerate(study.levels):
        errors = [float(study.scores[a]["mse"][k].mean()) for a in attacks]
        kind = "simulated" if level.simulated else "of the run"
        laws_here = [float(laws.no_prior[k]), float(laws.gaussian_prior[k])]
        rows.append([level.mu, float(laws.epsilon[k]), kind, *laws_here, *errors])
    return Table(columns, rows, title="mean squared error, pixels in [0, 1]")
