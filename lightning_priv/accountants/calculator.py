"""One question about a privacy budget: four quantities given, the fifth computed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from lightning_priv.accountants.accountant import epsilon as epsilon_of
from lightning_priv.accountants.calibrate import (
    calibrate_delta,
    calibrate_noise,
    calibrate_sample_rate,
    calibrate_steps,
)
from lightning_priv.accountants.history import (
    AccountantName,
    History,
    Neighbouring,
    check_choice,
    check_epsilon,
)

__all__ = ["BudgetAnswer", "solve_budget"]

Unknown: TypeAlias = Literal["epsilon", "delta", "noise_multiplier", "sample_rate", "steps"]

# Relative distance to the optimum: enough digits for a configuration file, few evaluations.
_TOLERANCE = {"rdp": 1e-6, "gdp": 1e-6, "pld": 1e-4, "prv": 1e-4}
_ARGUMENTS: dict[Unknown, tuple[str, ...]] = {
    "epsilon": (),
    "noise_multiplier": ("epsilon", "delta", "sample_rate", "steps"),
    "sample_rate": ("epsilon", "delta", "noise_multiplier", "steps"),
    "steps": ("epsilon", "delta", "noise_multiplier", "sample_rate"),
    "delta": ("epsilon", "noise_multiplier", "sample_rate", "steps"),
}


@dataclass(frozen=True, slots=True)
class BudgetAnswer:
    """A consistent set of numbers; the one that was computed is rounded to the safe side."""

    solved_for: Unknown
    epsilon: float
    """What all steps spend at ``delta``; at most the target, if one was given."""
    delta: float
    noise_multiplier: float
    sample_rate: float
    steps: int
    accountant: AccountantName
    neighbouring: Neighbouring
    guaranteed: bool
    """False if ``epsilon`` is an approximation (``gdp`` at rates below 1)."""
    target_epsilon: float | None
    spent_epsilon: float
    """What the steps given as already spent cost alone."""
    epochs: float
    """sample_rate * steps: how often a record is used on average."""
    expected_batch: float | None
    epsilon_rdp: float
    epsilon_gdp_approximation: float


def solve_budget(
    epsilon: float | None = None,
    delta: float | None = None,
    noise_multiplier: float | None = None,
    sample_rate: float | None = None,
    steps: int | None = None,
    dataset_size: int | None = None,
    batch_size: float | None = None,
    epochs: float | None = None,
    accountant: AccountantName = "pld",
    neighbouring: Neighbouring = "add_remove",
    spent: History = (),
) -> BudgetAnswer:
    """Compute the one of epsilon, noise multiplier, sampling rate, steps (or delta) left out.

    Args:
        epsilon: total budget, > 0.
        delta: in (0, 1). Left out, it is 1 / (10 dataset_size), or, if the other four are given,
            the unknown.
        noise_multiplier: noise standard deviation over max_grad_norm.
        sample_rate: probability that a record enters a step; or give dataset_size and batch_size.
        steps: number of new steps; or give epochs.
        dataset_size: number of records.
        batch_size: expected batch, sample_rate * dataset_size.
        epochs: steps * sample_rate; rounded up to whole steps.
        accountant: ``pld``, ``prv``, ``rdp`` or ``gdp``.
        neighbouring: ``add_remove`` or ``replace_special``.
        spent: steps taken before, entries (noise_multiplier, sample_rate, steps).

    Returns:
        The numbers, among them epsilon by RDP and by the central limit theorem for comparison.

    Raises:
        ValueError: if not exactly one is unknown, or an argument is out of range.
        BudgetExceededError: if nothing meets the target.
    """
    check_choice(accountant, neighbouring)
    rate = _rate(sample_rate, dataset_size, batch_size)
    known = {
        "epsilon": None if epsilon is None else check_epsilon(epsilon),
        "delta": delta,
        "noise_multiplier": noise_multiplier,
        "sample_rate": rate,
        "steps": _steps(steps, epochs, rate),
    }
    unknown = _unknown(known, dataset_size)
    if delta is None and unknown != "delta" and dataset_size is not None:
        known["delta"] = 1 / (10 * dataset_size)
    found = _solve(
        unknown,
        {name: value for name, value in known.items() if value is not None},
        accountant,
        neighbouring,
        spent,
    )
    return _answer(found, unknown, epsilon, dataset_size, accountant, neighbouring, spent)


def _rate(
    sample_rate: float | None, dataset_size: int | None, batch_size: float | None
) -> float | None:
    if dataset_size is not None and dataset_size < 1:
        raise ValueError(f"dataset_size is {dataset_size!r}; give the number of records, >= 1")
    if batch_size is None:
        return sample_rate
    if sample_rate is not None:
        raise ValueError("got both sample_rate and batch_size; give one of them")
    if dataset_size is None:
        raise ValueError("batch_size alone sets no sampling rate; give dataset_size too")
    if not 0 < batch_size <= dataset_size:
        raise ValueError(
            f"batch_size is {batch_size!r}; give a number above 0, up to dataset_size "
            f"{dataset_size}"
        )
    return batch_size / dataset_size


def _steps(steps: int | None, epochs: float | None, rate: float | None) -> int | None:
    if steps is not None and steps != math.floor(steps):
        raise ValueError(f"steps is {steps!r}; give a whole number >= 0")
    if epochs is None:
        return steps
    if steps is not None:
        raise ValueError("got both steps and epochs; give one of them")
    if rate is None or not 0 < rate <= 1:
        raise ValueError(
            "epochs become steps only by the sampling rate; give steps, or sample_rate (above 0), "
            "or dataset_size and batch_size"
        )
    if not (epochs >= 0 and math.isfinite(epochs)):
        raise ValueError(f"epochs is {epochs!r}; give a finite number >= 0")
    return math.ceil(epochs / rate * (1 - 1e-12))


def _unknown(known: Mapping[str, float | None], dataset_size: int | None) -> Unknown:
    names: tuple[Unknown, ...] = ("epsilon", "noise_multiplier", "sample_rate", "steps")
    missing = [name for name in names if known[name] is None]
    if not missing and known["delta"] is None:
        return "delta"
    if len(missing) != 1:
        got = " and ".join(missing) + " are" if missing else "nothing is"
        raise ValueError(
            f"{got} left open; leave out exactly one of epsilon, noise_multiplier, sample_rate "
            "(or batch_size and dataset_size), steps (or epochs)"
        )
    if known["delta"] is None and dataset_size is None:
        raise ValueError("delta is missing; give it, or dataset_size for 1 / (10 dataset_size)")
    return missing[0]


def _solve(
    unknown: Unknown,
    known: Mapping[str, float],
    accountant: AccountantName,
    neighbouring: Neighbouring,
    spent: History,
) -> dict[str, float]:
    """All five quantities; ``epsilon`` is the target, if there is one."""
    given = [known[name] for name in _ARGUMENTS[unknown]]
    found: float
    if unknown == "epsilon":
        return dict(known)
    if unknown == "noise_multiplier":
        target, delta, rate, steps = given
        found = calibrate_noise(
            target, delta, rate, int(steps), accountant, spent, neighbouring, _TOLERANCE[accountant]
        )
    elif unknown == "sample_rate":
        target, delta, noise, steps = given
        found = calibrate_sample_rate(
            target,
            delta,
            noise,
            int(steps),
            accountant,
            spent,
            neighbouring,
            _TOLERANCE[accountant],
        )
    elif unknown == "steps":
        target, delta, noise, rate = given
        found = calibrate_steps(target, delta, noise, rate, accountant, spent, neighbouring)
    else:
        target, noise, rate, steps = given
        found = calibrate_delta(target, noise, rate, int(steps), accountant, spent, neighbouring)
    return {**known, unknown: found}


def _answer(
    found: Mapping[str, float],
    unknown: Unknown,
    target: float | None,
    dataset_size: int | None,
    accountant: AccountantName,
    neighbouring: Neighbouring,
    spent: History,
) -> BudgetAnswer:
    noise, rate, delta = found["noise_multiplier"], found["sample_rate"], found["delta"]
    steps = int(found["steps"])
    total = [*spent, (noise, rate, steps)]

    def cost(by: AccountantName, history: History = total) -> float:
        # a delta of 0 was found because nothing is released, one of 1 because nothing is protected
        return 0.0 if delta in (0, 1) else epsilon_of(history, delta, by, neighbouring)

    return BudgetAnswer(
        solved_for=unknown,
        epsilon=cost(accountant),
        delta=delta,
        noise_multiplier=noise,
        sample_rate=rate,
        steps=steps,
        accountant=accountant,
        neighbouring=neighbouring,
        guaranteed=accountant != "gdp" or all(q in (0, 1) for _, q, _ in total),
        target_epsilon=target,
        spent_epsilon=cost(accountant, spent),
        epochs=rate * steps,
        expected_batch=None if dataset_size is None else rate * dataset_size,
        epsilon_rdp=cost("rdp"),
        epsilon_gdp_approximation=cost("gdp"),
    )
