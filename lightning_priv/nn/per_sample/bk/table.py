"""Which rule treats which layer."""

from __future__ import annotations

from torch import nn

from lightning_priv.nn.per_sample.bk.convolutions import CONVOLUTION, TRANSPOSED
from lightning_priv.nn.per_sample.bk.linear import EMBEDDING, LINEAR
from lightning_priv.nn.per_sample.bk.norms import (
    GROUP_NORM,
    INSTANCE_NORM,
    LAYER_NORM,
    RMS_NORM,
)
from lightning_priv.nn.per_sample.bk.recurrent import RECURRENT
from lightning_priv.nn.per_sample.bk.rules import Rule
from lightning_priv.nn.per_sample.bk.standardized import STANDARDIZED
from lightning_priv.nn.wide_resnet import StandardizedConv2d

__all__ = ["rule_for"]

_RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: LINEAR,
    nn.Embedding: EMBEDDING,
    nn.Conv1d: CONVOLUTION,
    nn.Conv2d: CONVOLUTION,
    nn.Conv3d: CONVOLUTION,
    StandardizedConv2d: STANDARDIZED,
    nn.ConvTranspose1d: TRANSPOSED,
    nn.ConvTranspose2d: TRANSPOSED,
    nn.ConvTranspose3d: TRANSPOSED,
    nn.GroupNorm: GROUP_NORM,
    nn.LayerNorm: LAYER_NORM,
    nn.RMSNorm: RMS_NORM,
    nn.InstanceNorm1d: INSTANCE_NORM,
    nn.InstanceNorm2d: INSTANCE_NORM,
    nn.InstanceNorm3d: INSTANCE_NORM,
    nn.RNN: RECURRENT,
    nn.LSTM: RECURRENT,
    nn.GRU: RECURRENT,
}


def rule_for(module: nn.Module) -> Rule | None:
    """The rule for a layer of exactly this type and configuration; a subclass may do otherwise."""
    kind = type(module)
    rule = _RULES.get(kind)
    if kind.__module__.startswith("lightning_priv.nn.lorentz."):
        # seconds of imports, which whoever has such a layer has made already
        from lightning_priv.nn.per_sample.bk.lorentz import LORENTZ_RULES

        rule = LORENTZ_RULES.get(kind)
    return rule if rule is not None and rule.covers(module) else None
