import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy

from lightning_priv.callbacks import ManifoldMonitor, PrivacyBudget
from lightning_priv.protocols import PrivateStrategy, is_private, missing_members
from lightning_priv.strategies import DPSGDDDPStrategy, DPSGDStrategy


def test_both_strategies_are_what_callbacks_look_for() -> None:
    """Callbacks that hold private numbers back recognise a private strategy by this."""
    for make in (DPSGDStrategy, DPSGDDDPStrategy):
        strategy = make(noise_multiplier=1.0)
        assert isinstance(strategy, PrivateStrategy)
        assert is_private(strategy)
        assert missing_members(strategy) == []


class Elsewhere(SingleDeviceStrategy):
    """Somebody's DP-SGD, written for an earlier form of the protocol."""

    noise_multiplier = 1.0

    def epsilon(self) -> float:
        return 1.0


class Declared(Elsewhere):
    keeps_privacy_account = False  # a simulation on public data


def test_a_strategy_that_lacks_members_is_still_private() -> None:
    assert not is_private(SingleDeviceStrategy("cpu"))
    assert is_private(Elsewhere("cpu"))
    assert not is_private(Declared("cpu"))
    assert "set_phase" in missing_members(Elsewhere("cpu"))
    assert "epsilon" not in missing_members(Elsewhere("cpu"))
    budget = PrivacyBudget()
    trainer = Trainer(
        strategy=Elsewhere("cpu"), callbacks=[budget], logger=False, enable_checkpointing=False
    )
    assert ManifoldMonitor()._private(trainer)
    with pytest.raises(MisconfigurationException, match=r"has Elsewhere, without .*lower_limit"):
        budget.setup(trainer, None, "fit")  # type: ignore[arg-type]
