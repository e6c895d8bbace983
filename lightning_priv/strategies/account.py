"""The account of one training: what was spent, what is planned, and when it ends."""

from __future__ import annotations

import math
import secrets
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_priv.accountants import MAX_STEPS, AccountantName, calibrate_schedule
from lightning_priv.errors import BudgetExceededError, PrivacyError
from lightning_priv.strategies.ledger import Ledger
from lightning_priv.strategies.phases import Cost, Phase, Rates, Spending, expected_batch
from lightning_priv.strategies.settings import PrivacySettings

__all__ = ["UNLIMITED", "Account"]

UNLIMITED = MAX_STEPS


class _Bound(NamedTuple):
    """Epsilon once the present phase has ``done`` steps, and what it took to compute."""

    besides: object
    done: int
    value: float
    time: float
    released: int
    seconds: float = 0.1


class Account:
    """Counts steps before they are made and says how many may still be made.

    Args:
        settings: arguments of the strategy.

    Attributes:
        spending: phases and steps; None until the data set is known.
        ledger: where steps are written down, or None.
        limit: epsilon that must not be passed, or None.
        released: logical steps made by this training, those before a checkpoint included.
        left: logical steps that may still be made; known after ``plan``.
        abandoned: steps that were charged for runs whose results were lost.
        uncovered: sentences on what was released without being charged.
        known_rates: of phases that lost runs may have begun.
        lineage: tells this training, and what resumes it, from others.
    """

    def __init__(self, settings: PrivacySettings) -> None:
        self._settings = settings
        if settings.accountant == "gdp":
            rank_zero_warn(
                "DP-SGD: accountant gdp is an approximation that can lie below the true epsilon; "
                "take pld where a guarantee is meant"
            )
        self.spending: Spending | None = None
        self.ledger: Ledger | None = None
        self.limit = settings.limit
        self.released = 0
        self.left: int | None = None
        self.abandoned = 0
        self.uncovered: list[str] = []
        self.known_rates: list[Rates] = []
        self.lineage = secrets.token_hex(8)
        self._written_phase: int | None = None
        self._charged_pass: int | None = None
        self._calibrated_for: float | None = None
        self._bound: _Bound | None = None
        self._told: tuple[object, float] | None = None

    @property
    def known(self) -> Spending:
        """The spending.

        Raises:
            PrivacyError: if no training data have been seen yet.
        """
        if self.spending is None:
            raise PrivacyError("nothing is known of the training set yet; call this during fit")
        return self.spending

    @property
    def phase(self) -> Phase | None:
        """The current phase, if there is one."""
        return self.spending.current if self.spending is not None and self.spending.phases else None

    @property
    def phase_is_complete(self) -> bool:
        """Whether all steps are made of a phase that the user began; another may follow."""
        phase = self.phase
        return phase is not None and phase.explicit and phase.done == phase.planned

    @property
    def costs(self) -> Counter[Cost]:
        """Number of steps of each kind so far."""
        return Counter() if self.spending is None else self.spending.costs

    @property
    def expected_batch(self) -> float:
        """Expected number of records in a logical batch of the current phase."""
        return expected_batch(self.known.current.rates, self.known.num_records)

    @property
    def delta(self) -> float:
        """The delta of the statement."""
        if self._settings.delta == "auto":
            return 0.1 / self.known.num_records
        return float(self._settings.delta)

    def epsilon(
        self, delta: float | None = None, accountant: AccountantName | None = None
    ) -> float:
        """The largest epsilon that any record has spent."""
        if self.spending is None:
            return 0.0
        delta, accountant = delta or self.delta, accountant or self._settings.accountant
        selections = tuple(self.spending.selections)
        asked = (self.spending.costs, self.spending.num_records, selections, delta, accountant)
        if self._told is None or self._told[0] != asked:
            self._told = asked, self.spending.epsilon(delta, accountant)
        return self._told[1]

    def live_epsilon(self, steps_ahead: int) -> float:
        """An upper bound of epsilon for a display: that of at least ``steps_ahead`` more steps.

        An accountant may cost more than a step of training. It is therefore asked for some steps
        more, as many as keep it below 5 % of the time, and asked again when they are made.
        """
        besides, wanted = self._besides(), self.known.current.done + steps_ahead
        cheap = self._epsilon_at(wanted, "rdp")
        if self._settings.accountant == "rdp":
            return cheap
        bound = self._bound
        if bound is None or bound.besides != besides or bound.done < wanted:
            begin = time.monotonic()
            before = _Bound(besides, 0, 0.0, begin, 0) if bound is None else bound
            pace = max(1, self.released - before.released) / max(1e-3, begin - before.time)
            ahead = 0 if bound is None else 20 * before.seconds * pace
            done = math.ceil(max(1.05 * wanted, wanted + ahead))
            value = self._epsilon_at(done)
            seconds = time.monotonic() - begin
            self._bound = bound = _Bound(besides, done, value, begin, self.released, seconds)
        return min(bound.value, cheap)

    def _besides(self) -> object:
        """All that epsilon depends on, except for the number of steps of the current phase."""
        spending = self.known
        before = [(phase.cost, phase.done) for phase in spending.phases[:-1]]
        charged = tuple(spending.selections), spending.num_records, self.delta
        return (*before, spending.current.cost), *charged

    def _epsilon_at(self, done: int, accountant: AccountantName | None = None) -> float:
        """Epsilon once the current phase has ``done`` steps."""
        phase = self.known.current
        before, phase.done = phase.done, done
        try:
            return self.epsilon(accountant=accountant)
        finally:
            phase.done = before

    def begin_phase(
        self,
        rates: Rates,
        denominator: float | None = None,
        noise_multiplier: float | None = None,
        steps: int | None = None,
        explicit: bool = False,
    ) -> None:
        """Make a phase the current one, unless it only goes on with the current one.

        Args:
            rates: one rate for all records or one for each.
            denominator: public divisor; None for the expected batch.
            noise_multiplier: sigma; None keeps the present one, or leaves it to be found.
            steps: steps planned; None if the trainer decides.
            explicit: whether the user began it.
        """
        spending = self.known
        expected = expected_batch(rates, spending.num_records)
        if expected <= 0:
            raise ValueError(
                "all rates are 0: no record would ever be used; give some a rate above"
            )
        phase = Phase(noise_multiplier, rates, denominator or expected, steps, explicit)
        current = spending.phases[-1] if spending.phases else None
        if explicit and noise_multiplier is None:
            before = self._settings if current is None else current
            phase.noise_multiplier = before.noise_multiplier
        if current is not None and self._goes_on(current, phase):
            return
        if current is not None and current.done == 0 and not current.abandoned:
            spending.phases.pop()
        spending.phases.append(phase)
        self.left = None

    def _goes_on(self, current: Phase, phase: Phase) -> bool:
        if current.explicit and not phase.explicit:
            return True  # what the user began ends only when the user begins another
        if phase.explicit and (current.planned != phase.planned or self.phase_is_complete):
            return False
        same_noise = (
            self._calibrated_for == self._settings.target_epsilon
            if phase.noise_multiplier is None
            else phase.noise_multiplier == current.noise_multiplier
        )
        same_kind = (current.explicit, current.digest, current.denominator) == (
            phase.explicit,
            phase.digest,
            phase.denominator,
        )
        return same_noise and same_kind and not current.abandoned

    def plan(self, requested: int, pass_length: int | None = None, position: int = 0) -> None:
        """Find the noise if it is to be found, and how many logical steps may be made.

        Args:
            requested: logical steps that the trainer is going to ask for.
            pass_length: steps of one pass over shuffled records, which are charged once a pass;
                None for Poisson sampling, where each step is.
            position: step of the stream at which training goes on.

        Raises:
            BudgetExceededError: if more steps are asked for than the noise was found for.
        """
        spending, settings = self.known, self._settings
        phase = spending.current
        charges = requested
        if pass_length is not None:
            charges = math.ceil((position % pass_length + requested) / pass_length)
        wanted = phase.planned if phase.explicit and phase.planned else phase.done + charges
        target = settings.target_epsilon
        if phase.noise_multiplier is None:
            assert target is not None, "settings guarantee noise_multiplier or target_epsilon"
            if wanted >= UNLIMITED:
                raise BudgetExceededError(
                    "target_epsilon needs to know the number of steps; set the trainer's "
                    "max_epochs or max_steps, or give noise_multiplier and max_epsilon"
                )
            phase.noise_multiplier = self._calibrate([(1.0, wanted - phase.done)], target)
            phase.planned = wanted
            self._calibrated_for = target
            rank_zero_info(
                f"DP-SGD: noise_multiplier {phase.noise_multiplier:.4f} for epsilon {target} at "
                f"delta {self.delta:.3g}, {wanted} steps at rate {phase.sample_rate:.4g}"
            )
        elif target is not None and phase.planned is not None and wanted > phase.planned:
            raise BudgetExceededError(
                f"{wanted} steps are asked for, but the noise was found for {phase.planned} steps "
                f"to stay within epsilon {target}; lower max_epochs or max_steps to what was "
                "planned, or start anew with a larger target_epsilon"
            )
        affordable = UNLIMITED
        if self.limit is not None:
            most = UNLIMITED if phase.planned is None else phase.planned - phase.done
            affordable = spending.affordable(self.limit, self.delta, settings.accountant, most=most)
        if phase.planned is not None:
            affordable = min(affordable, phase.planned - phase.done)
            if phase.explicit:
                charges = min(charges, phase.planned - phase.done)
        self._warn_of_lost_steps(charges - affordable)
        self.left = affordable
        if pass_length is not None and affordable < UNLIMITED:
            self.left = max(0, affordable * pass_length - position % pass_length)
        if phase.noise_multiplier == 0:
            rank_zero_warn("DP-SGD: noise_multiplier is 0, epsilon is infinite: nothing is private")

    def _calibrate(self, pieces: list[tuple[float, int]], target: float) -> float:
        """The least noise with which more steps leave every record within the target.

        Args:
            pieces: (factor of the noise, steps) of what is to be made.
            target: epsilon.
        """
        accountant = self._settings.accountant
        return max(
            calibrate_schedule(
                target, self.delta, [(f, rate, n) for f, n in pieces], accountant, history
            )
            for history, rate in self.known.prospects()
        )

    def _warn_of_lost_steps(self, missing: int) -> None:
        if missing > 0 and self.abandoned:
            rank_zero_warn(
                f"{self.abandoned} steps are spent by runs that were lost; training ends {missing} "
                "steps early"
            )

    def require_step(self) -> None:
        """Raise if no step may be made any more.

        Raises:
            BudgetExceededError: saying what is used up.
        """
        if self.left is None:
            raise PrivacyError("a training step before the privacy plan was made; call trainer.fit")
        if self.left <= 0:
            phase = self.known.current
            if phase.planned is not None and phase.done >= phase.planned:
                raise BudgetExceededError(
                    f"the {phase.planned} steps of this phase are used up; call set_phase for the "
                    "next one, or end training here"
                )
            raise BudgetExceededError(
                f"one more step would pass epsilon {self.limit} (spent: {self.epsilon():.4f} at "
                f"delta {self.delta:.3g}); training ends here"
            )

    def charge(self, pass_number: int | None = None) -> None:
        """Write one logical step down, on the disk and in the account, before it is made.

        Args:
            pass_number: for shuffled records, the pass that the step belongs to.
        """
        self.require_step()
        assert self.left is not None
        spending = self.known
        phase = spending.current
        if pass_number is None or pass_number != self._charged_pass:
            self._charged_pass = pass_number
            number = len(spending.phases) - 1
            if self.ledger is not None:
                if self._written_phase != number:
                    sigma, rate, digest = phase.cost
                    own = phase.rates if phase.rates.ndim else None
                    self.ledger.phase(number, sigma, rate, digest, own)
                    self._written_phase = number
                self.ledger.step(number)
            phase.done += 1
        self.released += 1
        self.left -= 1

    def lower_limit(self, limit: float) -> None:
        """Lower the epsilon that must not be passed; a higher value changes nothing."""
        self.limit = limit if self.limit is None else min(limit, self.limit)
        self.left = None

    def open_ledger(self, path: Path | None, block: dict[str, Any] | None, **facts: Any) -> None:
        """Begin to write, as a new lineage or as a branch of the one resumed."""
        if path is None or self.ledger is not None:
            return
        lineage = {} if block is None else {"root": block["root"], "parent": block["run"]}
        self.ledger = Ledger(path, **lineage)
        self.ledger.open(**facts)

    def state(self) -> dict[str, Any]:
        """Plain types and tensors, for a checkpoint."""
        return {
            "spending": self.known.state(),
            "released": self.released,
            "abandoned": self.abandoned,
            "calibrated_for": self._calibrated_for,
            "delta": self.delta,
            "uncovered": list(self.uncovered),
            "lineage": self.lineage,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        self.spending = Spending.from_state(state["spending"])
        self.released = int(state["released"])
        self.abandoned = int(state["abandoned"])
        self._calibrated_for = state["calibrated_for"]
        self.lineage = state.get("lineage", "")
        # whatever was noted of the steps made before is about another account
        self._written_phase = self._charged_pass = self._bound = None
        said = [*state.get("uncovered", []), *self.uncovered]  # of this run too
        self.uncovered = list(dict.fromkeys(said))
        self.left = None

    def charge_abandoned(self, costs: Counter[Cost]) -> None:
        """Charge steps of runs whose results were lost."""
        if costs:
            rank_zero_warn(
                f"{costs.total()} steps were made after the checkpoint by runs that were lost; "
                "they are spent"
            )
        self.abandoned += self.known.charge_abandoned(costs, self.known_rates)
