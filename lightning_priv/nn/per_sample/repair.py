"""Replaces layers that per-record gradients cannot have by the nearest ones that they can."""

from __future__ import annotations

import math

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

__all__ = ["repair_modules"]


def repair_modules(module: nn.Module) -> list[str]:
    """Repair in place what can be repaired without changing parameters.

    BatchNorm becomes GroupNorm(gcd(32, channels)), with at least four channels a group where there
    may be no positions to average over (BatchNorm1d), and with the *same* weight and bias objects,
    so that an optimizer made before keeps them; its running statistics go. InstanceNorm loses its
    running statistics. Activations that work in place no longer do.

    Args:
        module: the model; if it is itself a BatchNorm it cannot be replaced.

    Returns:
        One line for each layer changed.
    """
    changes = []
    for parent_name, parent in list(module.named_modules()):
        for name, layer in list(parent.named_children()):
            where = f"{parent_name}.{name}".lstrip(".")
            if isinstance(layer, _BatchNorm) and layer.num_features > 0:
                groups = _groups(layer)
                norm = nn.GroupNorm(groups, layer.num_features, eps=layer.eps, affine=False)
                norm.affine = layer.affine
                norm.weight, norm.bias = layer.weight, layer.bias
                norm.train(layer.training)
                setattr(parent, name, norm)
                changes.append(f"'{where}': {type(layer).__name__} -> GroupNorm({groups} groups)")
    for where, layer in module.named_modules():
        if isinstance(layer, _InstanceNorm) and layer.track_running_stats:
            layer.track_running_stats = False
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None
            changes.append(f"'{where}': running statistics dropped")
        if getattr(layer, "inplace", False) is True:
            layer.inplace = False
            changes.append(f"'{where}': no longer in place")
    return changes


def _groups(layer: _BatchNorm) -> int:
    groups = math.gcd(32, layer.num_features)
    if isinstance(layer, nn.BatchNorm1d):
        # a group of one number is normalised to zero, whatever it was
        while groups > 1 and layer.num_features // groups < 4:
            groups //= 2
    return groups
