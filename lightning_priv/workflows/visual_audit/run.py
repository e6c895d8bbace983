"""The audit itself: targets, noise levels, attacks, scores, files."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_priv.callbacks.audit_media import log_audit
from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.audit import (
    AuditStudy,
    GaussianPrior,
    Observed,
    PixelRange,
    image_hashes,
    observe_simulated,
    overlap_note,
    shared_images,
)
from lightning_priv.functional.gaussian_dp import gdp_mu
from lightning_priv.metrics.audit import perceptual_distance, study_scores
from lightning_priv.models.diffusion import DiffusionPrior
from lightning_priv.nn.audit_run import (
    network_calls,
    refuse_equal_names,
    run_attack,
    timesteps_of,
    with_estimated_norms,
    with_prior_mean,
)
from lightning_priv.nn.denoisers import DDIM, MMSE
from lightning_priv.nn.reconstructors import (
    Clamp,
    EmpiricalBayes,
    Identity,
    PriorMean,
    Reconstructor,
    Wiener,
)
from lightning_priv.reports.audit import laws_of, summary_rows, write_audit

from .options import Options
from .prior import ready_prior
from .shift import check_shape, prior_shift

__all__ = ["AuditResult", "run"]


@dataclass(frozen=True)
class AuditResult:
    """What came of it.

    Attributes:
        study: targets, observations, estimates, scores.
        report: the report's file.
    """

    study: AuditStudy
    report: Path


def run(
    trainer: Trainer, model: LightningModule, datamodule: LightningDataModule, options: Options
) -> AuditResult | None:
    """Audit, on rank zero.

    Args:
        trainer: trains the prior if need be; its device, loggers and ``default_root_dir`` are used.
        model: a ``DiffusionPrior``.
        datamodule: its test samples are the targets, its training samples the adversary's images.
        options: see there.

    Returns:
        The result; None on other ranks.

    Raises:
        ConfigurationError: if parts do not fit together, or targets are among the prior's images.
    """
    if not isinstance(model, DiffusionPrior):
        raise ConfigurationError(
            f"the model of an audit is the adversary's prior, a DiffusionPrior, not a "
            f"{type(model).__name__}; to audit a training of your own, put the callback "
            "ReconstructionAudit into its trainer"
        )
    levels = _noise_multipliers(options)
    device = trainer.strategy.root_device
    perceptual = None
    if options.perceptual is not None:  # before a prior is trained
        perceptual = perceptual_distance(
            options.perceptual, model.network.image_shape, options.batch_size, device
        )
    cache = None if options.prior_cache is None else Path(options.prior_cache)
    prior = ready_prior(trainer, model, datamodule, cache)
    if not trainer.is_global_zero:
        return None
    datamodule.prepare_data()
    datamodule.setup("test")
    prior = prior.to(device).eval()
    network = prior.average
    records, names = _take(datamodule.test_dataset, options.targets)  # type: ignore[attr-defined]
    check_shape(records, network.image_shape)
    targets = model.units.images_to_prior(records)
    notes = [overlap_note(targets, prior.hashes, options.allow_overlap)]
    images, labels = _references(datamodule, prior, model.units, options)
    if images is not None:
        notes.append(_shared_note(images, targets, options.allow_overlap))
    attacks = _attacks(options, images)
    for attack in attacks:
        attack.prepare(None if images is None else images.to(device), network)
    norms = records.flatten(1).norm(dim=1)
    seen = [observe_simulated(records, s, model.units, options.seed) for s in levels]
    if not options.known_norm:
        typical = model.units.from_prior(images if images is not None else prior.sample(256).cpu())
        start = float(typical.flatten(1).norm(dim=1).mean())
        seen = [
            with_estimated_norms(level, norms, model.units, network, start, device=device)
            for level in seen
        ]
    estimates = _run_all(attacks, seen, options, device)
    classify = _classifier(options, images, labels, model, device)
    study = AuditStudy(
        targets,
        norms,
        seen,
        estimates,
        study_scores(estimates, seen, targets, images, classify, perceptual),
        timesteps_of(network, [_on_cpu(level) for level in seen]),
        None if images is None else GaussianPrior.from_images(images / 2).eigenvalues,
        options.delta,
        options.kappa,
        _facts(prior, datamodule, options, records, targets, names, images),
        [note for note in notes if note],
    )
    return _write(trainer, study, prior, options, device)


def _noise_multipliers(options: Options) -> list[float]:
    mu = list(options.mu)
    if options.epsilon is not None:
        mu = [float(gdp_mu(e, options.delta)) for e in options.epsilon]
    return [1 / m for m in sorted(set(mu))]


def _take(dataset: Any, count: int) -> tuple[Tensor, Tensor]:
    """``count`` evenly spaced samples: inputs and labels."""
    total = len(dataset)
    chosen = torch.linspace(0, total - 1, min(count, total)).round().long().unique().tolist()
    samples = [dataset[i] for i in chosen]
    x = torch.stack([torch.as_tensor(sample[0]) for sample in samples])
    return x, torch.tensor([int(sample[1]) for sample in samples])


def _shared_note(images: Tensor, targets: Tensor, allowed: bool) -> str:
    """What a reader has to know about targets among the adversary's images."""
    shared = int(shared_images(targets, image_hashes(images)).sum())
    if shared and not allowed:
        raise ConfigurationError(
            f"{shared} of {len(targets)} targets are among the adversary's images; take other "
            "targets, or allow_overlap: true"
        )
    return f"{shared} targets are among the adversary's images." if shared else ""


