"""What has been spent, cohort by cohort: phases of steps with their noise and sampling rates."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from lightning_priv.accountants import MAX_STEPS, AccountantName, remaining_steps
from lightning_priv.accountants import epsilon as epsilon_of
from lightning_priv.strategies.selections import Selection, adaptive, times_scored

__all__ = ["Cohort", "Entry", "Phase", "Spending", "as_rates", "expected_batch", "merged"]

Entry = tuple[float, float, int]
Cost = tuple[float, float, str]
Rates = npt.NDArray[np.float64]

_MANY_COHORTS = 64
_ROUNDING = 1e-9  # of a limit that a plan has used up: the order of a sum may differ


class _Known(NamedTuple):
    rates: Rates
    largest: float
    digest: str


@dataclass
class Phase:
    """Steps that share noise, rates and denominator.

    Attributes:
        noise_multiplier: sigma; None until it is calibrated.
        rates: inclusion probability, one number (shape ()) or one a record (shape (N,)).
        denominator: what sums of gradients are divided by; public.
        planned: steps to be made, or None if the trainer decides.
        explicit: whether the phase came through ``set_phase``.
        abandoned: whether its steps were made by runs whose results were lost.
        done: steps charged.
    """

    noise_multiplier: float | None
    rates: Rates
    denominator: float
    planned: int | None = None
    explicit: bool = False
    abandoned: bool = False
    done: int = 0
    _known: _Known | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def sample_rate(self) -> float:
        """The largest inclusion probability of a record."""
        return self._facts().largest

    @property
    def digest(self) -> str:
        """Short hash by which the rates are recognised."""
        return self._facts().digest

    def _facts(self) -> _Known:
        """Largest rate and hash, computed once for an array that may have a million entries."""
        if self._known is None or self._known.rates is not self.rates:
            content = repr(self.rates.shape).encode() + self.rates.tobytes()
            digest = hashlib.sha256(content).hexdigest()[:16]
            self._known = _Known(self.rates, float(self.rates.max()), digest)
        return self._known

    def state(self) -> dict[str, Any]:
        """Plain types and a tensor, for a checkpoint."""
        names = [f.name for f in fields(self) if f.init]
        state = {name: getattr(self, name) for name in names}
        return {**state, "rates": torch.from_numpy(np.array(self.rates))}

    @property
    def cost(self) -> Cost:
        """What one step is: (noise_multiplier, largest rate, digest of the rates)."""
        assert self.noise_multiplier is not None, "the noise is not calibrated yet"
        return self.noise_multiplier, self.sample_rate, self.digest


class Cohort(NamedTuple):
    """Records with the same history.

    Attributes:
        records: how many there are.
        history: (noise_multiplier, sample_rate, steps), phase by phase.
        scored: how many private selections have scored them.
    """

    records: int
    history: list[Entry]
    scored: int = 0


@dataclass
class Spending:
    """The phases so far, steps of abandoned runs included.

    Attributes:
        num_records: records of the data set.
        phases: in order; the last one is current.
        selections: noisy scores that were released.
    """

    num_records: int
    phases: list[Phase] = field(default_factory=list)
    selections: list[Selection] = field(default_factory=list)
    _groups: tuple[object, list[tuple[int, int]]] | None = field(
        default=None, init=False, repr=False, compare=False
    )

    @property
    def current(self) -> Phase:
        """The phase that the next step belongs to."""
        return self.phases[-1]

    @property
    def costs(self) -> Counter[Cost]:
        """Number of steps of each kind."""
        counts: Counter[Cost] = Counter()
        for phase in self.phases:
            if phase.done:
                counts[phase.cost] += phase.done
        return counts

    def charge_abandoned(self, costs: Counter[Cost], others: Sequence[Rates] = ()) -> int:
        """Add steps that runs made whose results were lost; returns how many.

        Rates that a phase of this run has, or that stand in ``others``, are charged record by
        record; of others only the largest is known, and every record is charged with it.
        """
        known = {Phase(None, rates, 1.0).digest: rates for rates in others}
        known |= {phase.digest: phase.rates for phase in self.phases}
        for (sigma, rate, digest), steps in sorted(costs.items()):
            rates = known.get(digest, np.asarray(rate))
            lost = Phase(sigma, rates, float("nan"), abandoned=True, done=steps)
            self.phases.insert(max(0, len(self.phases) - 1), lost)
        return costs.total()

    def forget_records(self, num_records: int) -> None:
        """Go over to another data set: every record is charged with the largest rate so far."""
        self.num_records = num_records
        for phase in self.phases:
            phase.rates = np.asarray(phase.sample_rate)
        everyone = np.asarray(True)
        self.selections = [replace(selection, scored=everyone) for selection in self.selections]

    def cohorts(self) -> list[Cohort]:
        """Groups of records with equal histories, in the order of their rates, largest first."""
        times = times_scored(self.selections, self.num_records) if self.selections else None
        cohorts = [
            Cohort(count, self.history_of(record), 0 if times is None else int(times[record]))
            for record, count in self._cohort_heads()
        ]
        return sorted(cohorts, key=lambda c: [q for _, q, _ in c.history], reverse=True)

    def histories(self) -> list[list[Entry]]:
        """Histories that none other exceeds in every phase: epsilon is the largest over these.

        With more than 64 of them they are replaced by one that is at least as large as each.
        """
        rows = {tuple(q for _, q, _ in c.history): c.history for c in self.cohorts()}
        kept: list[tuple[float, ...]] = []
        for rates in sorted(rows, reverse=True):
            if not any(all(a >= b for a, b in zip(k, rates, strict=True)) for k in kept):
                kept.append(rates)
            if len(kept) > _MANY_COHORTS:
                tops = np.max(list(rows), axis=0)
                first = next(iter(rows.values()))
                return [[(s, float(q), n) for (s, _, n), q in zip(first, tops, strict=True)]]
        return [rows[rates] for rates in kept]

    def epsilon(
        self, delta: float, accountant: AccountantName, ahead: Sequence[tuple[float, int]] = ()
    ) -> float:
        """The largest epsilon of any record, selections and their adaptivity included.

        Args:
            delta: of the statement.
            accountant: which one.
            ahead: (noise_multiplier, steps) to be made at the current rates, counted too.
        """
        if self.selections:
            paths = [
                (c.scored, [*c.history, *((s, c.history[-1][1], n) for s, n in ahead)])
                for c in self.cohorts()
            ]
            return adaptive(paths, self.selections, delta, accountant)
        return max(
            (
                epsilon_of(merged([*h, *((s, h[-1][1], n) for s, n in ahead)]), delta, accountant)
                for h in self.histories()
            ),
            default=0.0,
        )

    def worst(self, delta: float) -> list[Entry]:
        """The history of the records that have spent most, equal entries added up."""
        histories = [merged(h) for h in self.histories()]
        if len(histories) < 2:
            return histories[0] if histories else []
        # any accountant orders the cohorts alike up to its own slack; this one is fast
        return max(histories, key=lambda h: epsilon_of(h, delta, "rdp"))

    def prospects(self) -> list[tuple[list[Entry], float]]:
        """What each kind of record has spent, and its rate in the current phase if it has one."""
        found: dict[tuple[tuple[Entry, ...], float], None] = {}
        for history in self.histories():
            rate = history[-1][1]
            if rate > 0:
                found[tuple(merged(history)), rate] = None
        return [(list(history), rate) for history, rate in found]

    def affordable(
        self,
        limit: float,
        delta: float,
        accountant: AccountantName,
        pieces: Sequence[tuple[float, int]] | None = None,
        most: int = MAX_STEPS,
    ) -> int:
        """Steps at the current rates that keep every record at or below ``limit``.

        Args:
            limit: epsilon that must not be passed.
            delta: of the statement.
            accountant: which one decides.
            pieces: (noise_multiplier, steps) to be made; default: as many as fit, with the current
                phase's noise.
            most: more than this is not asked for.
        """
        if pieces is None:
            sigma = self.current.noise_multiplier
            assert sigma is not None, "calibrate the noise first"
            if self.selections:
                return self._fitting_with_selections(limit, delta, accountant, sigma, most)
            return self._fitting(limit, delta, accountant, sigma, [])
        total = sum(steps for _, steps in pieces)
        if self.epsilon(delta, accountant, pieces) <= limit:
            return total
        count = 0
        for number, (sigma, steps) in enumerate(pieces):
            fitting = self._fitting(limit, delta, accountant, sigma, pieces[:number])
            if fitting < steps:
                return count + fitting
            count += steps
        return count

    def _fitting(
        self,
        limit: float,
        delta: float,
        accountant: AccountantName,
        sigma: float,
        before: Sequence[tuple[float, int]],
    ) -> int:
        """Steps with ``sigma`` that fit behind those of ``before``."""
        return min(
            remaining_steps(
                [*history, *((s, rate, n) for s, n in before)],
                sigma,
                rate,
                limit,
                delta,
                accountant,
            )
            for history, rate in self.prospects()
        )

    def _fitting_with_selections(
        self, limit: float, delta: float, accountant: AccountantName, sigma: float, most: int
    ) -> int:
        """As ``_fitting``; records cannot be taken one by one, for their paths share one bound."""

        def fits(steps: int) -> bool:
            spent = self.epsilon(delta, accountant, [(sigma, steps)])
            return spent <= limit * (1 + _ROUNDING)

        if fits(most):
            return most
        below, above = -1, most
        while above - below > 1:
            middle = (above + below) // 2
            below, above = (middle, above) if fits(middle) else (below, middle)
        return max(0, below)

    def state(self) -> dict[str, Any]:
        """Plain types and tensors, for a checkpoint."""
        return {
            "num_records": self.num_records,
            "phases": [phase.state() for phase in self.phases],
            "selections": [selection.state() for selection in self.selections],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Spending:
        """What ``state`` was made from."""
        phases = [Phase(**{**p, "rates": p["rates"].numpy()}) for p in state["phases"]]
        selections = [Selection.from_state(s) for s in state.get("selections", [])]
        return cls(int(state["num_records"]), phases, selections)

    def _cohort_heads(self) -> list[tuple[int, int]]:
        """One record of each cohort, and the cohort's size."""
        rates = [phase.digest for phase in self.phases if phase.rates.ndim]
        key = (self.num_records, rates, tuple(self.selections))
        if self._groups is None or self._groups[0] != key:
            labels = times_scored(self.selections, self.num_records)
            for phase in self.phases:
                if phase.rates.ndim:
                    _, inverse = np.unique(phase.rates, return_inverse=True)
                    _, labels = np.unique(labels * self.num_records + inverse, return_inverse=True)
            _, first, counts = np.unique(labels, return_index=True, return_counts=True)
            self._groups = key, list(zip(first.tolist(), counts.tolist(), strict=True))
        return self._groups[1]

    def history_of(self, record: int) -> list[Entry]:
        """One entry a phase, rate 0 where the record was not used."""
        rates = ((p.rates[record] if p.rates.ndim else p.rates) for p in self.phases)
        return [
            (float("nan") if p.noise_multiplier is None else p.noise_multiplier, float(q), p.done)
            for p, q in zip(self.phases, rates, strict=True)
        ]


