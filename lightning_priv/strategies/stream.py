"""The secret stream of batches: its key, where it stands, and the sampler that draws from it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader

from lightning_priv.data.sampling import Drawn, GlobalSampler, PoissonSampler, ShuffleSampler
from lightning_priv.errors import PrivacyError
from lightning_priv.strategies.loader import PrivateLoader, private_loader
from lightning_priv.strategies.phases import Phase, as_rates
from lightning_priv.strategies.scheduled_account import ScheduledAccount
from lightning_priv.strategies.settings import PrivacySettings
from lightning_priv.strategies.views import with_views

__all__ = ["Stream"]


class Stream:
    """Hands out samplers and keeps count of the steps that were used.

    Args:
        settings: arguments of the strategy.

    Attributes:
        seed: key of the stream; None until it is drawn, and never stored unless runs must repeat.
        position: first step not yet used.
        sampler: the one in use, or None.
        next_phase: what ``set_phase`` asked for and no loader was made for yet.
    """

    def __init__(self, settings: PrivacySettings) -> None:
        self._settings = settings
        self.seed: int | None = settings.seed
        self.position = 0
        self.sampler: GlobalSampler | None = None
        self.next_phase: dict[str, Any] | None = None
        self._phase: Phase | None = None

    def draw_seed(self) -> int:
        """The key: that of the settings, or 128 fresh bits."""
        if self.seed is None:
            self.seed = secrets.randbits(128)
        return self.seed

    def sample(
        self,
        loader: DataLoader[Any],
        account: ScheduledAccount,
        rank: int,
        world_size: int,
        broadcast: Callable[[int], int],
    ) -> PrivateLoader:
        """A loader over the same records, sampled as the account's next phase says.

        Args:
            loader: the user's, with the batch size of one process.
            account: knows the data set; gets a phase if it has none or another one was asked for.
            rank: this process.
            world_size: number of processes.
            broadcast: gives rank zero's value to all ranks.
        """
        assert loader.batch_size is not None
        records = account.known.num_records
        batch_size = min(loader.batch_size * world_size, records)
        self.begin_phase(account, batch_size)
        self._phase = account.phase
        self.seed = broadcast(self.draw_seed())
        common: dict[str, Any] = {
            "seed": self.seed,
            "rank": rank,
            "world_size": world_size,
            "position": self.position,
            "cryptographic": self._settings.noise_rng == "secure",
        }
        if self._settings.sampling == "shuffle":
            self.sampler = ShuffleSampler(batch_size, records, **common)
        else:
            steps = self._steps_per_epoch(account)
            self.sampler = PoissonSampler(account.known.current.rates, records, steps, **common)
        views = self._settings.augmentation_multiplicity
        return private_loader(loader, with_views(loader.dataset, views), self.sampler)

    def _steps_per_epoch(self, account: ScheduledAccount) -> int:
        if self._settings.steps_per_epoch is not None:
            return self._settings.steps_per_epoch
        phase, records = account.known.current, account.known.num_records
        if phase.explicit and phase.planned is not None:
            return phase.planned
        return max(1, round(records / account.expected_batch))

    def begin_phase(self, account: ScheduledAccount, batch_size: int | None = None) -> None:
        """Make the phase current that was asked for, or the one that the settings describe."""
        records = account.known.num_records
        if self.next_phase is not None:
            asked, self.next_phase = self.next_phase, None
            asked["rates"] = as_rates(asked["rates"], records)
            account.begin_phase(explicit=True, **asked)
            return
        assert batch_size is not None, "only set_phase begins a phase before there is a loader"
        s = self._settings
        denominator = None
        if s.sampling == "shuffle":
            rates, denominator = as_rates(1.0, records), float(batch_size)
        else:
            given = s.record_rates()
            uniform = batch_size / records if s.sample_rate is None else s.sample_rate
            rates = as_rates(uniform if given is None else given, records)
        if s.denominator != "expected":
            denominator = float(s.denominator)
        account.begin_phase(rates, denominator, s.noise_multiplier)

    @property
    def pass_length(self) -> int | None:
        """Steps of one pass over shuffled records; None for Poisson sampling."""
        return len(self.sampler) if isinstance(self.sampler, ShuffleSampler) else None

    def pass_of(self, drawn: Drawn) -> int | None:
        """The pass that a step belongs to; None for Poisson sampling."""
        length = self.pass_length
        return None if length is None else drawn.step // length

    def peek(self) -> Drawn | None:
        """What will be taken next."""
        return self.sampler.drawn[0] if self.sampler is not None and self.sampler.drawn else None

    def take(self, account: ScheduledAccount) -> Drawn:
        """The oldest batch that was handed out; its step is used from now on.

        Raises:
            PrivacyError: if the sampler has handed out none, or drew it for another phase.
        """
        phase = account.phase
        drawn_for = self._phase
        if account.sigmas is not None and phase is not None and drawn_for is not None:
            # a schedule changes the noise, not who may be drawn
            same_rates = phase.digest == drawn_for.digest and not phase.explicit
            drawn_for = phase if same_rates else drawn_for
        if drawn_for is not phase:
            raise PrivacyError(
                "set_phase was called after the loader of this epoch was made: its batches are "
                "drawn with the old rates. Call it before fit or in on_train_epoch_end"
            )
        if self.sampler is None or not self.sampler.drawn:
            raise PrivacyError(
                "a training batch that the private sampler did not draw; the training loader was "
                "replaced after the strategy had made it"
            )
        drawn = self.sampler.drawn.popleft()
        self.position = self.sampler.position = drawn.step + 1
        return drawn