def _references(
    datamodule: LightningDataModule, prior: DiffusionPrior, units: PixelRange, options: Options
) -> tuple[Tensor | None, Tensor | None]:
    """The adversary's images in [-1, 1], with labels where there are any."""
    if options.references == "none":
        return None, None
    if options.references == "samples":
        generator = torch.Generator().manual_seed(options.seed)
        return prior.sample(min(options.max_references, 512), generator=generator).cpu(), None
    data: Any = datamodule
    x, labels = _take(data.plain_train_dataset, options.max_references)
    return units.images_to_prior(x), labels


def _attacks(options: Options, images: Tensor | None) -> list[Reconstructor]:
    if options.methods is not None:
        attacks = with_prior_mean(options.methods, images)
    else:
        attacks = [Identity(), Clamp(), PriorMean(), Wiener(), EmpiricalBayes(), MMSE(), DDIM()]
        if images is None:
            attacks = [attack for attack in attacks if not attack.uses_images]
    refuse_equal_names(attacks)
    return attacks


def _run_all(
    attacks: Sequence[Reconstructor],
    seen: Sequence[Observed],
    options: Options,
    device: torch.device,
) -> dict[str, Tensor]:
    calls = sum(map(network_calls, attacks)) * len(seen) * len(seen[0].y)
    rank_zero_info(
        f"audit: {len(attacks)} attacks on {len(seen[0].y)} targets at {len(seen)} noise levels, "
        f"{calls} network calls for single images"
    )
    found = {}
    for attack in attacks:
        begin = time.monotonic()
        found[attack.name] = run_attack(attack, seen, options.batch_size, options.seed, device)
        rank_zero_info(f"audit: {attack.name} in {time.monotonic() - begin:.1f} s")
    return found


def _classifier(
    options: Options,
    images: Tensor | None,
    labels: Tensor | None,
    model: DiffusionPrior,
    device: torch.device,
) -> Callable[[Tensor], Tensor] | None:
    """Images in [-1, 1] to classes, by the given network or a support vector machine."""
    if options.classifier is not None:
        net = options.classifier.to(device).eval()

        @torch.no_grad()
        def by_network(x: Tensor) -> Tensor:
            found: Tensor = net(model.units.from_prior(x.to(device))).argmax(1).cpu()
            return found

        return by_network
    if images is None or labels is None or len(labels.unique()) < 2 or images[0].numel() > 4096:
        return None
    from sklearn.svm import SVC

    machine = SVC(C=10).fit(images.flatten(1).numpy(), labels.numpy())
    return lambda x: torch.from_numpy(machine.predict(x.clamp(-1, 1).flatten(1).numpy()))


def _facts(
    prior: DiffusionPrior,
    datamodule: LightningDataModule,
    options: Options,
    records: Tensor,
    targets: Tensor,
    labels: Tensor,
    images: Tensor | None,
) -> dict[str, str]:
    references = 0 if images is None else len(images)
    known = "unknown"
    if prior.hashes is not None:
        shared = int(shared_images(targets, prior.hashes).sum())
        known = f"{len(prior.hashes)} images, {shared or 'none'} of the targets among them"
    return {
        "targets": f"{len(records)} test images of {type(datamodule).__name__}, shape "
        f"{tuple(records.shape[1:])}, {len(labels.unique())} classes",
        "input range of the audited network": f"[{float(records.min()):.3g}, "
        f"{float(records.max()):.3g}]; norms {float(records.flatten(1).norm(dim=1).min()):.3g} to "
        f"{float(records.flatten(1).norm(dim=1).max()):.3g}",
        "prior": f"{prior.path or 'trained here'} "
        f"({sum(p.numel() for p in prior.average.parameters()):,} parameters, prediction "
        f"{prior.average.schedule.prediction})",
        "prior's training data": known,
        "adversary's images": f"{references} ({options.references})",
        "norm of the record": "known to the attacker" if options.known_norm else "estimated",
        "noise": "simulated: that of one step in which the record takes part, at the optimum of "
        "the attack without a prior",
        "seed": str(options.seed),
    }


def _on_cpu(level: Observed) -> Observed:
    return Observed(level.noise_multiplier, level.y.cpu(), level.noise_std.cpu(), level.simulated)


def _write(
    trainer: Trainer,
    study: AuditStudy,
    prior: DiffusionPrior,
    options: Options,
    device: torch.device,
) -> AuditResult:
    folder = Path(options.dirpath or Path(trainer.default_root_dir) / "audit")
    more = []
    if options.other_priors:
        shift = prior_shift(
            study, prior, options.other_priors, options.batch_size, options.seed, device
        )
        caption = (
            "The same observations, reconstructed by adversaries with different ideas of pictures, "
            "against how badly each idea describes the targets."
        )
        more.append(("prior_shift", caption, shift))
    report = write_audit(study, folder, None, 8, more)
    laws = laws_of(study)
    last = summary_rows(study, laws)
    for logger in trainer.loggers:
        for level in study.levels:
            values = {
                f"audit/{row.attack.replace(' ', '_')}/{row.metric}": row.mean
                for row in last
                if row.mu == level.mu
            }
            logger.log_metrics({**values, "audit/mu": level.mu})
        logger.save()
    log_audit(trainer, study, folder)
    return AuditResult(study, report)
