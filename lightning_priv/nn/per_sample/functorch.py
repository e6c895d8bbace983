"""Per-record gradients of any layer that is a pure function of its inputs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import Parameter
from torch.utils._pytree import tree_flatten, tree_unflatten

from lightning_priv.errors import UnsupportedModuleError

__all__ = ["functorch_gradients"]


def functorch_gradients(
    module: nn.Module,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output_gradients: Sequence[Tensor | None],
    size: int,
) -> dict[Parameter, Tensor]:
    """Repeat the layer's forward and backward pass for each record on its own.

    All records at once by vmap over grad; one after the other, with a warning, for the few layers
    (nn.LSTM) that vmap cannot run.

    Args:
        module: the layer; hooks on it must be silent meanwhile.
        name: how errors call it.
        args: positional inputs; tensors whose first dimension is ``size`` hold one row a record.
        kwargs: inputs by name, likewise.
        output_gradients: gradients of the output's tensors, in their order; None if unused.
        size: number of records.

    Returns:
        Per-record gradients (size, *parameter) of the trainable parameters.

    Raises:
        UnsupportedModuleError: if the layer draws random numbers or mixes records.
    """
    rows = _Rows(args, kwargs, size)
    used = [i for i, g in enumerate(output_gradients) if g is not None]
    gradients = [g for g in output_gradients if g is not None]
    for g in gradients:
        if g.dim() == 0 or g.shape[0] != size:
            raise UnsupportedModuleError(
                f"{type(module).__name__} at '{name}' returned a tensor of shape {tuple(g.shape)} "
                f"for {size} records; the batch must be the first dimension (batch_first=True)"
            )
    try:
        return _all_at_once(module, rows, used, gradients)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        if "random" in str(error):
            raise UnsupportedModuleError(
                f"{type(module).__name__} at '{name}' draws random numbers (dropout?), which "
                "cannot be repeated record by record; put its own parameters into a small module "
                "without"
            ) from error
        warnings.warn(
            f"{type(module).__name__} at '{name}' cannot be vectorised ({error}); its gradients "
            "are computed one record at a time, which is slow. opacus.layers has DPLSTM, DPGRU, "
            "DPRNN",
            stacklevel=2,
        )
    return _one_by_one(module, name, rows, used, gradients)


class _Rows:
    """The inputs of a layer, taken apart into those with a row a record and the others."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], size: int) -> None:
        leaves, self._structure = tree_flatten((args, kwargs))
        self.size = size
        self._by_record = [
            isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == size for leaf in leaves
        ]
        pairs = list(zip(leaves, self._by_record, strict=True))
        self._fixed = [leaf for leaf, by_record in pairs if not by_record]
        self.tensors = [leaf for leaf, by_record in pairs if by_record]

    def inputs_of(self, row: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments for a batch of one, from one row of each of ``tensors``."""
        rows, fixed = iter(row), iter(self._fixed)
        leaves = [next(rows).unsqueeze(0) if by else next(fixed) for by in self._by_record]
        args, kwargs = tree_unflatten(leaves, self._structure)
        return args, kwargs


def _product(output: Any, used: list[int], gradients: Sequence[Tensor]) -> Tensor:
    tensors = [t for t in tree_flatten(output)[0] if isinstance(t, Tensor)]
    pairs = zip([tensors[i] for i in used], gradients, strict=True)
    return torch.stack([(t * g.unsqueeze(0)).sum() for t, g in pairs]).sum()


def _all_at_once(
    module: nn.Module, rows: _Rows, used: list[int], gradients: list[Tensor]
) -> dict[Parameter, Tensor]:
    trainable = {n: p for n, p in module.named_parameters() if p.requires_grad}
    frozen = {n: p.detach() for n, p in module.named_parameters() if not p.requires_grad}

    def product(params: dict[str, Tensor], row: list[Tensor], grads: list[Tensor]) -> Tensor:
        args, kwargs = rows.inputs_of(row)
        return _product(functional_call(module, {**frozen, **params}, args, kwargs), used, grads)

    found = vmap(grad(product), in_dims=(None, 0, 0))(
        {n: p.detach() for n, p in trainable.items()}, rows.tensors, gradients
    )
    return {p: found[n] for n, p in trainable.items()}


def _one_by_one(
    module: nn.Module, name: str, rows: _Rows, used: list[int], gradients: list[Tensor]
) -> dict[Parameter, Tensor]:
    trainable = [p for p in module.parameters() if p.requires_grad]
    found = []
    before = _random_state(gradients[0].device)
    for i in range(rows.size):
        with torch.enable_grad():
            args, kwargs = rows.inputs_of([t[i] for t in rows.tensors])
            product = _product(module(*args, **kwargs), used, [g[i] for g in gradients])
            grads = torch.autograd.grad(product, trainable, allow_unused=True)
        found.append(
            [torch.zeros_like(p) if g is None else g for p, g in zip(trainable, grads, strict=True)]
        )
    if not torch.equal(before, _random_state(gradients[0].device)):
        raise UnsupportedModuleError(
            f"{type(module).__name__} at '{name}' draws random numbers (dropout?), which cannot be "
            "repeated record by record; set its dropout to 0 and use a Dropout layer behind it"
        )
    return {p: torch.stack(gs) for p, gs in zip(trainable, zip(*found, strict=True), strict=True)}


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
