"""Votes of many members on the validation and the test samples."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import nn

from lightning_priv.callbacks import EnsembleAbstention
from lightning_priv.callbacks.multiplicity_members import warn_of_duplicates
from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.multiplicity import check_disjoint_ids
from lightning_priv.nn.member_files import MemberState, duplicates, fill, read_member_files
from lightning_priv.reports.multiplicity_votes import Votes

from .plan import MemberPlan
from .recipe import Recipe
from .train import CONFIG_FILE, quiet

__all__ = ["check_splits", "evaluate", "members_of_plans"]


def members_of_plans(
    plans: Sequence[MemberPlan],
    paths: dict[str, Path],
    model: LightningModule,
    recipe: Recipe,
    weights_only: bool = True,
) -> list[nn.Module]:
    """Networks with the weights of trained members, each of the architecture of its plan.

    Args:
        plans: members that are there.
        paths: their checkpoints.
        model: a module of the study's own configuration, which serves all members that share it.
        recipe: builds modules of other configurations.
        weights_only: refuse files that hold more than plain data.
    """
    own = json.dumps(recipe.config["model"], sort_keys=True, default=str)
    templates: dict[str, nn.Module] = {own: model}
    nets: list[nn.Module] = []
    states = []
    for plan in plans:
        path = paths[plan.name]
        key = json.dumps(plan.config["model"], sort_keys=True, default=str)
        if key not in templates:
            with quiet():
                templates[key] = recipe.build(path.parent / CONFIG_FILE).model
        (state,) = read_member_files([path], weights_only)
        net = copy.deepcopy(templates[key])
        fill(net, MemberState(plan.name, path, state.state, state.class_names))
        nets.append(net)
        states.append(state.state)
    for group in duplicates(states):
        warn_of_duplicates([plans[number].name for number in group])
    return nets


def evaluate(
    trainer: Trainer,
    callback: EnsembleAbstention,
    nets: list[nn.Module],
    names: list[str],
    model: LightningModule,
    datamodule: LightningDataModule | None,
) -> tuple[Votes | None, Votes]:
    """Votes of all members on the validation and on the test samples, equal on every process.

    Args:
        trainer: runs the loops; the module's own metrics are logged as always.
        callback: a callback of this trainer; it evaluates the members.
        nets: the members.
        names: their names.
        model: module that the loops run, with the weights of a member.
        datamodule: the data.

    Returns:
        Validation votes, None without validation samples, and test votes.
    """
    baseline, callback.baseline = callback.baseline, 0
    callback.set_members(nets, names)
    callback.baseline = baseline
    callback.keep_votes = True
    loaders = None
    if datamodule is not None:
        datamodule.prepare_data()
        datamodule.setup("validate")
        loaders = datamodule.val_dataloader()
    validation: Votes | None = None
    if datamodule is None or not isinstance(loaders, list) or loaders:
        trainer.validate(model, datamodule=datamodule, verbose=False)
        validation = callback.votes[0]
    trainer.test(model, datamodule=datamodule, verbose=False)
    callback.keep_votes = False
    return validation, callback.votes[0]


def check_splits(validation: Votes, test: Votes, allow_same_split: bool) -> None:
    """Refuse to choose and to measure on the same samples.

    Numbers as ids start anew in each split; so two samples with equal numbers are the same only if
    all members give them the same probabilities, too. Ids that are words are taken at their word.

    Raises:
        ConfigurationError: if the splits share samples.
    """
    if validation.probs.shape[2] != test.probs.shape[2]:
        raise ConfigurationError(
            f"the members give {validation.probs.shape[2]} outputs on validation and "
            f"{test.probs.shape[2]} on test samples"
        )
    places = {name: number for number, name in enumerate(test.ids)}
    pairs = [(v, places[name]) for v, name in enumerate(validation.ids) if name in places]
    if not pairs:
        return
    here, there = (torch.tensor(side) for side in zip(*pairs, strict=True))
    # relative: the small probabilities tell samples apart that all members are sure of
    close = (
        torch.isclose(validation.probs[:, here], test.probs[:, there], rtol=1e-3, atol=1e-30)
        .all(-1)
        .all(0)
    )
    same = [
        validation.ids[v]
        for (v, _), equal in zip(pairs, close.tolist(), strict=True)
        if equal or isinstance(validation.ids[v], str)
    ]
    check_disjoint_ids(same, same, allow_same_split)
