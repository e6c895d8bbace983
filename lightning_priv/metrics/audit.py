"""How good reconstructions are, image by image and as metrics."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.functional.image import structural_similarity_index_measure

from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.audit import Observed, residual_ratio

__all__ = [
    "AuditGain",
    "LabelAgreement",
    "image_error",
    "image_scores",
    "perceptual_distance",
    "study_scores",
]


def image_scores(preds: Tensor, target: Tensor) -> dict[str, Tensor]:
    """MSE, PSNR and SSIM of each image, for pixels in [0, 1].

    MSE and PSNR are those of the unclamped estimates, which the bounds speak of; SSIM is that of
    what can be shown, over the whole image, with a flat window of side 7 or the largest odd number
    that the image allows.

    Args:
        preds: estimates in [-1, 1] or beyond, shape (n, C, H, W).
        target: images in [-1, 1], same shape.

    Returns:
        ``mse``, ``psnr`` in dB and ``ssim``, each of shape (n,).

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> x = torch.zeros(2, 1, 8, 8)
        >>> scores = image_scores(x + 0.2, x)
        >>> [round(float(scores[key][0]), 2) for key in ("mse", "psnr")]
        [0.01, 20.0]
    """
    if preds.shape != target.shape or preds.ndim != 4:
        raise ValueError(
            f"preds {tuple(preds.shape)} and target {tuple(target.shape)} must have one shape "
            "(n, C, H, W)"
        )
    mse = image_error(preds, target)
    side = min(7, *preds.shape[-2:])
    side -= 1 - side % 2
    if side < 3:
        raise ValueError(f"images of {tuple(preds.shape[-2:])} pixels have no similarity; give 3x3")
    shown, truth = (((x.float().clamp(-1, 1) + 1) / 2) for x in (preds, target))
    ssim = structural_similarity_index_measure(
        shown,
        truth,
        gaussian_kernel=False,
        kernel_size=side,
        data_range=1.0,
        reduction="none",
    )
    assert isinstance(ssim, Tensor)
    psnr = -10 * mse.clamp(min=1e-12).log10()
    return {"mse": mse, "psnr": psnr, "ssim": ssim.double().reshape(len(preds))}


def study_scores(
    estimates: Mapping[str, Tensor],
    levels: Sequence[Observed],
    target: Tensor,
    images: Tensor | None = None,
    classify: Callable[[Tensor], Tensor] | None = None,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> dict[str, dict[str, Tensor]]:
    """All scores of all attacks of an audit.

    Beside ``image_scores``: ``residual``, the distance from the observation in units of the noise;
    ``gain`` over guessing the mean image, 1 - MSE / mean MSE of the guess; ``labels``, whether a
    classifier sees the target's class; ``perceptual``, a distance by a given network.

    Args:
        estimates: by attack, shape (levels, n, C, H, W), in [-1, 1] or beyond.
        levels: what was observed.
        target: images in [-1, 1], shape (n, C, H, W).
        images: the adversary's; without them there is no gain.
        classify: images (n, C, H, W) to classes (n,).
        perceptual: two batches of images to distances (n,); see ``perceptual_distance``.

    Returns:
        By attack and metric, shape (levels, n).
    """
    guess = None if images is None else image_error(images.mean(0).expand_as(target), target).mean()
    truth = None if classify is None else classify(target)
    found: dict[str, dict[str, Tensor]] = {}
    for name, by_level in estimates.items():
        rows: list[dict[str, Tensor]] = []
        for level, x in zip(levels, by_level, strict=True):
            row = image_scores(x, target)
            row["residual"] = residual_ratio(level.y, x, level.noise_std.clamp(min=1e-12)).double()
            if guess is not None:
                row["gain"] = 1 - row["mse"] / guess
            if classify is not None and truth is not None:
                row["labels"] = torch.eq(classify(x), truth).double()
            if perceptual is not None:
                row["perceptual"] = perceptual(x, target)
            rows.append(row)
        found[name] = {metric: torch.stack([row[metric] for row in rows]) for metric in rows[0]}
    return found


def perceptual_distance(
    net: nn.Module,
    image_shape: Sequence[int],
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> Callable[[Tensor, Tensor], Tensor]:
    """A distance between images by a network, checked on two black images.

    Args:
        net: from two batches of images in [-1, 1] to their distances (n,), such as ``nn.LPIPS``; it
            is left in evaluation mode.
        image_shape: channels, height and width.
        batch_size: pairs at once.
        device: where the network runs.

    Returns:
        Function of two batches of images (n, C, H, W) to distances (n,), on the CPU.

    Raises:
        ConfigurationError: if the network does not take such images, or returns something else.
    """
    net = net.to(device).eval()

    @torch.no_grad()
    def distance(x: Tensor, y: Tensor) -> Tensor:
        pairs = zip(x.float().split(batch_size), y.float().split(batch_size), strict=True)
        found = [torch.as_tensor(net(a.to(device), b.to(device))).cpu() for a, b in pairs]
        if any(part.numel() != len(a) for part, a in zip(found, x.split(batch_size), strict=True)):
            raise ConfigurationError(
                f"perceptual {type(net).__name__} returned shape {tuple(found[0].shape)} for "
                f"{min(batch_size, len(x))} pairs of images; it must return a distance for each"
            )
        distances = torch.cat([part.double().reshape(-1) for part in found])
        if not bool(distances.isfinite().all()):
            raise ConfigurationError(
                f"perceptual {type(net).__name__} returned a distance that is no finite number; "
                "check its weights"
            )
        return distances

    black = -torch.ones(2, *image_shape)
    try:
        distance(black, black)
    except (TypeError, RuntimeError, ValueError) as error:
        raise ConfigurationError(
            f"perceptual {type(net).__name__} cannot compare two batches of images of shape "
            f"{tuple(image_shape)}: {error}; give a network of two batches in [-1, 1], such as "
            "lightning_priv.nn.LPIPS"
        ) from error
    return distance


def image_error(preds: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each image, of pixels in [0, 1]; shapes (n, ...) in [-1, 1] to (n,)."""
    return ((preds.double() - target.double()) / 2).square().flatten(1).mean(1)


