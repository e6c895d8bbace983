"""The part of an ensemble that a runtime needs, and its export."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_priv.errors import ConfigurationError
from lightning_priv.nn.ensemble import Ensemble, probabilities

__all__ = ["MeanVote", "export_onnx", "export_program", "mean_vote"]

_MISSING = (
    "ONNX export needs the optional packages onnx and onnxscript; install them with "
    "`pip install onnx onnxscript`, or export with export(path), which needs torch only"
)


class MeanVote(nn.Module):
    """The mean probability and the votes of an ensemble.

    Shape:
        Input (B, ...), outputs: mean probability (B, C) and votes by class (B, C), int64; with
        ``multilabel`` those of each label, where the votes are the members that see it.

    Args:
        members: the networks.
        output: whether they give logits or probabilities.
        thresholds: for two classes the threshold of each member, for labels that of each label;
            default: one half.
        multilabel: the outputs are independent labels.
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        output: Literal["logits", "probabilities"],
        thresholds: Sequence[float] | None = None,
        multilabel: bool = False,
    ) -> None:
        super().__init__()
        given = [0.5] * (1 if multilabel else len(members)) if thresholds is None else thresholds
        self.register_buffer("thresholds", torch.tensor(list(given)), persistent=False)
        self.members = nn.ModuleList(members)
        self.output, self.multilabel = output, multilabel

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean probabilities and votes."""
        probs = torch.stack([self._probs(member(x)) for member in self.members])
        cut = cast(Tensor, self.thresholds).to(probs)
        if self.multilabel:
            return probs.mean(0), (probs >= cut).long().sum(0)
        # as hard_labels: with two classes, a probability equal to the threshold is class 1
        binary = probs.shape[-1] == 2
        winner = (probs[..., 1] >= cut[:, None]).long() if binary else probs.argmax(-1)
        classes = torch.arange(probs.shape[-1], device=probs.device)
        votes = (winner[..., None] == classes).long().sum(0)
        return probs.mean(0), votes

    def _probs(self, out: Tensor) -> Tensor:
        given = self.output == "probabilities"
        if self.multilabel:
            return out if given else out.sigmoid()
        if out.ndim == 1 or out.shape[-1] == 1:
            p = out.reshape(-1) if given else out.reshape(-1).sigmoid()
            return torch.stack([1 - p, p], -1)
        return out if given else out.softmax(-1)


def mean_vote(ensemble: Ensemble, thresholds: Sequence[float] | None, example: Tensor) -> MeanVote:
    """The mean vote of an ensemble as a plain network.

    Args:
        ensemble: the members.
        thresholds: see :class:`MeanVote`.
        example: a batch of inputs, on which it is found out what the members give.
    """
    outputs = ensemble.outputs(example)
    if ensemble.output == "auto":
        given = outputs if outputs.ndim == 3 else outputs[..., None]
        # probabilities come through unchanged
        same = given.shape[-1] > 1 and torch.equal(
            probabilities(outputs, multilabel=ensemble.multilabel), given
        )
        kind: Literal["logits", "probabilities"] = "probabilities" if same else "logits"
    else:
        kind = ensemble.output
    members = [ensemble.member(i) for i in range(len(ensemble))]
    nets = [getattr(m, "net", m) if isinstance(m, LightningModule) else m for m in members]
    # the net of a LightningModule exports more easily; only if it is all that forward does
    for place, (member, net) in enumerate(zip(members, nets, strict=True)):
        if net is not member and not torch.equal(net(example), member(example)):
            nets[place] = member
    return MeanVote(nets, kind, thresholds, ensemble.multilabel).eval()


def export_program(vote: MeanVote, path: str | Path, example: Tensor) -> None:
    """Write a ``torch.export`` program (``.pt2``) for batches of any size."""
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(vote, (example,), dynamic_shapes={"x": {0: batch}})
    torch.export.save(program, path)


def export_onnx(vote: MeanVote, path: str | Path, example: Tensor) -> None:
    """Write ONNX with the outputs ``mean_prob`` and ``votes``.

    Raises:
        ConfigurationError: if the optional packages are missing.
    """
    if find_spec("onnx") is None or find_spec("onnxscript") is None:
        raise ConfigurationError(_MISSING)
    torch.onnx.export(
        vote,
        (example,),
        str(path),
        input_names=["x"],
        output_names=["mean_prob", "votes"],
        dynamic_shapes={"x": {0: torch.export.Dim("batch", min=1)}},
        dynamo=True,
    )
