"""What an attacker recovers from the steps of a running private training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.audit import (
    AuditStudy,
    GaussianPrior,
    NoiseReport,
    Observed,
    PixelRange,
    Release,
    observe_simulated,
)
from lightning_priv.metrics.audit import perceptual_distance, study_scores
from lightning_priv.nn.audit_run import run_attack, timesteps_of, with_estimated_norms
from lightning_priv.nn.leak import ImprintLayer, LeakLayer
from lightning_priv.nn.reconstructors import Reconstructor
from lightning_priv.protocols import is_private, missing_members
from lightning_priv.reports.audit import write_audit

from ._adversary import Adversary
from ._observations import Observations, Step
from ._once import OnceCallback
from .audit_media import log_audit
from .media import run_directory

__all__ = ["ReconstructionAudit"]


class ReconstructionAudit(OnceCallback):
    """Attacks the noised gradients of a private training, and tests whether they are noised right.

    The network must stand behind a ``lightning_priv.nn.LeakLayer``, the malicious server's part, or
    an ``ImprintLayer``, which tells the records of a batch apart. On every ``every_n_steps``-th
    step the gradient that the strategy releases is read once, after clipping, noise and division,
    before the update. At the end of ``fit``, below the run's directory in ``audit``:

    * pictures, figures, tables and ``report.html`` of what each attack recovers at the noise of the
      run, and at ``noise_levels``, which are simulated and marked so;
    * the audit of the noise: its size with an interval, tests for Gaussianity and independence, and
      a lower bound on mu from one record a step; with ``lightning_priv.data.Canaries`` also one on
      the epsilon of the whole run, for which ``every_n_steps`` should be 1.

    Training is not changed: parameters are the same to the last bit with and without it. The files
    show training records, which no epsilon covers: they are for the owner of the data. Loggers get
    ``audit/...`` only with ``log_private``.

    Args:
        prior: directory of a diffusion prior on this machine; without one only the attacks that
            need none are made.
        null_label: class that stands for "no class", for a class-conditional prior.
        methods: attacks; default: observation, clamp, prior mean, Wiener, and with a prior mmse
            and ddim.
        every_n_steps: how often a step is read.
        max_targets: records to reconstruct.
        noise_levels: further privacy levels mu, simulated.
        known_norm: the attacker knows the norms of records, the worst case.
        references: samples of the data module that the adversary has for mean and covariance.
        pixel_mean: mean that was subtracted from pixels in [0, 1] before the network.
        pixel_std: what they were divided by.
        noise_audit: test the noise.
        false_alarm: largest probability that correct noise is flagged.
        kappa: chance of guessing the right record among candidates.
        perceptual: network from two batches of images in [-1, 1] to distances, with weights of your
            own: ``lightning_priv.nn.LPIPS``.
        allow_overlap: let targets be among the prior's training images.
        log_private: also log under ``audit/``.
        seed: of simulated noise and of attacks; the training's generators are never used.
        dirpath: where the files go; default: ``audit`` below the run's directory.

    Raises:
        ConfigurationError: at the start of ``fit``, if the training is not private, has no leak
            layer, or the prior does not fit.
    """

    def __init__(
        self,
        prior: str | None = None,
        null_label: int | None = None,
        methods: list[Reconstructor] | None = None,
        every_n_steps: int = 100,
        max_targets: int = 16,
        noise_levels: list[float] | None = None,
        known_norm: bool = True,
        references: Literal["test", "val", "none"] = "test",
        pixel_mean: Sequence[float] = (0.0,),
        pixel_std: Sequence[float] = (1.0,),
        noise_audit: bool = True,
        false_alarm: float = 1e-3,
        kappa: float = 0.1,
        perceptual: torch.nn.Module | None = None,
        allow_overlap: bool = False,
        log_private: bool = False,
        seed: int = 0,
        dirpath: str | None = None,
    ) -> None:
        if every_n_steps < 1 or max_targets < 1:
            raise ValueError(
                f"every_n_steps={every_n_steps}, max_targets={max_targets}; give at least 1"
            )
        if noise_levels is not None and min(noise_levels, default=1.0) <= 0:
            raise ValueError(f"noise_levels={noise_levels}; give positive mu")
        for name, value in (("false_alarm", false_alarm), ("kappa", kappa)):
            if not 0 < value < 1:
                raise ValueError(f"{name}={value}; give a probability strictly between 0 and 1")
        self.units = PixelRange(tuple(pixel_mean), tuple(pixel_std))
        self.adversary = Adversary(prior, null_label, methods, references, known_norm, self.units)
        self.every_n_steps, self.max_targets = every_n_steps, max_targets
        self.noise_levels = noise_levels or []
        self.noise_audit, self.false_alarm, self.kappa = noise_audit, false_alarm, kappa
        self.perceptual = perceptual
        self.allow_overlap, self.log_private = allow_overlap, log_private
        self.seed, self.dirpath = seed, dirpath
        self.study: AuditStudy | None = None
        self.noise: NoiseReport | None = None
        self._idle = True
        self._hook: RemovableHandle | None = None
        self._inputs: list[Tensor] = []

    # ---------------------------------------------------------------------------------- checks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that there is something to audit, and load the prior."""
        self._idle = stage != "fit" or self.is_repeated(trainer)
        if self._idle:
            return
        strategy: Any = trainer.strategy
        missing = missing_members(strategy)
        if not is_private(strategy) or missing or not hasattr(strategy, "logical_step"):
            raise ConfigurationError(
                f"ReconstructionAudit audits private training, but the strategy is "
                f"{type(strategy).__name__}; set trainer.strategy to "
                "lightning_priv.strategies.DPSGDStrategy or remove the callback"
            )
        settings = strategy.settings
        if settings.clipping != "flat" or settings.augmentation_multiplicity != 1:
            raise ConfigurationError(
                f"ReconstructionAudit reads flat clipping of one view a record, not clipping: "
                f"{settings.clipping} with {settings.augmentation_multiplicity} views; set "
                "clipping: flat and augmentation_multiplicity: 1"
            )
        layer = self._layer(pl_module)
        if isinstance(layer, ImprintLayer) and hasattr(trainer.datamodule, "canaries"):  # type: ignore[attr-defined]
            raise ConfigurationError(
                "canaries are single bright pixels, which the neurons of an ImprintLayer do not "
                "tell apart; put the network behind a LeakLayer, or leave Canaries out"
            )
        self.adversary.load(layer.input_shape)
        self._distance = None
        if self.perceptual is not None:
            self._distance = perceptual_distance(
                self.perceptual, self._layer(pl_module).input_shape
            )
        self._observations = Observations(self.max_targets)

    def _layer(self, module: LightningModule) -> LeakLayer | ImprintLayer:
        layers = [v for v in module.modules() if isinstance(v, LeakLayer | ImprintLayer)]
        if len(layers) != 1:
            raise ConfigurationError(
                f"ReconstructionAudit found {len(layers)} leak layers; put the network behind one: "
                "class_path: lightning_priv.nn.LeakLayer (or ImprintLayer), init_args: {net: ..., "
                "input_shape: ...}"
            )
        return layers[0]

    # ------------------------------------------------------------------------------ each step

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """On a step that is to be read, watch what goes into the leak layer."""
        if self._idle or trainer.global_step % self.every_n_steps:
            return
        self._inputs = []

        def note(layer: torch.nn.Module, args: tuple[Any, ...]) -> None:
            self._inputs.append(args[0].detach())

        self._hook = self._layer(pl_module).register_forward_pre_hook(note)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Read the gradient that the strategy has just released."""
        if self._idle or self._hook is None:
            return
        self._hook.remove()
        self._hook = None
        layer = self._layer(pl_module)
        self._know_canaries(trainer)
        strategy: Any = trainer.strategy
        norms = [clipped.norms.detach().cpu() for clipped in strategy.logical_step.seen]
        gradient = layer.linear.weight.grad
        if gradient is None:
            raise ConfigurationError(
                "the leak layer has no gradient: it is frozen, or outside dp_module; let it train"
            )
        shape = (0, *layer.input_shape)
        own = (
            torch.cat([x.cpu() for x in self._inputs]) if self._inputs else torch.zeros(shape),
            torch.cat(norms) if norms else torch.zeros(0),
        )
        self._inputs = []
        parts = [own]
        if trainer.world_size > 1:
            parts = [own] * trainer.world_size
            torch.distributed.all_gather_object(parts, own)
        if not trainer.is_global_zero:
            return
        records, lengths = (torch.cat([part[k] for part in parts]) for k in (0, 1))
        if len(records) != len(lengths):
            rank_zero_warn(
                f"ReconstructionAudit leaves a step out: {len(records)} inputs of the leak layer "
                f"for {len(lengths)} gradients (records whose gradient was not finite?)"
            )
            return
        release = Release(strategy.noise_multiplier, strategy.max_grad_norm, strategy.denominator)
        step = Step(gradient.detach().cpu().clone(), records, lengths, release)
        seen = self._observations.add(layer, step)
        if seen is not None and self.log_private:
            y, _, truth = seen
            error = (y.double() - truth.double()).square().flatten(1).mean(1)
            psnr = float((-10 * error.clamp(min=1e-12).log10()).mean())
            # read by RiskCorridor, too
            pl_module.log("audit/psnr", psnr, on_step=True, rank_zero_only=True, batch_size=1)

    def _know_canaries(self, trainer: Trainer) -> None:
        canaries = getattr(getattr(trainer, "datamodule", None), "canaries", None)
        if canaries is not None and self._observations.canaries is None:
            self._observations.canaries = canaries.flatten(1).double()

    # ------------------------------------------------------------------------------- the end

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attack, score, test the noise, write."""
        if self._idle or not trainer.is_global_zero:
            return
        seen = self._observations
        if self.noise_audit:
            denominator = float(trainer.strategy.denominator)  # type: ignore[attr-defined]
            self.noise = seen.noise_report(trainer.world_size, self.false_alarm, denominator)
        for flag in () if self.noise is None else self.noise.flags:
            rank_zero_warn(f"ReconstructionAudit: {flag}")
        if not seen.records:
            rank_zero_warn("ReconstructionAudit: no audited step had a record; nothing to attack")
            return
        self.study = self._study(trainer)
        folder = Path(self.dirpath) if self.dirpath else run_directory(trainer) / "audit"
        path = write_audit(self.study, folder, self.noise)
        rank_zero_info(f"ReconstructionAudit: {path}")
        if self.log_private:
            self._log(trainer, self.study, folder)

    def _study(self, trainer: Trainer) -> AuditStudy:
        seen, units, adversary = self._observations, self.units, self.adversary
        records = torch.stack(seen.records)
        targets = units.images_to_prior(records)
        images, network = adversary.images(trainer, targets), adversary.network
        attacks = adversary.attacks(images)
        generator = torch.Generator().manual_seed(self.seed)
        y, s = units.to_prior(torch.stack(seen.y), torch.tensor(seen.noise_std), generator)
        # where sigma changed, the level is named after the most exposed target
        levels = [Observed(min(seen.noise_multipliers), y, s, False)]
        levels += [observe_simulated(records, 1 / mu, units, self.seed) for mu in self.noise_levels]
        levels.sort(key=lambda level: level.mu)
        norms = records.flatten(1).norm(dim=1)
        if not adversary.known_norm:
            if images is None:
                raise ConfigurationError(
                    f"known_norm: false needs references, but the data have no "
                    f"{adversary.references} samples"
                )
            start = float(units.from_prior(images).flatten(1).norm(dim=1).mean())
            levels = [with_estimated_norms(v, norms, units, network, start) for v in levels]
        estimates = {a.name: run_attack(a, levels, seed=self.seed) for a in attacks}
        strategy: Any = trainer.strategy
        return AuditStudy(
            targets,
            norms,
            levels,
            estimates,
            study_scores(estimates, levels, targets, images, None, self._distance),
            None if network is None else timesteps_of(network, levels),
            None if images is None else GaussianPrior.from_images(images / 2).eigenvalues,
            float(strategy.delta),
            self.kappa,
            self._facts(trainer, images),
            self._notes(targets),
        )

    def _notes(self, targets: Tensor) -> list[str]:
        own = (
            "The targets are training records: this report shows private data and is for their "
            "owner only; no epsilon covers it."
        )
        return [own, *filter(None, [self.adversary.overlap(targets, self.allow_overlap)])]

    def _facts(self, trainer: Trainer, images: Tensor | None) -> dict[str, str]:
        seen, strategy = self._observations, trainer.strategy
        private: Any = strategy
        layer = self._layer(trainer.lightning_module)
        facts = {
            "targets": f"{len(seen.records)} training records",
            "steps read": f"{len(seen.batches)}, with {min(seen.batches)} to {max(seen.batches)} "
            "records",
            "released": f"sigma {private.noise_multiplier:.4g}, clipping norm "
            f"{private.max_grad_norm:.4g}, denominator {private.denominator:.4g}, "
            f"{trainer.world_size} process(es); history {private.history}",
            "prior": self.adversary.prior or "none",
            "adversary's images": "none"
            if images is None
            else f"{len(images)} of the {self.adversary.references} samples",
            "norm of the record": "known to the attacker"
            if self.adversary.known_norm
            else "estimated",
        }
        if isinstance(layer, ImprintLayer):
            facts["imprint"] = (
                f"{layer.kind}, {len(layer.linear.weight)} neurons; {seen.alone} of "
                f"{sum(seen.batches)} records had one of their own, the others are not shown"
            )
        if seen.canary_scores is not None:
            included = trainer.datamodule.included  # type: ignore[attr-defined]
            delta = float(private.delta)
            facts["empirical lower bound of the run"] = seen.run_bound(
                included, float(private.epsilon()), delta
            )
        if len(seen.others) >= 20:
            facts["empirical lower bound of one step"] = seen.step_bound()
        return facts

    def _log(self, trainer: Trainer, study: AuditStudy, folder: Path) -> None:
        values = {}
        for k, level in enumerate(study.levels):
            for name, scores in study.scores.items():
                for metric, numbers in scores.items():
                    kind = "" if not level.simulated else f"/mu{level.mu:.3g}_simulated"
                    key = f"audit/{name.replace(' ', '_')}/{metric}{kind}"
                    values[key] = float(numbers[k].mean())
        if self.noise is not None:
            values["audit/noise_std"] = self.noise.estimate
            values["audit/noise_flags"] = float(len(self.noise.flags))
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
        log_audit(trainer, study, folder)