class LabelAgreement(Metric):
    """Share of reconstructions that a classifier takes for the class of their target.

    Example:
        >>> metric = LabelAgreement()
        >>> metric.update(torch.tensor([1, 2, 3]), torch.tensor([1, 2, 0]))
        >>> round(float(metric.compute()), 3)
        0.667
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    agreed: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("agreed", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add classes of reconstructions and of their targets, shape (n,) each."""
        if preds.shape != target.shape:
            raise ValueError(f"{preds.shape} classes for {target.shape} targets")
        self.agreed += (preds == target).sum()
        self.total += target.numel()

    def compute(self) -> Tensor:
        """The share."""
        return self.agreed.double() / self.total


class AuditGain(Metric):
    """What an attack gains over guessing the prior's mean: 1 - MSE / MSE of the guess.

    0: the observation told the attacker nothing; 1: the image is known; below 0: worse than a
    guess.

    Args:
        guess: the guess, in the images' range, shape (C, H, W).

    Example:
        >>> metric = AuditGain(torch.zeros(1, 2, 2))
        >>> metric.update(0.5 * torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
        >>> float(metric.compute())
        0.75
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    error: Tensor
    guessed: Tensor

    def __init__(self, guess: Tensor) -> None:
        super().__init__()
        self.register_buffer("guess", guess.double(), persistent=False)
        self.add_state("error", torch.zeros((), dtype=torch.double), dist_reduce_fx="sum")
        self.add_state("guessed", torch.zeros((), dtype=torch.double), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add reconstructions and their targets, shape (n, C, H, W) each."""
        if preds.shape != target.shape:
            raise ValueError(f"preds {tuple(preds.shape)} and target {tuple(target.shape)} differ")
        guess: Tensor = self.guess  # type: ignore[assignment]
        self.error += (preds.double() - target.double()).square().sum()
        self.guessed += (guess - target.double()).square().sum()

    def compute(self) -> Tensor:
        """The gain."""
        return 1 - self.error / self.guessed
