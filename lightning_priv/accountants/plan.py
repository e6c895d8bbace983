"""A plan of private active learning: steps, rates and what each cohort spends."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, TypeAlias

from lightning_priv.accountants.history import Entry

__all__ = ["AmplificationPlan", "Composition", "PlanMode"]

PlanMode: TypeAlias = Literal["naive", "step_amplification", "official", "noise_reduction"]
Composition: TypeAlias = Literal["basic", "joint_pld"]


@dataclass(frozen=True, slots=True)
class AmplificationPlan:
    """Everything that a private active-learning run needs to know before it starts.

    Cohort 0 are the records labelled first, cohort k those of query k; phase i trains on the
    cohorts 0..i. All values are public: they follow from the arguments alone.

    Attributes:
        initial: n_0.
        queries: n_1, ..., n_K.
        batch_size: B, the nominal expected batch.
        epochs: passes of each phase of the base schedule.
        epsilon: budget of every record.
        epsilon_acquisition: its share for all K selections together.
        delta: of the whole run.
        accountant: the one that planned.
        mode: how the plan was made.
        composition: of training and selections; ``basic`` adds their epsilons up.
        noise_multiplier: sigma of phase 0.
        noise_multipliers: sigma of each phase; all equal except with ``noise_reduction`` and,
            where its search ends off, ``official``.
        steps: T_i, shape [K + 1].
        rates: q_{k,i} as [cohort][phase]; 0 in phases before the cohort exists.
        expected_batch: b_i = sum_k n_k q_{k,i}, the denominator of phase i.
        epsilon_train: what each cohort's training spends, by the planning accountant.
        epsilon_total: with its selections, by ``composition``.
        epsilon_envelope: what holds although a record's cohort depends on its own noisy score;
            None where it was not computed.
    """

    initial: int
    queries: tuple[int, ...]
    batch_size: int
    epochs: tuple[int, ...]
    epsilon: float
    epsilon_acquisition: float
    delta: float
    accountant: str
    mode: PlanMode
    composition: Composition
    noise_multiplier: float
    noise_multipliers: tuple[float, ...]
    steps: tuple[int, ...]
    rates: tuple[tuple[float, ...], ...]
    expected_batch: tuple[float, ...]
    epsilon_train: tuple[float, ...]
    epsilon_total: tuple[float, ...]
    epsilon_envelope: float | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """n_0, ..., n_K."""
        return (self.initial, *self.queries)

    @property
    def epsilon_round(self) -> float:
        """What one selection spends on every record that it scores."""
        return self.epsilon_acquisition / max(1, len(self.queries))

    @property
    def participations(self) -> tuple[float, ...]:
        """Expected number of steps that a record of each cohort takes part in."""
        return tuple(
            math.fsum(q * t for q, t in zip(row, self.steps, strict=True)) for row in self.rates
        )

    @property
    def overspent(self) -> bool:
        """Whether a record may spend more than ``epsilon``, as with ``official``."""
        worst = max(*self.epsilon_total, self.epsilon_envelope or 0.0)
        return worst > self.epsilon * (1 + 1e-9)

    def history(self, cohort: int) -> list[Entry]:
        """Training of one cohort: entries (noise_multiplier, sample_rate, steps)."""
        rows = zip(self.noise_multipliers, self.rates[cohort], self.steps, strict=True)
        return [(sigma, q, t) for sigma, q, t in rows if q > 0 and t > 0]

    def to_json(self) -> str:
        """The plan as text that ``from_json`` reads."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """A plan from the text of ``to_json``.

        Raises:
            ValueError: if the text is no such plan.
        """
        names = {field.name for field in fields(cls)}
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"the plan is no JSON ({error}); write it with to_json") from error
        if not isinstance(content, Mapping) or set(content) != names:
            raise ValueError(
                f"the plan must have exactly the keys {sorted(names)}; write it with to_json, or "
                "with the calculator plan"
            )
        plan = cls(**{name: _tuples(value) for name, value in content.items()})
        if len({len(plan.sizes), len(plan.steps), len(plan.rates), len(plan.expected_batch)}) != 1:
            raise ValueError("the plan's lists do not all have one entry a phase; make it anew")
        return plan


def _tuples(value: Any) -> Any:
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value