def merged(history: Iterable[Entry]) -> list[Entry]:
    """The history with equal (noise_multiplier, sample_rate) added up, without empty entries."""
    totals: dict[tuple[float, float], int] = {}
    for sigma, rate, steps in history:
        if steps and rate:
            totals[sigma, rate] = totals.get((sigma, rate), 0) + steps
    return [(sigma, rate, steps) for (sigma, rate), steps in totals.items()]


def expected_batch(rates: Rates, num_records: int) -> float:
    """Expected number of records in a batch."""
    return float(rates.sum()) if rates.ndim else float(rates) * num_records


def as_rates(rates: float | Sequence[float] | Any, num_records: int) -> Rates:
    """One rate for all records, or one for each, checked.

    Raises:
        ValueError: if there are as many rates as neither, or one is no probability.
    """
    array = np.array(rates, dtype=np.float64)  # a copy: who gave it may go on changing it
    if array.shape not in ((), (num_records,)):
        raise ValueError(
            f"rates of shape {array.shape} for {num_records} records; give one number, or one for "
            "each record in the order of the data set (0 for records that must not be used)"
        )
    if not bool(np.all((array >= 0) & (array <= 1))):
        raise ValueError("rates must be probabilities in [0, 1], without NaN")
    if array.ndim and bool(np.all(array == array[0])):
        array = np.array(array[0])
    array.setflags(write=False)
    return array
