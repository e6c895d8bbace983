"""Tables of the sets beside the main one: sources of variation, widths, privacy budgets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from lightning_priv.functional.multiplicity import self_consistency
from lightning_priv.reports.multiplicity_study import Row
from lightning_priv.reports.multiplicity_tables import set_numbers, subset_ambiguity
from lightning_priv.reports.multiplicity_votes import Votes

from .account import composed_account
from .plan import MemberPlan, MemberSet

__all__ = ["driver_rows", "sweep_rows"]

_SHOWN = (
    *("accuracy_min", "accuracy_mean", "accuracy_max", "ambiguity", "discrepancy"),
    *("pairwise_disagreement", "self_consistency"),
)


def driver_rows(sets: Sequence[MemberSet], names: Sequence[str], test: Votes) -> list[Row]:
    """One row for each source of variation alone, for each architecture, and for all together.

    Sets of several sizes are compared at the size of the smallest: ``ambiguity_equal`` is the mean
    over random subsets of ``equal_members``; the pairwise disagreement does not depend on size.
    """
    main = [one for one in sets if one.kind == "main"]
    beside = [one for one in sets if one.kind == "driver"] + _architectures(main)
    return _rows("driver", [*beside, *main], names, test) if beside else []


def _architectures(main: Sequence[MemberSet]) -> list[MemberSet]:
    """The members of each architecture by themselves, if the main set has several."""
    found: dict[int, list[MemberPlan]] = {}
    for plan in (plan for one in main for plan in one.plans):
        if plan.architecture is not None:
            found.setdefault(plan.architecture, []).append(plan)
    if len(found) < 2:
        return []
    return [
        MemberSet("driver", f"{_net_name(plans[0])} (model {number})", None, tuple(plans))
        for number, plans in sorted(found.items())
    ]


def _net_name(plan: MemberPlan) -> str:
    """Class of the network, or of the model that makes its own."""
    model = plan.config["model"]
    net = model.get("init_args", {}).get("net") or model
    return str(net["class_path"]).rsplit(".", 1)[-1]


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
    narrowest: Tensor | None = None
    for row, one in zip(rows, [o for o in chosen if len(_places(o, names)) > 1], strict=True):
        places = _places(one, names)
        if kind == "capacity":
            disagreement = 1 - self_consistency(test.select(places).flat().labels())
            narrowest = disagreement if narrowest is None else narrowest
            row |= _below(narrowest, disagreement)
            row["width"] = one.value
            row["parameters"] = sum(p.numel() for p in nets[places[0]].parameters())
        else:
            account = composed_account([paths[place] for place in places])
            row["epsilon_of_one"] = account.get("epsilon_of_one")
            row["epsilon_composed"] = account.get("epsilon")
            row["delta"] = account.get("delta")
    return rows


def _below(narrowest: Tensor, here: Tensor) -> Row:
    """How far the pairwise disagreement lies below that of the narrowest network.

    With the 95 % interval over the samples, each compared with itself (normal approximation); what
    other members of the same widths would give is not in it.
    """
    difference = (narrowest - here).double()
    mean, n = float(difference.mean()), len(difference)
    half = 1.96 * float(difference.std()) / n**0.5 if n > 1 else float("nan")
    return {
        "below_narrowest": mean,
        "below_narrowest_low": mean - half,
        "below_narrowest_high": mean + half,
    }


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
