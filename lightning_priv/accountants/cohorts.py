"""Cohorts of active learning under DP, and the schedule before any amplification."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_priv.accountants.history import Entry

__all__ = ["BaseSchedule"]


@dataclass(frozen=True, slots=True)
class BaseSchedule:
    """Uniform sampling in every phase: m_i = max(1, floor(N_i / B)) steps an epoch, q_i = 1 / m_i.

    (DP-AL, arXiv 2410.00542, section on the naive combination.) Phase i trains on the cohorts
    0..i, N_i = n_0 + ... + n_i.

    Attributes:
        sizes: n_0, n_1, ..., n_K: records of each cohort.
        epochs: E_i, passes of each phase.
        batch_size: B, the expected batch that phases are planned for.
    """

    sizes: tuple[int, ...]
    epochs: tuple[int, ...]
    batch_size: int

    @classmethod
    def checked(
        cls, initial: int, queries: Sequence[int], batch_size: int, epochs: int | Sequence[int]
    ) -> "BaseSchedule":
        """From what a user gives.

        Raises:
            ValueError: if a number is no positive integer, or there is not one epoch count a phase.
        """
        sizes = (initial, *queries)
        passes = (epochs,) * len(sizes) if isinstance(epochs, int) else tuple(epochs)
        if len(passes) != len(sizes):
            raise ValueError(
                f"epochs has {len(passes)} entries for {len(sizes)} phases; give one number for "
                "all, or one for the initial phase and one for each query"
            )
        for name, values in (("initial", sizes[:1]), ("queries", sizes[1:]), ("epochs", passes)):
            if any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in values):
                raise ValueError(f"{name} holds {list(values)}; give whole numbers >= 1")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size is {batch_size!r}; give a whole number >= 1")
        return cls(sizes, passes, batch_size)

    @property
    def phases(self) -> int:
        """K + 1."""
        return len(self.sizes)

    @property
    def labelled(self) -> tuple[int, ...]:
        """N_i: records that phase i trains on."""
        return tuple(sum(self.sizes[: i + 1]) for i in range(self.phases))

    @property
    def epoch_steps(self) -> tuple[int, ...]:
        """m_i."""
        return tuple(max(1, n // self.batch_size) for n in self.labelled)

    @property
    def rates(self) -> tuple[float, ...]:
        """q_i = 1 / m_i."""
        return tuple(1 / m for m in self.epoch_steps)

    @property
    def steps(self) -> tuple[int, ...]:
        """T_i = E_i m_i."""
        return tuple(e * m for e, m in zip(self.epochs, self.epoch_steps, strict=True))

    def history(
        self, noise_multiplier: float, first: int = 0, last: int | None = None
    ) -> list[Entry]:
        """Entries of the phases ``first`` to ``last`` (included; by default all)."""
        stop = self.phases if last is None else last + 1
        return [(noise_multiplier, self.rates[i], self.steps[i]) for i in range(first, stop)]
