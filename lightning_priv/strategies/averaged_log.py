"""Joins what ``self.log`` is told in the physical batches of one logical step."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

__all__ = ["averaged_log"]

_REDUCTIONS: dict[Any, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": lambda values, weights: (values * weights).sum() / weights.sum(),
    "sum": lambda values, _: values.sum(),
    "max": lambda values, _: values.max(),
    "min": lambda values, _: values.min(),
}
_REDUCTIONS |= {getattr(torch, name): _REDUCTIONS[name] for name in ("mean", "sum", "max", "min")}


class _Collected:
    """Stands where ``LightningModule.log`` was."""

    def __init__(self) -> None:
        self.size = 0
        self.options: dict[str, dict[str, Any]] = {}
        self.values: dict[str, list[tuple[int, Any]]] = {}

    def __call__(
        self,
        name: str,
        value: Any,
        prog_bar: bool = False,
        logger: bool | None = None,
        **options: Any,
    ) -> None:
        size = options.pop("batch_size", None) or self.size
        self.options[name] = {"prog_bar": prog_bar, "logger": logger, **options}
        self.values.setdefault(name, []).append((size, value))

    def send(self, log: Callable[..., None]) -> None:
        for name, pairs in self.values.items():
            options = self.options[name]
            sizes, values = zip(*pairs, strict=True)
            reduction = _REDUCTIONS.get(options.get("reduce_fx", "mean"))
            plain = all(isinstance(v, Tensor | numbers.Number) for v in values)
            if not plain or reduction is None:  # a torchmetrics.Metric adds up by itself
                log(name, values[-1], **options)
                continue
            stacked = torch.stack([torch.as_tensor(v).detach().float().mean() for v in values])
            weights = torch.tensor(sizes, dtype=stacked.dtype, device=stacked.device)
            log(name, reduction(stacked, weights), batch_size=sum(sizes), **options)


@contextmanager
def averaged_log(module: LightningModule) -> Iterator[Callable[[int], None]]:
    """Log one value for the logical step, weighted by the records of each physical batch.

    Args:
        module: its ``log`` is replaced meanwhile.

    Yields:
        To be called with the number of records before each physical batch.
    """
    collected = _Collected()
    module.log = collected  # type: ignore[method-assign, assignment]
    try:
        yield lambda size: setattr(collected, "size", size)
    finally:
        del module.log  # the class's own method shows again
    collected.send(module.log)
