from lightning_priv.protocols import PrivateStrategy
from lightning_priv.strategies import DPSGDDDPStrategy, DPSGDStrategy


def test_both_strategies_are_what_callbacks_look_for() -> None:
    """Callbacks that hold private numbers back recognise a private strategy by this."""
    for make in (DPSGDStrategy, DPSGDDDPStrategy):
        assert isinstance(make(noise_multiplier=1.0), PrivateStrategy)
