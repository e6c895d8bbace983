"""Checks of what acquisition functions are given, and the entropy that they share."""

import torch
from torch import Tensor

__all__ = ["check_count", "check_mc", "check_probs", "check_rows", "plogp", "refuse_non_finite"]

_SUM_SLACK = 1e-3  # of half-precision softmax outputs
_MOST_NAMED = 10


def plogp(p: Tensor) -> Tensor:
    """Entropy terms -p ln p, with 0 ln 0 = 0."""
    return torch.special.entr(p)


def refuse_non_finite(values: Tensor, name: str) -> None:
    """Raise if a row of ``values`` (n, ...) holds a NaN or an infinity, with the rows' indices."""
    bad = ~torch.isfinite(values).flatten(1).all(1) if values.ndim > 1 else ~values.isfinite()
    if bool(bad.any()):
        rows = torch.nonzero(bad).flatten()
        named = ", ".join(str(i) for i in rows[:_MOST_NAMED].tolist())
        more = "" if len(rows) <= _MOST_NAMED else f" and {len(rows) - _MOST_NAMED} more"
        raise ValueError(
            f"{name} is NaN or infinite at the indices {named}{more}; the model or these samples "
            "are broken: mend or leave them out, no score stands for them"
        )


def check_probs(probs: Tensor, multi_label: bool = False) -> Tensor:
    """Probabilities (n, C) in float64, checked.

    Raises:
        ValueError: if the shape is another, a value is no probability or a row does not sum to 1.
    """
    if probs.ndim != 2 or probs.shape[1] < 1 or not probs.is_floating_point():
        raise ValueError(
            f"probs has shape {tuple(probs.shape)} and dtype {probs.dtype}; give probabilities of "
            "shape (samples, classes)"
        )
    refuse_non_finite(probs, "probs")
    _check_range(probs, "probs", multi_label)
    return probs.to(torch.float64, copy=True).clamp_(0, 1)


def check_mc(mc: Tensor, name: str = "mc") -> Tensor:
    """Probabilities (T, n, C) of T draws in float64, checked.

    Raises:
        ValueError: as ``check_probs``.
    """
    if mc.ndim != 3 or min(mc.shape[0], mc.shape[2]) < 1 or not mc.is_floating_point():
        raise ValueError(
            f"{name} has shape {tuple(mc.shape)} and dtype {mc.dtype}; give probabilities of shape "
            "(draws, samples, classes)"
        )
    refuse_non_finite(mc.transpose(0, 1), name)
    _check_range(mc, name, False)
    return mc.to(torch.float64, copy=True).clamp_(0, 1)


def _check_range(p: Tensor, name: str, multi_label: bool) -> None:
    if not p.numel():
        return
    if bool((p.min() < -_SUM_SLACK) | (p.max() > 1 + _SUM_SLACK)):
        raise ValueError(
            f"{name} reaches from {float(p.min()):g} to {float(p.max()):g}; give probabilities: "
            "convert logits with softmax (before averaging over draws) or sigmoid"
        )
    off = (p.sum(-1, dtype=torch.float64) - 1).abs().max()
    if not multi_label and bool(off > _SUM_SLACK):
        raise ValueError(
            f"rows of {name} sum to 1 only within {float(off):g}; give softmax outputs, or set "
            "multi_label for sigmoids"
        )


def check_count(k: int, available: int) -> None:
    """Raise unless 0 <= k <= available."""
    if isinstance(k, bool) or not isinstance(k, int) or not 0 <= k <= available:
        raise ValueError(
            f"asked to choose {k!r} of {available} samples; give a whole number from 0 to "
            f"{available}"
        )


def check_rows(values: Tensor, n: int, name: str) -> None:
    """Raise unless ``values`` is a matrix with n finite rows."""
    if values.ndim != 2 or len(values) != n:
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}; give one row for each of the {n} samples"
        )
    refuse_non_finite(values, name)
