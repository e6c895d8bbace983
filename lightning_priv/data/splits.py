"""Seeded splits into a part to keep and a part to hold out."""

import math

import torch
from torch import Tensor

__all__ = ["check_size", "held_out_count", "random_split", "stratified_split"]


def check_size(size: float, name: str = "val_size") -> None:
    """Check that ``size`` is a fraction in [0, 1) or a whole number of samples.

    Args:
        size: the value to check.
        name: option to name in the error.

    Raises:
        ValueError: if it is neither.
    """
    if isinstance(size, bool) or not size >= 0 or (isinstance(size, float) and size >= 1):
        raise ValueError(
            f"{name}={size}: give a fraction below 1 such as 0.1, a whole number of samples, "
            "or 0 for none"
        )


def held_out_count(size: float, samples: int, name: str = "val_size") -> int:
    """Turn a fraction or a number of samples into a number of samples.

    Args:
        size: number of samples (an int), or fraction in (0, 1), rounded up; 0 holds nothing out.
        samples: size of the whole.
        name: option to name in an error.

    Returns:
        A number from 0 to ``samples - 1``.

    Raises:
        ValueError: if nothing would be left, or ``size`` is no such number.

    Example:
        >>> held_out_count(0.2, 1797)
        360
    """
    check_size(size, name)
    # round: 0.07 * 100 is 7.000000000000001 in floating point and would be rounded up to 8
    count = math.ceil(round(size * samples, 6)) if isinstance(size, float) else size
    if count >= samples:
        raise ValueError(f"{name}={size} leaves nothing of {samples} samples; give a smaller value")
    return count


def stratified_split(targets: Tensor, held_out: int, seed: int) -> tuple[Tensor, Tensor]:
    """Hold out samples so that every class keeps its share of both parts.

    It is scikit-learn's ``train_test_split`` with ``stratify=targets, random_state=seed``.

    Args:
        targets: class numbers, shape (N,).
        held_out: how many samples to hold out; at least one for each class.
        seed: seed of the choice.

    Returns:
        Positions kept and positions held out, both ascending.

    Raises:
        ValueError: if one of the parts would be smaller than the number of classes.
    """
    from sklearn.model_selection import train_test_split

    classes = len(targets.unique())
    if not classes <= held_out <= len(targets) - classes:
        raise ValueError(
            f"{held_out} of {len(targets)} samples cannot be held out with {classes} classes in "
            f"both parts; hold out {classes} to {len(targets) - classes} (val_size)"
        )
    kept, held = train_test_split(
        range(len(targets)), test_size=held_out, stratify=targets.numpy(), random_state=seed
    )
    return torch.tensor(kept).sort().values, torch.tensor(held).sort().values


def random_split(samples: int, held_out: int, seed: int) -> tuple[Tensor, Tensor]:
    """Hold out the last entries of one random order, as ``torch.utils.data.random_split`` does.

    Args:
        samples: size of the whole.
        held_out: how many samples to hold out.
        seed: seed of the generator.

    Returns:
        Positions kept and positions held out, both ascending.
    """
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    kept = samples - held_out
    return order[:kept].sort().values, order[kept:].sort().values
