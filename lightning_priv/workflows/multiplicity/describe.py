"""What the report says about the members and the choice of the set."""

from pathlib import Path
from typing import TYPE_CHECKING

from lightning_priv.functional.multiplicity import RashomonSet
from lightning_priv.reports.multiplicity_study import Row, member_rows
from lightning_priv.reports.multiplicity_votes import Votes

from .account import composed_account, member_epsilon
from .choose import SetCriterion, validation_values
from .plan import MemberPlan
from .trained import Trained

if TYPE_CHECKING:
    from .run import Options

__all__ = ["criterion_row", "members_table", "notes"]


def members_table(
    names: list[str],
    paths: list[Path],
    plans: list[MemberPlan],
    validation: Votes | None,
    test: Votes,
    main: list[int],
    picked: RashomonSet,
    options: "Options",
) -> list[Row]:
    """One row for each member of the main set, of those outside the set of equals too."""
    votes = validation if validation is not None else test
    values = None
    if validation is not None:
        values = validation_values(
            options.criterion, validation.select(main), [paths[i] for i in main]
        )
    facts: list[Row] = []
    for place, number in enumerate(main):
        row: Row = {"in_set": bool(picked.members[place]), "best": place == picked.best}
        if plans:
            plan = plans[number]
            row |= {"init_seed": plan.init_seed, "order_seed": plan.order_seed}
            row["bootstrap_seed"] = plan.bootstrap_seed
            row |= {key.rsplit(".", 1)[-1]: str(value) for key, value in plan.overrides}
            row["model"] = plan.architecture
        row["validation"] = None if values is None else float(values[place])
        if picked.p_values is not None:
            row["p_value"] = float(picked.p_values[place])
        if picked.lower is not None and picked.upper is not None:
            row["behind_low"] = float(picked.lower[place])
            row["behind_high"] = float(picked.upper[place])
        row["epsilon"] = member_epsilon(paths[number])
        row["file"] = str(paths[number])
        facts.append({k: v for k, v in row.items() if v is not None})
    rows = member_rows([names[i] for i in main], votes.select(main), facts)
    if test.target is not None:
        for row, number in zip(rows, main, strict=True):
            row["test_accuracy"] = float(test.select([number]).correct().double().mean())
    return rows


def criterion_row(
    criterion: SetCriterion, picked: RashomonSet, main: list[int], inside: list[int]
) -> Row:
    """How the set was chosen."""
    row: Row = {"name": picked.criterion, "monitor": criterion.monitor}
    if picked.criterion in ("absolute", "relative"):
        row["epsilon"] = criterion.epsilon
    if picked.criterion in ("mcnemar", "bootstrap"):
        row["alpha"] = criterion.alpha
    return row | {"trained": len(main), "in_set": len(inside)}


def notes(
    options: "Options",
    trained: Trained,
    validation: Votes | None,
    main: list[int],
    inside: list[int],
    paths: list[Path],
    twins: list[list[str]],
    fitted: bool,
) -> list[str]:
    """What a reader of the numbers must know."""
    found = []
    if len(inside) > 1:
        found.append(
            f"All numbers are for {len(inside)} members; ambiguity can only grow with more of "
            "them, so it is a lower bound of the multiplicity of the task."
        )
    found += [
        f"Members {', '.join(group)} have equal weights: one opinion counts {len(group)} times and "
        "every number understates the multiplicity; keep one of them."
        for group in twins
    ]
    if trained.failed:
        found.append(
            f"{len(trained.failed)} members could not be trained: "
            + "; ".join(f"{name} ({why})" for name, why in trained.failed.items())
        )
    if options.checkpoints is None and set(options.vary) == {"init"}:
        found.append("Only the initialisation was varied: the multiplicity is a lower bound.")
    if options.allow_same_split:
        found.append("The set was chosen and measured on the same samples (allow_same_split).")
    if validation is None:
        found.append("There was no validation set: every member counts as equally valid.")
    account = composed_account(paths)
    if account:
        found.append(
            f"{account['members']} of the members were trained with differential privacy. Together "
            f"they release the data with epsilon {account['epsilon']:.4g} at delta "
            f"{account['delta']:.3g}; that of one member alone does not describe this study."
            + (
                " Choosing the set, or fitting the rule, on validation samples is a further "
                "release, unless these are public."
                if validation is not None and (options.criterion.name != "all" or fitted)
                else ""
            )
        )
    if len(inside) == 1 and len(main) > 1:
        found.append(
            "One member alone is in the set. A larger criterion.epsilon admits more; with few "
            "validation samples criterion.name: mcnemar fits better, as it leaves out only members "
            "that are significantly worse."
        )
    return found
