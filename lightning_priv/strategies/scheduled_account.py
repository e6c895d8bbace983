"""The account of a training whose noise follows a schedule."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from lightning_priv.errors import BudgetExceededError, PrivacyError
from lightning_priv.strategies.account import UNLIMITED, Account, _Bound
from lightning_priv.strategies.noise_schedule import SigmaPlan
from lightning_priv.strategies.phases import Phase
from lightning_priv.strategies.settings import PrivacySettings

__all__ = ["ScheduledAccount"]


class ScheduledAccount(Account):
    """An account that gives each step the noise that a schedule has for it, if there is one.

    Each piece of constant noise is a phase of its own in the history.

    Args:
        settings: arguments of the strategy.

    Attributes:
        sigmas: sigma of every step, known after ``plan``; None without a schedule.
    """

    def __init__(self, settings: PrivacySettings) -> None:
        super().__init__(settings)
        self.sigmas: SigmaPlan | None = None

    def plan(self, requested: int, pass_length: int | None = None, position: int = 0) -> None:
        """As ``Account.plan``, for noise that changes."""
        if self._settings.noise_schedule is None:
            super().plan(requested, pass_length, position)
            return
        settings, total = self._settings, self.released + requested
        target, schedule = settings.target_epsilon, settings.noise_schedule
        assert schedule is not None
        if self.known.current.explicit:
            raise PrivacyError(
                "set_phase with a noise_schedule: the schedule says what each step costs. Leave "
                "noise_schedule out and give set_phase the noise_multiplier of each phase"
            )
        if self.sigmas is None:
            if total >= UNLIMITED:
                raise BudgetExceededError(
                    "a noise_schedule needs to know the number of steps; set the trainer's "
                    "max_epochs or max_steps"
                )
            relative = SigmaPlan(tuple(schedule.factors(total)), "")
            base = settings.noise_multiplier
            if base is None:
                assert target is not None, "settings guarantee noise_multiplier or target_epsilon"
                base = self._calibrate(relative.ahead(self.released, requested), target)
            pieces = tuple((base * factor, steps) for factor, steps in relative.pieces)
            self.sigmas = SigmaPlan(pieces, self._schedule_key())
            rank_zero_info(
                f"DP-SGD: noise_multiplier from {pieces[0][0]:.4f} to {pieces[-1][0]:.4f} in "
                f"{len(pieces)} pieces, {total} steps at rate {self.known.current.sample_rate:.4g}"
            )
        elif target is not None and total > self.sigmas.steps:
            raise BudgetExceededError(
                f"{total} steps are asked for, but the noise was found for {self.sigmas.steps} "
                f"steps to stay within epsilon {target}; lower max_epochs or max_steps to what was "
                "planned, or start anew with a larger target_epsilon"
            )
        self.follow_schedule()
        self.left = UNLIMITED
        if self.limit is not None:
            ahead = self.sigmas.ahead(self.released, requested)
            accountant = settings.accountant
            self.left = self.known.affordable(self.limit, self.delta, accountant, ahead)
            self._warn_of_lost_steps(requested - self.left)

    def follow_schedule(self) -> None:
        """Give the next step the noise that the schedule has for it."""
        if self.sigmas is None:
            return
        phase, sigma = self.known.current, self.sigmas.sigma(self.released)
        if phase.noise_multiplier == sigma:
            return
        if phase.done or phase.abandoned:
            self.known.phases.append(Phase(sigma, phase.rates, phase.denominator))
        else:
            phase.noise_multiplier = sigma

    def _schedule_key(self) -> str:
        s = self._settings
        return repr((s.noise_schedule, s.noise_multiplier, s.target_epsilon))

    def live_epsilon(self, steps_ahead: int) -> float:
        """An upper bound for a display; a slow accountant is asked once a piece, for its end."""
        sigmas = self.sigmas
        if sigmas is None:
            return super().live_epsilon(steps_ahead)
        spending, by = self.known, self._settings.accountant
        ahead = sigmas.ahead(self.released, steps_ahead)
        cheap = spending.epsilon(self.delta, "rdp", ahead)
        if by == "rdp":
            return cheap
        besides, bound = self._besides(), self._bound
        if bound is None or bound.besides != besides or bound.done < self.released + steps_ahead:
            steps = max(steps_ahead, sigmas.rest_of_piece(self.released))
            value = spending.epsilon(self.delta, by, sigmas.ahead(self.released, steps))
            done = self.released + steps
            self._bound = bound = _Bound(besides, done, value, time.monotonic(), self.released)
        return min(bound.value, cheap)

    def _goes_on(self, current: Phase, phase: Phase) -> bool:
        if self.sigmas is None or phase.explicit or current.explicit:
            return super()._goes_on(current, phase)
        return (current.digest, current.denominator) == (phase.digest, phase.denominator)

    def state(self) -> dict[str, Any]:
        """Plain types and tensors, for a checkpoint."""
        sigmas = None if self.sigmas is None else self.sigmas.state()
        return {**super().state(), "sigmas": sigmas}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state``; under other settings the rest is planned anew, the past counted."""
        super().restore(state)
        sigmas = state.get("sigmas")
        self.sigmas = None if sigmas is None else SigmaPlan.from_state(sigmas)
        if self.sigmas is not None and self.sigmas.made_for != self._schedule_key():
            self.sigmas = None
