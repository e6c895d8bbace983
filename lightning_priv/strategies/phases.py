"""What has been spent, cohort by cohort: phases of steps with their noise and sampling rates."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from lightning_priv.accountants import AccountantName, remaining_steps
from lightning_priv.accountants import epsilon as epsilon_of

__all__ = ["Cohort", "Entry", "Phase", "Spending", "as_rates", "expected_batch", "merged"]

Entry = tuple[float, float, int]
Cost = tuple[float, float, str]
Rates = npt.NDArray[np.float64]

_MANY_COHORTS = 64


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
    """

    records: int
    history: list[Entry]


@dataclass
class Spending:
    """The phases so far, steps of abandoned runs included.

    Attributes:
        num_records: records of the data set.
        phases: in order; the last one is current.
    """

    num_records: int
    phases: list[Phase] = field(default_factory=list)
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

    def charge_abandoned(self, costs: Counter[Cost]) -> int:
        """Add steps that runs made whose results were lost; returns how many.

        Rates that a phase of this run has are charged record by record; of others only the largest
        is known, and every record is charged with it.
        """
        known = {phase.digest: phase.rates for phase in self.phases}
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

    def cohorts(self) -> list[Cohort]:
        """Groups of records with equal histories, in the order of their rates, largest first."""
        cohorts = [
            Cohort(count, self._history_of(record)) for record, count in self._cohort_heads()
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
        """The largest epsilon of any record.

        Args:
            delta: of the statement.
            accountant: which one.
            ahead: (noise_multiplier, steps) to be made at the current rates, counted too.
        """
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
    ) -> int:
        """Steps at the current rates that keep every record at or below ``limit``.

        Args:
            limit: epsilon that must not be passed.
            delta: of the statement.
            accountant: which one decides.
            pieces: (noise_multiplier, steps) to be made; default: as many as fit, with the current
                phase's noise.
        """
        if pieces is None:
            assert self.current.noise_multiplier is not None, "calibrate the noise first"
            return self._fitting(limit, delta, accountant, self.current.noise_multiplier, [])
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

    def state(self) -> dict[str, Any]:
        """Plain types and tensors, for a checkpoint."""
        return {
            "num_records": self.num_records,
            "phases": [phase.state() for phase in self.phases],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Spending:
        """What ``state`` was made from."""
        phases = [Phase(**{**p, "rates": p["rates"].numpy()}) for p in state["phases"]]
        return cls(int(state["num_records"]), phases)

    def _cohort_heads(self) -> list[tuple[int, int]]:
        """One record of each cohort, and the cohort's size."""
        key = (self.num_records, [phase.digest for phase in self.phases if phase.rates.ndim])
        if self._groups is None or self._groups[0] != key:
            labels = np.zeros(self.num_records, dtype=np.int64)
            for phase in self.phases:
                if phase.rates.ndim:
                    _, inverse = np.unique(phase.rates, return_inverse=True)
                    _, labels = np.unique(labels * self.num_records + inverse, return_inverse=True)
            _, first, counts = np.unique(labels, return_index=True, return_counts=True)
            self._groups = key, list(zip(first.tolist(), counts.tolist(), strict=True))
        return self._groups[1]

    def _history_of(self, record: int) -> list[Entry]:
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
