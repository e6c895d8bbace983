"""The same observations under different priors."""

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.audit import AuditStudy, denoising_curve, excess_bits
from lightning_priv.models.diffusion import DiffusionPrior
from lightning_priv.nn.audit_run import run_attack
from lightning_priv.nn.denoisers import MMSE
from lightning_priv.reports.audit import shift_figure

__all__ = ["check_shape", "prior_shift"]

_CURVE = torch.logspace(1, -1.5, 24).tolist()  # noise levels of the distance between priors


def prior_shift(
    study: AuditStudy,
    prior: DiffusionPrior,
    others: Mapping[str, str],
    batch_size: int,
    seed: int,
    device: torch.device,
) -> Figure:
    """The map of prior shift: gain of each prior over its distance from the best.

    Args:
        study: whose observations are reconstructed again.
        prior: the prior of the study.
        others: name and diffusers directory of further ones.
        batch_size: observations at once.
        seed: of attacks and of the noise that distances are found with.
        device: where the networks run.

    Raises:
        ConfigurationError: if a prior is for images of another shape.
    """
    priors: dict[str, DiffusionPrior] = {"this prior": prior}
    for name, path in others.items():
        other = DiffusionPrior.from_pretrained(path).to(device).eval()
        check_shape(study.targets, other.average.image_shape)
        priors[name] = other
    guess = ((study.targets - study.targets.mean(0)) / 2).double().square().mean()
    mean = study.estimates.get("prior mean")
    if mean is not None:
        guess = ((study.targets - mean[0]) / 2).double().square().mean()
    gains, curves = {}, {}
    for name, one in priors.items():
        attack = MMSE()
        attack.prepare(None, one.average)
        found = run_attack(attack, study.levels, batch_size, seed, device)
        errors = ((found - study.targets) / 2).double().square().flatten(1).mean(1)
        gains[name] = (1 - errors / guess).tolist()
        curves[name] = denoising_curve(
            one.average.schedule, one.average, study.targets.to(device), _CURVE, seed
        )
    best = torch.stack(list(curves.values())).min(0).values
    distances = {name: excess_bits(_CURVE, curve, best) for name, curve in curves.items()}
    return shift_figure([level.mu for level in study.levels], gains, distances)


def check_shape(records: Tensor, wanted: tuple[int, int, int]) -> None:
    """Raise ConfigurationError if targets have another shape than the images of a prior."""
    if tuple(records.shape[1:]) != wanted:
        raise ConfigurationError(
            f"the targets have shape {tuple(records.shape[1:])}, the prior is for {wanted}; take a "
            "prior for images of this size, or resize the data"
        )
