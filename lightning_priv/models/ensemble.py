"""An ensemble that decides or defers, to deploy."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_priv.errors import ConfigurationError
from lightning_priv.files import read_tensors, save_tensors
from lightning_priv.functional.multiplicity import (
    Calibration,
    Rule,
    Task,
    consensus,
    decide_multilabel,
    default_rule,
    hard_labels,
    majority_vote,
    self_consistency,
    vote_counts,
)
from lightning_priv.metrics import Abstention, MultilabelAbstention
from lightning_priv.nn.ensemble import Ensemble, OutputKind
from lightning_priv.nn.member_files import MemberState, fill, find_member_files, read_member_files

from .mean_vote import MeanVote, export_onnx, export_program, mean_vote

__all__ = ["EnsembleModule"]


class EnsembleModule(LightningModule):
    """Members and a decision rule as one module: ``predict_step`` decides each sample or defers.

    It has nothing to train. A checkpoint of it (``save``) holds the weights of all members and the
    rule with what it was fitted to; ``load`` reads it back.

    Args:
        members: networks from inputs to outputs of shape (B, C), or (B, 1) for two classes.
        rule: the decision rule, fitted if it needs that; for labels also one a label. Default:
            ``unanimous`` for up to five members, else ``threshold`` of 0.8.
        output: what the members give; see ``Ensemble``.
        mode: evaluate members in one vectorised call or one after another.
        chunk_size: members in one call, to bound memory.
        class_names: names of the classes (of the labels), kept in the checkpoint.
        thresholds: for two classes the probability of class 1 from which each member votes for it,
            one a member; for labels the probability from which a label is there, one a label.
            Default: one half.
        multilabel: the outputs are independent labels, of which each is decided or deferred.
        defer: for labels, ``label`` defers single labels, ``sample`` all labels of a sample as soon
            as one is deferred.

    Raises:
        ValueError: if there is no member, or not one threshold each.
    """

    def __init__(
        self,
        members: list[nn.Module],
        rule: Rule | Sequence[Rule] | None = None,
        output: OutputKind = "auto",
        mode: Literal["auto", "vmap", "loop"] = "auto",
        chunk_size: int | None = None,
        class_names: list[str] | None = None,
        thresholds: list[float] | None = None,
        multilabel: bool = False,
        defer: Literal["label", "sample"] = "label",
    ) -> None:
        super().__init__()
        if thresholds is not None and not multilabel and len(thresholds) != len(members):
            raise ValueError(
                f"{len(thresholds)} thresholds for {len(members)} members; give one each"
            )
        if defer not in ("label", "sample"):
            raise ValueError(f"defer must be 'label' or 'sample', got {defer!r}")
        self.thresholds = thresholds
        self.ensemble = Ensemble(members, output, mode, chunk_size, multilabel=multilabel)
        rule = default_rule(len(members)) if rule is None else rule
        self.rule = rule if isinstance(rule, Rule) else tuple(rule)
        if not multilabel and not isinstance(rule, Rule):
            raise ValueError("one rule a label is for multilabel: true; give a single rule")
        for one in {self.rule} if isinstance(self.rule, Rule) else set(self.rule):
            one.check_members(len(members))
        self.defer = defer
        self.class_names = class_names
        self.abstention: Abstention | MultilabelAbstention | None = None

    @classmethod
    def from_checkpoints(
        cls,
        members: str | Path | Sequence[str | Path],
        template: nn.Module,
        rule: Rule | Sequence[Rule] | None = None,
        output: OutputKind = "auto",
        weights_only: bool = True,
        multilabel: bool = False,
    ) -> "EnsembleModule":
        """Build it from checkpoints of one architecture.

        Args:
            members: glob, folder or list of checkpoints.
            template: a module of the members' class; it is copied.
            rule: the decision rule.
            output: what the members give.
            weights_only: refuse files that hold more than plain data.
            multilabel: the outputs are independent labels.

        Raises:
            ConfigurationError: if a file is damaged or of another network, or the files do not
                agree on the order of the classes.
        """
        states = read_member_files(find_member_files(members), weights_only)
        orders = {state.class_names for state in states if state.class_names is not None}
        if len(orders) > 1:
            raise ConfigurationError(f"the members know the classes in different orders: {orders}")
        nets: list[nn.Module] = []
        for state in states:
            net = copy.deepcopy(template)
            fill(net, state)
            nets.append(net)
        names = list(orders.pop()) if orders else None
        return cls(nets, rule, output, class_names=names, multilabel=multilabel)

    def forward(self, x: Any) -> Tensor:
        """Inputs, shape (B, ...), to probabilities of each member, shape (M, B, C)."""
        return self.ensemble(x)

    def judge(self, x: Any) -> dict[str, Tensor]:
        """Decide a batch.

        Args:
            x: inputs, shape (B, ...).

        Returns:
            ``prediction`` (B,), -1 where it defers; ``majority`` (B,); ``deferred`` (B,), bool;
            ``consensus`` and ``self_consistency`` (B,); ``votes`` (B, C); ``mean_prob`` (B, C).
            For labels all have the shape (B, C); ``votes`` are the members that see the label.
        """
        probs = self.ensemble(x)
        labels = self._labels(probs)
        if self.ensemble.multilabel:
            return self._judge_labels(probs, labels)
        assert isinstance(self.rule, Rule)
        decided = self.rule.decide(labels, probs.double(), num_classes=probs.shape[-1])
        return {
            "prediction": decided,
            "majority": majority_vote(labels, probs.shape[-1]),
            "deferred": decided < 0,
            "consensus": consensus(labels),
            "self_consistency": _self_consistency(labels),
            "votes": vote_counts(labels, probs.shape[-1]),
            "mean_prob": probs.mean(0),
        }

    def _judge_labels(self, probs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        decided = decide_multilabel(labels, self.rule, probs=probs.double(), defer=self.defer)
        shape, each = labels.shape[1:], labels.flatten(1)  # every label a question of its own
        return {
            "prediction": decided,
            "majority": majority_vote(each, 2).view(shape),
            "deferred": decided < 0,
            "consensus": consensus(each).view(shape),
            "self_consistency": _self_consistency(each).view(shape),
            "votes": labels.sum(0),
            "mean_prob": probs.mean(0),
        }

    def _labels(self, probs: Tensor) -> Tensor:
        cut = 0.5 if self.thresholds is None else torch.tensor(self.thresholds).to(probs)
        if self.ensemble.multilabel:
            return hard_labels(probs, "multilabel", cut)
        if probs.shape[-1] > 2:
            return hard_labels(probs)
        return hard_labels(probs[..., 1], "binary", cut)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """What :meth:`judge` gives, and ``id`` where the batch has one (third entry, or ``id``)."""
        if isinstance(batch, Mapping):
            x = next((batch[key] for key in ("x", "input", "image") if key in batch), None)
            if x is None:
                raise ConfigurationError(
                    f"the batch has no entry x, input or image, but {sorted(map(str, batch))}"
                )
            ids = batch.get("id", batch.get("index"))
        elif isinstance(batch, (tuple, list)):
            x, ids = batch[0], batch[2] if len(batch) > 2 else None
        else:
            x, ids = batch, None
        out: dict[str, Any] = self.judge(x)
        if ids is not None:
            out["id"] = ids
        return out

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log coverage and risk of the rule as ``test/coverage``, ``test/selective_risk``, ...

        For labels these are ``test/label_<q>/...``, their means ``test/macro/...`` and, of whole
        samples, ``test/any/...``.
        """
        x, target = batch[0], batch[1]
        probs = self.ensemble(x)
        binary = probs.shape[-1] == 2 and not self.ensemble.multilabel
        if self.abstention is None:
            self.abstention = self._abstention(probs.shape[-1]).to(self.device)
        self.abstention.update(probs[..., 1] if binary else probs, target)

    def _abstention(self, outputs: int) -> Abstention | MultilabelAbstention:
        cut: Any = 0.5 if self.thresholds is None else torch.tensor(self.thresholds)
        if self.ensemble.multilabel:
            return MultilabelAbstention(len(self.ensemble), outputs, self.rule, self.defer, cut)
        assert isinstance(self.rule, Rule)
        task: Task = "binary" if outputs == 2 else "multiclass"
        return Abstention(len(self.ensemble), self.rule, task=task, threshold=cut)

    def on_test_epoch_end(self) -> None:
        """Log what was counted over all processes."""
        if self.abstention is None:
            return
        for name, value in self.abstention.compute().items():
            self.log(f"test/{name}", value.float(), sync_dist=True, reduce_fx="max")
        self.abstention = None

    # -- files -------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write one checkpoint of all members, the rule and the names of the classes."""
        states = [self.ensemble.member(i).state_dict() for i in range(len(self.ensemble))]
        rules = [self.rule] if isinstance(self.rule, Rule) else self.rule
        save_tensors(
            {
                "ensemble": states,
                "rule": [asdict(rule) for rule in rules],
                "output": self.ensemble.output,
                "class_names": self.class_names,
                "thresholds": self.thresholds,
                "multilabel": self.ensemble.multilabel,
                "defer": self.defer,
            },
            Path(path),
        )

    @classmethod
    def load(cls, path: str | Path, template: nn.Module | Sequence[nn.Module]) -> "EnsembleModule":
        """Read what :meth:`save` wrote.

        Args:
            path: the file.
            template: a module of the members' class, or one for each member if these differ.

        Raises:
            ConfigurationError: if the file is none of these, or of other networks.
        """
        content = read_tensors(path)
        if not isinstance(content, dict) or "ensemble" not in content:
            raise ConfigurationError(
                f"{path} was not written by EnsembleModule.save; for checkpoints of single members "
                "use EnsembleModule.from_checkpoints"
            )
        states = content["ensemble"]
        given: list[nn.Module] = (
            [template] * len(states) if isinstance(template, nn.Module) else list(template)
        )
        if len(given) != len(states):
            raise ConfigurationError(
                f"{path} holds {len(states)} members, got {len(given)} templates"
            )
        nets: list[nn.Module] = []
        for number, (net, state) in enumerate(zip(given, states, strict=True)):
            nets.append(copy.deepcopy(net))
            fill(nets[-1], MemberState(f"member {number}", Path(path), state, None))
        rules = [_rule(one) for one in content["rule"]]
        return cls(
            nets,
            rules[0] if len(rules) == 1 else rules,
            content["output"],
            class_names=content["class_names"],
            thresholds=content["thresholds"],
            multilabel=content["multilabel"],
            defer=content["defer"],
        )

    def mean_vote(self, example: Tensor) -> MeanVote:
        """The mean probability and the votes as a plain network, to export.

        Args:
            example: a batch of inputs, on which it is found out what the members give.
        """
        return mean_vote(self.ensemble, self.thresholds, example)

    def export(self, path: str | Path, example: Tensor) -> None:
        """Write the mean vote as a ``torch.export`` program (``.pt2``) for batches of any size.

        Args:
            path: the file.
            example: a batch of at least two inputs.
        """
        export_program(self.mean_vote(example), path, example)

    def export_onnx(self, path: str | Path, example: Tensor) -> None:
        """Write the mean vote as ONNX, with the outputs ``mean_prob`` and ``votes``.

        Args:
            path: the file.
            example: a batch of inputs.

        Raises:
            ConfigurationError: if the optional packages are missing.
        """
        export_onnx(self.mean_vote(example), path, example)


def _rule(stored: Mapping[str, Any]) -> Rule:
    found = stored["calibration"]
    rule = Rule(**{name: value for name, value in stored.items() if name != "calibration"})
    return rule if found is None else replace(rule, calibration=Calibration(**found))


def _self_consistency(labels: Tensor) -> Tensor:
    if len(labels) > 1:
        return self_consistency(labels)
    return torch.full_like(labels[0], torch.nan, dtype=torch.float64)
