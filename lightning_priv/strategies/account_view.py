"""What callbacks, workflows and users may ask a private strategy."""

from __future__ import annotations

from typing import ClassVar

from lightning_priv.accountants import AccountantName
from lightning_priv.strategies.phases import Cohort
from lightning_priv.strategies.scheduled_account import ScheduledAccount
from lightning_priv.strategies.selections import Selection, times_scored
from lightning_priv.strategies.settings import PrivacySettings

__all__ = ["AccountView"]


class AccountView:
    """Read-only view of the account; no answer raises, what is not known yet is NaN or empty."""

    #: callbacks recognise a private strategy by this
    keeps_privacy_account: ClassVar[bool] = True

    settings: PrivacySettings
    account: ScheduledAccount

    def epsilon(
        self, delta: float | None = None, accountant: AccountantName | None = None
    ) -> float:
        """The largest epsilon that any record has spent so far.

        Args:
            delta: default: that of the strategy.
            accountant: default: that of the strategy.
        """
        return self.account.epsilon(delta, accountant)

    @property
    def delta(self) -> float:
        """The delta of the statement; NaN while ``auto`` waits for the data set."""
        known = self.settings.delta != "auto" or self.account.spending is not None
        return self.account.delta if known else float("nan")

    @property
    def limit(self) -> float | None:
        """The epsilon that is not passed, or None."""
        return self.account.limit

    @property
    def history(self) -> list[tuple[float, float, int]]:
        """(noise_multiplier, sample_rate, steps) of the records that have spent most."""
        return [] if self.account.spending is None else self.account.spending.worst(self.delta)

    @property
    def cohorts(self) -> list[Cohort]:
        """Groups of records with equal histories."""
        return [] if self.account.spending is None else self.account.spending.cohorts()

    @property
    def steps(self) -> int:
        """Logical steps made so far."""
        return self.account.released

    @property
    def noise_multiplier(self) -> float:
        """Sigma of the current phase; NaN until it is known."""
        phase = self.account.phase
        value = self.settings.noise_multiplier if phase is None else phase.noise_multiplier
        return float("nan") if value is None else value

    @property
    def sample_rate(self) -> float:
        """The largest inclusion probability of a record in the current phase; NaN before fit."""
        phase = self.account.phase
        return float("nan") if phase is None else phase.sample_rate

    @property
    def denominator(self) -> float:
        """What sums of gradients are divided by in the current phase; NaN before fit."""
        phase = self.account.phase
        return float("nan") if phase is None else phase.denominator

    def history_of(self, record: int) -> list[tuple[float, float, int]]:
        """(noise_multiplier, sample_rate, steps) of one record, phase by phase; rate 0: not used.

        Args:
            record: its position in the training set.
        """
        return [] if self.account.spending is None else self.account.spending.history_of(record)

    @property
    def selections(self) -> list[Selection]:
        """Private selections of records that were charged."""
        return [] if self.account.spending is None else list(self.account.spending.selections)

    def times_scored(self, record: int) -> int:
        """Number of private selections that have scored a record, lost ones included."""
        spending = self.account.spending
        if spending is None:
            return 0
        return int(times_scored(spending.selections, spending.num_records)[record])
