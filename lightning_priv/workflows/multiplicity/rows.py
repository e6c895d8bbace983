"""Tables of the sets beside the main one: sources of variation, widths, privacy budgets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from torch import nn

from lightning_priv.reports.multiplicity_study import Row
from lightning_priv.reports.multiplicity_tables import set_numbers, subset_ambiguity
from lightning_priv.reports.multiplicity_votes import Votes

from .account import composed_account
from .plan import MemberSet

__all__ = ["driver_rows", "sweep_rows"]

_SHOWN = (
    *("accuracy_min", "accuracy_mean", "accuracy_max", "ambiguity", "discrepancy"),
    *("pairwise_disagreement", "self_consistency"),
)


def driver_rows(sets: Sequence[MemberSet], names: Sequence[str], test: Votes) -> list[Row]:
    """One row for each source of variation alone, and one for all together.

    Sets of several sizes are compared at the size of the smallest: ``ambiguity_equal`` is the mean
    over random subsets of ``equal_members``; the pairwise disagreement does not depend on size.
    """
    chosen = [one for one in sets if one.kind == "driver"]
    if not chosen:
        return []
    main = [one for one in sets if one.kind == "main"]
    return _rows("driver", [*chosen, *main], names, test)


def sweep_rows(
    kind: Literal["capacity", "privacy"],
    sets: Sequence[MemberSet],
    names: Sequence[str],
    test: Votes,
    paths: Sequence[Path],
    nets: Sequence[nn.Module],
) -> list[Row]:
    """One row for each value of a sweep, in its order; see :func:`driver_rows`."""
    chosen = sorted((one for one in sets if one.kind == kind), key=lambda one: one.value or 0)
    rows = _rows(kind, chosen, names, test)
    for row, one in zip(rows, [o for o in chosen if len(_places(o, names)) > 1], strict=True):
        places = _places(one, names)
        if kind == "capacity":
            row["width"] = one.value
            row["parameters"] = sum(p.numel() for p in nets[places[0]].parameters())
        else:
            account = composed_account([paths[place] for place in places])
            row["epsilon_of_one"] = account.get("epsilon_of_one")
            row["epsilon_composed"] = account.get("epsilon")
            row["delta"] = account.get("delta")
    return rows


def _places(one: MemberSet, names: Sequence[str]) -> list[int]:
    return [names.index(plan.name) for plan in one.plans if plan.name in names]


def _rows(kind: str, sets: Sequence[MemberSet], names: Sequence[str], test: Votes) -> list[Row]:
    votes = {one.label: test.select(_places(one, names)) for one in sets}
    votes = {label: part for label, part in votes.items() if part.members > 1}
    if not votes:
        return []
    equal = min(part.members for part in votes.values())
    rows: list[Row] = []
    for label, part in votes.items():
        numbers = set_numbers(part, capacity=False)
        row: Row = {kind: label, "members": part.members}
        row |= {name: numbers[name] for name in _SHOWN if name in numbers}
        row["equal_members"] = equal
        row["ambiguity_equal"] = subset_ambiguity(part.flat().labels(), [equal])[equal][0]
        rows.append(row)
    return rows
