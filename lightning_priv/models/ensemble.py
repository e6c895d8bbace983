"""An ensemble that decides or defers, to deploy."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.multiplicity import (
    Calibration,
    Rule,
    Task,
    consensus,
    default_rule,
    hard_labels,
    majority_vote,
    self_consistency,
    vote_counts,
)
from lightning_priv.metrics import Abstention
from lightning_priv.nn.ensemble import Ensemble, OutputKind, probabilities
from lightning_priv.nn.member_files import MemberState, fill, find_member_files, read_member_files

__all__ = ["EnsembleModule", "MeanVote"]

_MISSING = (
    "ONNX export needs the optional packages onnx and onnxscript; install them with "
    "`pip install onnx onnxscript`, or export with export(path), which needs torch only"
)


class MeanVote(nn.Module):
    """The part of an ensemble that a runtime needs: the mean probability and the votes.

    Shape:
        Input (B, ...), outputs: mean probability (B, C) and votes by class (B, C), int64.

    Args:
        members: the networks.
        output: whether they give logits or probabilities.
        thresholds: for two classes the threshold of each member; default: one half.
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        output: Literal["logits", "probabilities"],
        thresholds: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        given = [0.5] * len(members) if thresholds is None else list(thresholds)
        self.register_buffer("thresholds", torch.tensor(given), persistent=False)
        self.members = nn.ModuleList(members)
        self.output = output

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean probabilities and votes."""
        probs = torch.stack([self._probs(member(x)) for member in self.members])
        # as hard_labels: with two classes, a probability equal to the threshold is class 1
        binary = probs.shape[-1] == 2
        cut = cast(Tensor, self.thresholds)[:, None].to(probs)
        winner = (probs[..., 1] >= cut).long() if binary else probs.argmax(-1)
        classes = torch.arange(probs.shape[-1], device=probs.device)
        votes = (winner[..., None] == classes).long().sum(0)
        return probs.mean(0), votes

    def _probs(self, out: Tensor) -> Tensor:
        if out.ndim == 1 or out.shape[-1] == 1:
            p = out.reshape(-1) if self.output == "probabilities" else out.reshape(-1).sigmoid()
            return torch.stack([1 - p, p], -1)
        return out if self.output == "probabilities" else out.softmax(-1)


class EnsembleModule(LightningModule):
    """Members and a decision rule as one module: ``predict_step`` decides each sample or defers.

    It has nothing to train. A checkpoint of it (``save``) holds the weights of all members and the
    rule with what it was fitted to; ``load`` reads it back.

    Args:
        members: networks from inputs to outputs of shape (B, C), or (B, 1) for two classes.
        rule: the decision rule, fitted if it needs that; default: ``unanimous`` for up to five
            members, else ``threshold`` of 0.8.
        output: what the members give; see ``Ensemble``.
        mode: evaluate members in one vectorised call or one after another.
        chunk_size: members in one call, to bound memory.
        class_names: names of the classes, kept in the checkpoint.
        thresholds: for two classes the probability of class 1 from which each member votes for it;
            default: one half.

    Raises:
        ValueError: if there is no member, or not one threshold each.
    """

    def __init__(
        self,
        members: list[nn.Module],
        rule: Rule | None = None,
        output: OutputKind = "auto",
        mode: Literal["auto", "vmap", "loop"] = "auto",
        chunk_size: int | None = None,
        class_names: list[str] | None = None,
        thresholds: list[float] | None = None,
    ) -> None:
        super().__init__()
        if thresholds is not None and len(thresholds) != len(members):
            raise ValueError(
                f"{len(thresholds)} thresholds for {len(members)} members; give one each"
            )
        self.thresholds = thresholds
        self.ensemble = Ensemble(members, output, mode, chunk_size)
        self.rule = default_rule(len(members)) if rule is None else rule
        self.rule.check_members(len(members))
        self.class_names = class_names
        self.abstention: Abstention | None = None

    @classmethod
    def from_checkpoints(
        cls,
        members: str | Path | Sequence[str | Path],
        template: nn.Module,
        rule: Rule | None = None,
        output: OutputKind = "auto",
        weights_only: bool = True,
    ) -> "EnsembleModule":
        """Build it from checkpoints of one architecture.

        Args:
            members: glob, folder or list of checkpoints.
            template: a module of the members' class; it is copied.
            rule: the decision rule.
            output: what the members give.
            weights_only: refuse files that hold more than plain data.

        Raises:
            ConfigurationError: if a file is damaged or of another network, or the files do not
                agree on the order of the classes.
        """
        import copy

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
        return cls(nets, rule, output, class_names=names)

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
        """
        probs = self.ensemble(x)
        labels = self._labels(probs)
        decided = self.rule.decide(labels, probs.double(), num_classes=probs.shape[-1])
        undefined = torch.full_like(decided, torch.nan, dtype=torch.float64)
        return {
            "prediction": decided,
            "majority": majority_vote(labels, probs.shape[-1]),
            "deferred": decided < 0,
            "consensus": consensus(labels),
            "self_consistency": self_consistency(labels) if len(labels) > 1 else undefined,
            "votes": vote_counts(labels, probs.shape[-1]),
            "mean_prob": probs.mean(0),
        }

    def _labels(self, probs: Tensor) -> Tensor:
        if probs.shape[-1] > 2:
            return hard_labels(probs)
        cut = 0.5 if self.thresholds is None else torch.tensor(self.thresholds).to(probs)
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
        """Log coverage and risk of the rule as ``test/coverage``, ``test/selective_risk``, ..."""
        x, target = batch[0], batch[1]
        probs = self.ensemble(x)
        binary = probs.shape[-1] == 2
        if self.abstention is None:
            task: Task = "binary" if binary else "multiclass"
            cut: Any = 0.5 if self.thresholds is None else torch.tensor(self.thresholds)
            abstention = Abstention(len(self.ensemble), self.rule, task=task, threshold=cut)
            self.abstention = abstention.to(self.device)
        self.abstention.update(probs[..., 1] if binary else probs, target)

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
        rule = asdict(self.rule)
        part = Path(path).with_name(f"{Path(path).name}.part")
        torch.save(
            {
                "ensemble": states,
                "rule": rule,
                "output": self.ensemble.output,
                "class_names": self.class_names,
                "thresholds": self.thresholds,
            },
            part,
        )
        part.replace(path)

    @classmethod
    def load(cls, path: str | Path, template: nn.Module | Sequence[nn.Module]) -> "EnsembleModule":
        """Read what :meth:`save` wrote.

        Args:
            path: the file.
            template: a module of the members' class, or one for each member if these differ.

        Raises:
            ConfigurationError: if the file is none of these, or of other networks.
        """
        import copy

        content = torch.load(path, map_location="cpu", weights_only=True)
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
        rule = dict(content["rule"])
        calibration = rule.pop("calibration")
        made = Rule(**rule)
        if calibration is not None:
            made = replace(made, calibration=Calibration(**calibration))
        return cls(
            nets,
            made,
            content["output"],
            class_names=content["class_names"],
            thresholds=content["thresholds"],
        )

    def mean_vote(self, example: Tensor) -> MeanVote:
        """The mean probability and the votes as a plain network, to export.

        Args:
            example: a batch of inputs, on which it is found out what the members give.
        """
        outputs = self.ensemble.outputs(example)
        if self.ensemble.output == "auto":
            given = outputs if outputs.ndim == 3 else outputs[..., None]
            # probabilities come through unchanged
            same = given.shape[-1] > 1 and torch.equal(probabilities(outputs), given)
            kind: Literal["logits", "probabilities"] = "probabilities" if same else "logits"
        else:
            kind = self.ensemble.output
        members = [self.ensemble.member(i) for i in range(len(self.ensemble))]
        nets = [getattr(m, "net", m) if isinstance(m, LightningModule) else m for m in members]
        # the net of a LightningModule exports more easily; only if it is all that forward does
        for place, (member, net) in enumerate(zip(members, nets, strict=True)):
            if net is not member and not torch.equal(net(example), member(example)):
                nets[place] = member
        return MeanVote(nets, kind, self.thresholds).eval()

    def export(self, path: str | Path, example: Tensor) -> None:
        """Write the mean vote as a ``torch.export`` program (``.pt2``) for batches of any size.

        Args:
            path: the file.
            example: a batch of at least two inputs.
        """
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(
            self.mean_vote(example), (example,), dynamic_shapes={"x": {0: batch}}
        )
        torch.export.save(program, path)

    def export_onnx(self, path: str | Path, example: Tensor) -> None:
        """Write the mean vote as ONNX, with the outputs ``mean_prob`` and ``votes``.

        Args:
            path: the file.
            example: a batch of inputs.

        Raises:
            ConfigurationError: if the optional packages are missing.
        """
        from importlib.util import find_spec

        if find_spec("onnx") is None or find_spec("onnxscript") is None:
            raise ConfigurationError(_MISSING)
        torch.onnx.export(
            self.mean_vote(example),
            (example,),
            str(path),
            input_names=["x"],
            output_names=["mean_prob", "votes"],
            dynamic_shapes={"x": {0: torch.export.Dim("batch", min=1)}},
            dynamo=True,
        )
