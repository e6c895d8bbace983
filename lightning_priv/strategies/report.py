"""What the training guarantees, what it does not, and how that was computed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, WandbLogger

from lightning_priv.files import write_atomically
from lightning_priv.strategies.account import Account
from lightning_priv.strategies.ledger import Lineage, read_lineage
from lightning_priv.strategies.phases import merged
from lightning_priv.strategies.settings import PrivacySettings

__all__ = ["build_report", "package_versions", "send_to_wandb", "write_report"]

_SUMMARY = (
    *("unit", "relation", "mechanism", "sampling", "delta"),
    *("epsilon_by", "steps", "cohorts", "not_covered"),
)
_RELATIONS = {
    "add_remove": "two training sets are neighbours if one record is added or removed",
    "replace_special": "two training sets are neighbours if one record is replaced by an empty "
    "one, whose gradient is zero",
}


def build_report(
    settings: PrivacySettings, account: Account, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The report as plain types.

    Args:
        settings: arguments of the strategy.
        account: what was spent.
        facts: engine, probe and the like, taken over as they are.
    """
    spending = account.known
    delta = account.delta
    accountants = list(dict.fromkeys([settings.accountant, "pld", "rdp"]))
    cohorts = [
        {
            "records": c.records,
            "history": [list(e) for e in merged(c.history)],
            **({"selections": c.scored} if spending.selections else {}),
        }
        for c in spending.cohorts()[:64]
    ]
    poisson = settings.sampling == "poisson"
    ledger = account.ledger
    lineage = None if ledger is None else read_lineage(ledger.path, ledger.root)
    return {
        "unit": "one record of the training set (one item of the data set)",
        "relation": settings.neighbouring,
        "relation_in_words": _RELATIONS[settings.neighbouring],
        "delta": delta,
        "epsilon": {a: _number(account.epsilon(accountant=a)) for a in accountants},
        "epsilon_by": settings.accountant,
        "limit": account.limit,
        "mechanism": {
            "name": "DP-SGD: Gaussian noise on sums of clipped per-record gradients",
            "max_grad_norm": settings.max_grad_norm,
            "clipping": settings.clipping,
            "augmentation_multiplicity": settings.augmentation_multiplicity,
            "noise_rng": settings.noise_rng,
        },
        "sampling": {
            "name": settings.sampling,
            "records": spending.num_records,
            "in_words": "each record joins each batch independently"
            if poisson
            else "batches of fixed size from a random order; epsilon counts each pass without "
            "amplification by sampling: Poisson accounting does not describe shuffling",
        },
        "steps": account.released,
        "abandoned_steps": account.abandoned,
        "cohorts": cohorts,
        "phases": [
            {
                "noise_multiplier": p.noise_multiplier,
                "largest_rate": p.sample_rate,
                "denominator": _number(p.denominator),
                "charges": p.done,
                "abandoned": p.abandoned,
            }
            for p in spending.phases
        ],
        "selections": [
            {
                "round": s.number,
                "epsilon": s.epsilon,
                "scored": int(np.broadcast_to(s.scored, spending.num_records).sum()),
                "lost": s.lost,
            }
            for s in spending.selections
        ],
        "not_covered": _not_covered(settings, account, lineage),
        "ledger": _charged(account, lineage),
        "packages": package_versions(),
        **facts,
    }


def package_versions() -> dict[str, str]:
    """Versions that the numbers depend on."""
    return {name: version(name) for name in ("torch", "lightning", "opacus", "dp-accounting")}


def write_report(report: Mapping[str, Any], path: Path) -> None:
    """Write it as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(report, indent=2) + "\n")


def send_to_wandb(loggers: Sequence[Logger], report: Mapping[str, Any]) -> None:
    """Put the report's numbers into the summary of each W&B run."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            summary = logger.experiment.summary
            for accountant, value in report["epsilon"].items():
                summary[f"privacy/report/epsilon_{accountant}"] = value
            for key in _SUMMARY:
                summary[f"privacy/report/{key}"] = report[key]


def _charged(account: Account, lineage: Lineage | None) -> dict[str, Any] | None:
    """How far the ledger was: more lines of this root say that this report is out of date."""
    if account.ledger is None or lineage is None:
        return None
    draws = sum(map(len, lineage.draws.values()))
    charges = lineage.steps.total() + draws
    return {"root": account.ledger.root, "run": account.ledger.run, "charges": charges}


def _number(value: float) -> float | str:
    """JSON has no infinity."""
    return value if math.isfinite(value) else str(value)


def _not_covered(settings: PrivacySettings, account: Account, lineage: Lineage | None) -> list[str]:
    """Sentences on what epsilon does not say."""
    said = [
        "validation and test data, and the choice of a checkpoint by them, unless they are public",
        "whatever the module or callbacks log of training data: training loss and accuracy, images",
        "learning rates, checkpoints or an end of training that follow such values "
        "(ReduceLROnPlateau, EarlyStopping, a monitor)",
        "the number of records, which is treated as public",
        "other runs on the same data, such as a search over hyper-parameters",
        "several records of one person: the unit is one record",
        "floating-point effects of noise and clipping",
    ]
    said += account.uncovered
    if settings.log_private:
        said.append("the values logged under private/")
    if settings.deterministic:
        said.append(
            "anyone who knows the seed or the checkpoint: deterministic noise can be subtracted"
        )
    if not settings.probe:
        said.append("losses that compare or mix records: the start-up probe was switched off")
    if settings.accountant == "gdp":
        said.append("the gdp value is an approximation for many steps, not a bound")
    if settings.assume_fresh_budget:
        said.append("training before the checkpoint that was resumed with assume_fresh_budget")
    if not settings.count_abandoned:
        said.append("steps after the resumed checkpoint by runs that were lost")
    if account.ledger is None:
        said.append("steps lost in a crash: no ledger was kept")
    elif lineage is not None and lineage.strangers:
        said.append(
            f"{len(lineage.strangers)} other runs in the same ledger: "
            f"{', '.join(lineage.strangers[:20])}"
        )
    return said
