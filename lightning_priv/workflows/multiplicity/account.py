"""Privacy that several members spend together: each is a release of the same data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_priv.accountants import epsilon
from lightning_priv.reports.tables import Cell

from .train import member_record

__all__ = ["composed_account", "member_epsilon"]


def member_epsilon(path: Path) -> float | None:
    """Epsilon that one member has spent; None if it was trained without privacy."""
    privacy = member_record(path).get("privacy")
    return None if privacy is None else float(privacy["epsilon"])


def composed_account(paths: Sequence[Path]) -> dict[str, Cell]:
    """The guarantee for all private members together, by composition (PLD accountant).

    Args:
        paths: checkpoints of members.

    Returns:
        ``members``, ``epsilon``, ``delta``, ``epsilon_of_one`` (the largest); empty if no member
        was trained with privacy.
    """
    accounts = [member_record(path).get("privacy") for path in paths]
    private = [account for account in accounts if account is not None]
    if not private:
        return {}
    return {
        "members": len(private),
        "not_private": len(paths) - len(private),
        "epsilon": composed_epsilon(private),
        "delta": max(float(account["delta"]) for account in private),
        "epsilon_of_one": max(float(account["epsilon"]) for account in private),
    }


def composed_epsilon(accounts: Sequence[dict[str, Any]]) -> float:
    """Epsilon of all histories together, at the largest delta."""
    history = [tuple(entry) for account in accounts for entry in account["history"]]
    delta = max(float(account["delta"]) for account in accounts)
    return epsilon(history, delta, accountant="pld")
