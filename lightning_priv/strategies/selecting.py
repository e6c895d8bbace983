"""Private selections of records: charged, drawn once, and kept before anything rests on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from lightning_priv.errors import BudgetExceededError, ConfigurationError, PrivacyError
from lightning_priv.strategies import checkpoint as ckpt
from lightning_priv.strategies.ledger import Lineage
from lightning_priv.strategies.phases import Cost
from lightning_priv.strategies.resuming import ResumableAccount
from lightning_priv.strategies.selections import Mask, Selection
from lightning_priv.strategies.settings import PrivacySettings

__all__ = ["SelectingAccount"]

_ROUNDING = 1e-9


class SelectingAccount(ResumableAccount):
    """The part of a private strategy that lets records be chosen by their scores.

    Args:
        settings: arguments of the strategy.
        **base: arguments of the Lightning strategy behind.
    """

    def __init__(self, settings: PrivacySettings, **base: Any) -> None:
        super().__init__(settings, **base)
        self._selected: dict[int, list[int]] = {}
        self._expected = False

    def expect_selections(self) -> None:
        """Prepare for selections; before ``fit``, in a callback's ``setup``.

        Raises:
            ConfigurationError: if a crash could make selections come twice without being charged.
        """
        settings = self.settings
        if settings.ledger is None or not settings.count_abandoned:
            raise ConfigurationError(
                "private selection keeps what was chosen in the ledger, or a crash would release "
                "scores twice; leave the strategy's ledger at auto and count_abandoned at true"
            )
        if settings.sampling != "poisson" or settings.noise_schedule is not None:
            raise ConfigurationError(
                "active learning needs sampling: poisson and no noise_schedule: its plan says how "
                "often each record joins and with which noise"
            )
        self._expected = True

    def resume(self, block: dict[str, Any]) -> None:
        """Go on with the account of another run, in the phase that it was in."""
        super().resume(block)
        if self._expected:
            self._stream.next_phase = None  # asked for in case that training begins anew

    @property
    def phases_begun(self) -> int:
        """Number of phases of this training that came through ``set_phase``."""
        spending = self.account.spending
        phases = [] if spending is None else spending.phases
        return sum(phase.explicit and not phase.abandoned for phase in phases)

    def kept_selection(self, number: int) -> list[int] | None:
        """What was chosen in a round by this run or one that it goes on with, if known."""
        return self._selected.get(number)

    def drawn_records(self) -> Any:
        """Records in the batch of the last step; secret, for diagnostics that stay private."""
        sampler = self._stream.sampler
        assert sampler is not None
        return sampler.select(self._stream.position - 1)

    def select_records(
        self,
        number: int,
        epsilon: float,
        scored: Mask,
        choose: Callable[[], Sequence[int]],
        method: str,
    ) -> list[int]:
        """Choose records, once and for all.

        The charge is on the disk before ``choose`` draws noise, the choice before this returns. If
        a run of this lineage has made the selection already, its choice is taken.

        Args:
            number: of the round, from 1.
            epsilon: pure differential privacy of the noisy scores; 0 for a choice that looks at no
                record, or that is not private and was named in ``note_uncovered``.
            scored: which records are scored, shape (N,): these pay, chosen or not.
            choose: draws, on rank zero alone; returns the records in order of choice.
            method: in words, for the ledger.

        Returns:
            The records chosen, the same on every rank.

        Raises:
            BudgetExceededError: if the scores would cost more than is left.
        """
        if number in self._selected:
            return list(self._selected[number])
        spending = self.account.known
        self.open_ledger()
        if epsilon > 0:
            spending.selections.append(Selection(number, epsilon, np.array(scored), lost=True))
            self.account.left = None
            self._require_budget(number, epsilon)

        def draw() -> list[int]:
            ledger = self.account.ledger
            if ledger is None:
                raise PrivacyError("a selection before training began; select during fit")
            ledger.selection(number, epsilon, np.asarray(scored), method)
            chosen = [int(record) for record in choose()]
            ledger.selected(number, chosen)
            return chosen

        chosen = self._on_rank_zero(draw)
        if epsilon > 0:
            spending.selections[-1] = Selection(number, epsilon, np.array(scored))
        self._selected[number] = chosen
        return list(chosen)

    def _require_budget(self, number: int, epsilon: float) -> None:
        account = self.account
        if account.limit is None:
            return
        for accountant in ("rdp", self.settings.accountant):  # the quick one may be enough
            if account.epsilon(accountant=accountant) <= account.limit * (1 + _ROUNDING):
                return
        account.known.selections.pop()
        raise BudgetExceededError(
            f"the selection of round {number} costs epsilon {epsilon:g} on every record that it "
            f"scores, which would pass {account.limit:g}; raise the budget, or lower the share of "
            "the selections"
        )

    def note_uncovered(self, text: str) -> None:
        """Say in every report that something was released without being charged."""
        if text not in self.account.uncovered:
            self.account.uncovered.append(text)

    def _charge_abandoned(self, block: dict[str, Any], made_here: Counter[Cost]) -> None:
        """Charge steps and selections made after the checkpoint."""
        if self.settings.count_abandoned and block["ledger"] is not None:
            lineage: Lineage = self._on_rank_zero(lambda: ckpt.lineage_of(block, self._ledger_path))
            self._selected.update(lineage.selected)
            self.account.known_rates = list(lineage.rates.values())
            self._charge_selections(lineage)
        super()._charge_abandoned(block, made_here)

    def _charge_selections(self, lineage: Lineage) -> None:
        """Charge selections that the ledger knows of and the checkpoint does not."""
        selections = self.account.known.selections
        for number, draws in sorted(lineage.draws.items()):
            paid = sum(s.number == number for s in selections)
            kept = number in lineage.selected
            for place, (epsilon, scored) in enumerate(draws):
                if place < paid or epsilon <= 0:
                    continue
                lost = not (kept and place == len(draws) - 1)
                selections.append(Selection(number, epsilon, scored.astype(np.bool_), lost))
                if lost:
                    rank_zero_warn(
                        f"the noise of selection {number} was drawn by a run that broke off before "
                        f"it had kept the result; it is spent: epsilon {epsilon:g} on every record "
                        "that was scored"
                    )
