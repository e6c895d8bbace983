import pytest
import torch

from lightning_priv.acquisition import (
    BudgetStop,
    PrivacyStop,
    RoundState,
    RoundStop,
    StabilityStop,
    TargetStop,
)


@pytest.mark.parametrize(
    ("rule", "going", "stopped", "text"),
    [
        (BudgetStop(100), RoundState(3, 99), RoundState(3, 100), "100 labels are bought"),
        (RoundStop(4), RoundState(3, 0), RoundState(4, 0), "4 rounds"),
        (
            TargetStop(0.9),
            RoundState(1, 1, {"val/accuracy": 0.89}),
            RoundState(1, 1, {"val/accuracy": 0.9}),
            "the target 0.9",
        ),
        (
            TargetStop(0.5, "val/loss", "min"),
            RoundState(1, 1, {"val/loss": 0.6}),
            RoundState(1, 1, {"val/loss": 0.4}),
            "val/loss is 0.4",
        ),
        (PrivacyStop(8.0), RoundState(1, 1, epsilon=7.9), RoundState(1, 1, epsilon=8.0), "spent"),
    ],
)
def test_rules(rule, going, stopped, text):
    assert rule.reason(going) is None
    assert text in rule.reason(stopped)


def test_stability():
    same = torch.tensor([0, 1, 2, 0, 1, 2])
    other = torch.tensor([0, 1, 2, 0, 1, 1])
    rule = StabilityStop(0.99, rounds=2)
    assert rule.reason(RoundState(2, 1, predictions=(same, same))) is None
    assert rule.reason(RoundState(3, 1, predictions=(same, other, same))) is None
    assert "agree" in rule.reason(RoundState(3, 1, predictions=(other, same, same, same)))
    ones = torch.ones(5, dtype=torch.long)
    assert rule.reason(RoundState(3, 1, predictions=(ones, ones, ones))) is not None


def test_missing_numbers():
    with pytest.raises(ValueError, match="logged are"):
        TargetStop(0.9).reason(RoundState(1, 1))
    with pytest.raises(ValueError, match="private strategy"):
        PrivacyStop(1.0).reason(RoundState(1, 1))
