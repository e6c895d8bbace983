"""What the attacker of a running training has before it begins: a prior, images, attacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from lightning_priv.errors import ConfigurationError
from lightning_priv.files import read_json
from lightning_priv.functional.audit import PixelRange, overlap_note
from lightning_priv.nn.audit_run import refuse_equal_names, with_prior_mean
from lightning_priv.nn.reconstructors import Clamp, Identity, PriorMean, Reconstructor, Wiener

__all__ = ["Adversary"]


@dataclass
class Adversary:
    """Arguments as those of ``ReconstructionAudit``.

    Attributes:
        network: the diffusion model, once ``load`` has read it.
    """

    prior: str | None
    null_label: int | None
    methods: list[Reconstructor] | None
    references: Literal["test", "val", "none"]
    known_norm: bool
    units: PixelRange
    network: Any = field(default=None, init=False)

    def load(self, input_shape: Sequence[int]) -> None:
        """Read the prior, and check all that can be known before the training.

        Args:
            input_shape: of the records.

        Raises:
            ConfigurationError: if something does not fit.
        """
        if len(input_shape) != 3:
            raise ConfigurationError(
                f"the leak layer has input_shape {tuple(input_shape)}; ReconstructionAudit shows "
                "images, of shape (channels, height, width)"
            )
        self.units.images_to_prior(torch.zeros(1, *input_shape))  # one mean and std a channel
        refuse_equal_names(self.methods or [])
        for attack in self.methods or []:
            if attack.uses_network and self.prior is None:
                raise ConfigurationError(
                    f"the attack '{attack.name}' needs a diffusion model: give prior"
                )
            if attack.uses_images and self.references == "none":
                raise ConfigurationError(f"the attack '{attack.name}' needs references")
        if not self.known_norm and (self.prior is None or self.references == "none"):
            raise ConfigurationError(
                "known_norm: false needs a prior and references, from which norms are found"
            )
        if self.prior is None:
            return
        from lightning_priv.nn.diffusion import DiffusionNetwork

        devices = range(torch.cuda.device_count())
        with torch.random.fork_rng(devices):  # a new network draws weights, which are replaced
            network = DiffusionNetwork.from_pretrained(self.prior, self.null_label)
        if tuple(input_shape) != network.image_shape:
            raise ConfigurationError(
                f"records have shape {tuple(input_shape)}, the prior is for "
                f"{network.image_shape}; take a prior for images of this size"
            )
        self.network = network.eval().requires_grad_(False)

    def images(self, trainer: Trainer, targets: Tensor) -> Tensor | None:
        """The adversary's images in [-1, 1], none of which is a target."""
        data = getattr(trainer, "datamodule", None)
        dataset = None if data is None else getattr(data, f"{self.references}_dataset", None)
        if self.references == "none" or dataset is None:
            return None
        count = min(len(dataset), 5000)
        chosen = torch.linspace(0, len(dataset) - 1, count).round().long().unique().tolist()
        images = self.units.images_to_prior(torch.stack([dataset[i][0] for i in chosen]))
        flat = images.flatten(1)
        equal = torch.stack([(flat == t.flatten()).all(1) for t in targets]).any(0)
        return images[~equal]

    def attacks(self, images: Tensor | None) -> list[Reconstructor]:
        """The attacks, prepared.

        Args:
            images: see ``images``.
        """
        attacks: list[Reconstructor]
        if self.methods is not None:
            attacks = with_prior_mean(self.methods, images)
        else:
            attacks = [Identity(), Clamp()]
            if images is not None:
                attacks += [PriorMean(), Wiener()]
            if self.network is not None:
                from lightning_priv.nn.denoisers import DDIM, MMSE

                attacks += [MMSE(), DDIM()]
        for attack in attacks:
            attack.prepare(images, self.network)
        return attacks

    def overlap(self, targets: Tensor, allowed: bool) -> str:
        """What a reader has to know about targets that the prior may have been trained on."""
        if self.prior is None:
            return ""
        file = Path(self.prior) / "training_hashes.json"
        known = read_json(file, "or train the prior again") if file.is_file() else None
        return overlap_note(targets, known, allowed)
