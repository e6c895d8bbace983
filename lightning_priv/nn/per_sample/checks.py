"""What makes a module unfit for per-record gradients."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from lightning_priv.nn.per_sample.layers import hook_problem

__all__ = ["module_problems"]


def module_problems(module: nn.Module) -> list[str]:
    """Reasons why the module's per-record gradients are not defined or not private.

    Args:
        module: the model.

    Returns:
        One sentence for each layer, naming it and saying what to do; empty if all is well.
    """
    problems = []
    for name, layer in module.named_modules():
        where = f"{type(layer).__name__} at '{name}'"
        trainable = any(p.requires_grad for p in layer.parameters(recurse=False))
        if any(is_lazy(p) for p in layer.parameters(recurse=False)):
            problems.append(f"{where} has no shape yet; run one forward pass before fit")
        elif trainable and (problem := hook_problem(layer)) is not None:
            problems.append(f"{where} {problem}")
        elif isinstance(layer, _BatchNorm):
            if trainable or layer.training:
                problems.append(
                    f"{where} mixes records, which DP-SGD cannot bound; build the network with "
                    "norm='group', or set fix_modules: true to get GroupNorm, or freeze the layer "
                    "and put it into eval mode"
                )
        elif isinstance(layer, _InstanceNorm) and layer.track_running_stats:
            problems.append(
                f"{where} keeps running statistics of private records; use "
                "track_running_stats=False or fix_modules: true"
            )
        elif isinstance(layer, nn.Embedding | nn.EmbeddingBag) and trainable:
            if layer.max_norm is not None or layer.scale_grad_by_freq:
                problems.append(
                    f"{where} changes weights or gradients by what else is in the batch; use "
                    "max_norm=None and scale_grad_by_freq=False"
                )
        elif trainable and next(layer.buffers(recurse=False), None) is not None:
            problems.append(
                f"{where} has both trainable parameters and buffers; buffers are not covered by "
                "the privacy guarantee and must not change in training: move them into a module of "
                "their own"
            )
        if isinstance(layer, nn.CrossEntropyLoss | nn.NLLLoss) and (
            layer.weight is not None and layer.reduction == "mean"
        ):
            problems.append(
                f"{where} has class weights and divides by the weights of all records of a batch; "
                "use reduction='none' and take the mean"
            )
        if type(layer).__name__ == "OptimizedModule":
            problems.append(f"{where} is compiled; pass the module without torch.compile")
    return problems
