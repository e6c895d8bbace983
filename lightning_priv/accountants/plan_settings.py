"""The arguments of a plan, as a configuration file holds them."""

from dataclasses import asdict, dataclass

from lightning_priv.accountants.amplification import plan_step_amplification
from lightning_priv.accountants.history import AccountantName
from lightning_priv.accountants.plan import AmplificationPlan, Composition, PlanMode

__all__ = ["PlanSettings"]


@dataclass(frozen=True)
class PlanSettings:
    """Arguments of ``plan_step_amplification``.

    Args:
        initial: records labelled first, at random.
        queries: records labelled in each round.
        batch_size: expected batch of a phase.
        epochs: passes over the labelled records in each phase, one number or one a phase.
        epsilon: budget of every record.
        delta: failure probability of the whole run.
        epsilon_acquisition: share of epsilon that all selections together spend.
        accountant: rdp, pld (less noise at the same epsilon) or prv.
        mode: naive, step_amplification, official (as published; overspends) or noise_reduction.
        composition: basic, or joint_pld (accountant pld), which uses the whole budget.
        certify: prove plans by accountant pld; a run needs that.
    """

    initial: int
    queries: list[int]
    batch_size: int
    epochs: int | list[int]
    epsilon: float
    delta: float
    epsilon_acquisition: float = 0.0
    accountant: AccountantName = "rdp"
    mode: PlanMode = "step_amplification"
    composition: Composition = "basic"
    certify: bool = True

    def make(self) -> AmplificationPlan:
        """The plan; see ``plan_step_amplification`` for the errors."""
        return plan_step_amplification(**asdict(self))
