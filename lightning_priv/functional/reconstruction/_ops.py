"""The few array operations that the numpy and the torch path do not share by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy import special


@dataclass(frozen=True)
class Ops:
    """Elementwise functions of one array library, all in float64."""

    exp: Callable[..., Any]
    expm1: Callable[..., Any]
    log: Callable[..., Any]
    log1p: Callable[..., Any]
    sqrt: Callable[..., Any]
    floor: Callable[..., Any]
    exp2: Callable[..., Any]
    erfcx: Callable[..., Any]
    ndtr: Callable[..., Any]
    ndtri: Callable[..., Any]
    ndtri_exp: Callable[..., Any]
    where: Callable[..., Any]
    empty_like: Callable[..., Any]
    zeros_like: Callable[..., Any]
    index: Callable[[Any], Any]
    """Whole-valued floats as indices."""
    constant: Callable[[Any, Any], Any]
    """``constant(values, like)``: a table as an array beside ``like``."""


def _numpy_constant(values: Any, like: Any) -> Any:
    return np.asarray(values)


NUMPY = Ops(
    exp=np.exp,
    expm1=np.expm1,
    log=np.log,
    log1p=np.log1p,
    sqrt=np.sqrt,
    floor=np.floor,
    exp2=np.exp2,
    erfcx=special.erfcx,
    ndtr=special.ndtr,
    ndtri=special.ndtri,
    ndtri_exp=special.ndtri_exp,
    where=np.where,
    empty_like=np.empty_like,
    zeros_like=np.zeros_like,
    index=lambda values: values.astype(np.int64),
    constant=_numpy_constant,
)


@cache
def torch_ops() -> Ops:
    """The same operations on tensors; imports torch."""
    import torch

    def ndtri_exp(log_probability: torch.Tensor) -> torch.Tensor:
        # A start value only: asymptotic below exp(-30), where the direct form loses its digits.
        far = log_probability < -30.0
        near = torch.special.ndtri(torch.exp(torch.where(far, -1.0, log_probability)))
        square = torch.where(far, -2.0 * log_probability, 60.0)
        return torch.where(far, -torch.sqrt(square - torch.log(2 * np.pi * square)), near)

    def constant(values: Any, like: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.float64, device=like.device)

    return Ops(
        exp=torch.exp,
        expm1=torch.expm1,
        log=torch.log,
        log1p=torch.log1p,
        sqrt=torch.sqrt,
        floor=torch.floor,
        exp2=torch.exp2,
        erfcx=torch.special.erfcx,
        ndtr=torch.special.ndtr,
        ndtri=torch.special.ndtri,
        ndtri_exp=ndtri_exp,
        where=torch.where,
        empty_like=torch.empty_like,
        zeros_like=torch.zeros_like,
        index=lambda values: values.long(),
        constant=constant,
    )
