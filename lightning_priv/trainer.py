"""The Trainer behind the training subcommands.

How to add a training subcommand ``foo-bar``, in three places:

1. a method ``foo_bar(self, model, datamodule, ...)`` of :class:`PrivacyTrainer` that calls one
   workflow. Its other arguments become options: types from the annotations, help from ``Args:``;
2. in ``OWN_SUBCOMMANDS`` of ``lightning_cli.py``: ``"foo_bar"``;
3. in ``lightning_priv.cli.HELP``: ``"foo_bar": "what it does"``, for the static help page.

Its own keys stand at the top level of its YAML file. Give :class:`PrivacyTrainer` no ``__init__``:
it would have to repeat every argument of Trainer.
"""

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal

from jsonargparse.typing import PositiveInt
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.nn import Module

from lightning_priv.accountants import PlanSettings
from lightning_priv.acquisition import Acquisition, Entropy, StoppingRule
from lightning_priv.callbacks.information import LSIProbe
from lightning_priv.callbacks.private_active import PrivateActiveLearning
from lightning_priv.errors import ConfigurationError
from lightning_priv.nn.reconstructors import Reconstructor
from lightning_priv.reports.information import Corruption, SampleScores
from lightning_priv.reports.information.scoring import Baseline, Covariance, Estimator, Head
from lightning_priv.workflows import private_active_learning
from lightning_priv.workflows.active_learning import Reset, RoundTraining
from lightning_priv.workflows.multiplicity import Recipe, SetCriterion

__all__ = ["PrivacyTrainer"]


class PrivacyTrainer(Trainer):
    """Lightning's Trainer with one method for each further training subcommand."""

    def lsi(
        self,
        model: LightningModule,
        datamodule: LightningDataModule,
        ckpt_path: str | None = None,
        train: bool = False,
        feature_layer: str | Callable[[Any], Tensor] = "auto",
        prior_precision: float | Literal["weight_decay", "marglik"] = 1.0,
        covariance: Sequence[Covariance] = ("full", "diag"),
        estimator: Estimator = "alo",
        head: Head = "auto",
        sketch_dim: int = 512,
        refine_top_k: int = 0,
        standardize: Literal["none", "zscore", "l2"] = "none",
        max_samples: int | None = None,
        classes: Sequence[int] | None = None,
        eval_transform: Callable[[Any], Any] | None = None,
        batch_size: int | None = None,
        dtype: Literal["float64", "float32"] = "float64",
        chunk_rows: int = 16384,
        device: str = "auto",
        baselines: Sequence[Baseline] = ("loss", "el2n", "grad_norm", "loo_loss", "cl_margin"),
        cv_folds: int = 5,
        seed: int = 0,
        protocol: Literal["paper", "matched"] = "paper",
        corrupt: Corruption | None = None,
        dirpath: str | None = None,
        keep_features: bool = False,
        log_images: int = 32,
        top_k: int = 25,
        figures: bool = True,
        wandb: bool = True,
        log_private: bool = False,
        memory_gib: float = 4.0,
        sets: str | None = None,
        sets_estimator: Literal["alo", "exact"] = "exact",
    ) -> SampleScores:
        """Score how much each training sample tells a linear probe on the network's features.

        Args:
            model: the network.
            datamodule: the samples.
            ckpt_path: weights of the network: a file, or ``last``.
            train: fit the network first, by the trainer's settings.
            feature_layer: ``auto``: the input of the linear layer that the network calls last; a
                dotted name: the output of that sub-module; or a function of the batch.
            prior_precision: lambda of the summed loss; ``weight_decay``: n times the optimizer's
                (with ``train``); ``marglik``: the lambda of largest marginal likelihood.
            covariance: covariances of the posterior to report; the first one ranks.
            estimator: how the posterior without a sample is had; ``retrain`` is the paper's loop.
            head: kind of targets; by default it follows from the labels.
            sketch_dim: random vectors of ``alo_sketch``, and of the baseline ``trak``.
            refine_top_k: compute the highest k scores again by exact leave-one-out.
            standardize: ``zscore`` standardises features, ``l2`` scales samples to length 1.
            max_samples: score only so many samples, evenly spaced.
            classes: score only samples of these classes.
            eval_transform: put in the place of the training data set's ``transform``.
            batch_size: samples in a batch of the feature extraction.
            dtype: precision of the probe.
            chunk_rows: samples that the probe works on at once.
            device: where the probe is computed; ``auto`` is a GPU if there is one.
            baselines: other scores to put beside it; ``forgetting`` needs ``train``.
            cv_folds: folds of the cross-validated baselines.
            seed: seed of sketches and folds.
            protocol: of ``retrain``: ``paper``, or ``matched`` with weight decay lambda / n.
            corrupt: a controlled corruption of what the probe is fitted to.
            dirpath: where the files go; default: below the run directory.
            keep_features: keep the features after they are scored.
            log_images: pictures in the table of the most and the least informative samples.
            top_k: rows of each end of that table.
            figures: draw figures, which takes some seconds.
            wandb: also send tables and figures to the loggers.
            log_private: also log under a private strategy, where epsilon does not cover it.
            memory_gib: larger features are read from their file in pieces.
            sets: also score whole sets: ``classes``, or a .npy file with a set number for each
                sample id (negative: none).
            sets_estimator: ``exact`` fits without each set; ``alo`` is good for small sets only.
        """
        from lightning_priv.workflows import sample_information

        options = {k: v for k, v in locals().items() if k in inspect.signature(LSIProbe).parameters}
        probe = LSIProbe(when="fit_end" if train else "manual", **options)
        scores = sample_information.run(self, model, datamodule, probe, ckpt_path, train)
        if self.is_global_zero:
            names = getattr(datamodule, "class_names", None)
            for table in sample_information.report(scores, names):
                sys.stdout.write(f"{table.render()}\n")
        return scores

    def active_learn(
        self,
        model: LightningModule,
        datamodule: LightningDataModule,
        rounds: int = 10,
        acquisition: Acquisition = Entropy(),  # noqa: B008  frozen
        plan: PlanSettings | None = None,
        allow_nonprivate_selection: bool = False,
        denominator: Literal["planned", "nominal", "initial"] = "planned",
        reinit: Literal["none", "weights", "optimizer", "both"] = "none",
        log_queries: bool = False,
        query_size: int | None = None,
        reset: Reset = "weights",
        train: RoundTraining = RoundTraining(),  # noqa: B008  frozen
        pool_subset: int | None = None,
        stopping: list[StoppingRule] | None = None,
        test: bool = True,
        monitor: str | None = None,
        feature_layer: str = "auto",
        outputs: Literal["logits", "probs"] = "logits",
        multi_label: bool = False,
        log_images: int = 8,
        compare: str | list[Acquisition] | None = None,
        seeds: int | list[int] = 5,
        mode: Literal["auto", "stacked", "separate"] = "auto",
        full_data: bool = True,
    ) -> None:
        """Label a pool round by round: train, choose the next samples, label them.

        A run goes on where it was when the same command is given again. Files are in
        ``trainer.default_root_dir``/active: ``curve.csv``, ``curve.png``, ``queries.csv``; those of
        a study with ``compare`` in ``trainer.default_root_dir``/compare.

        Args:
            model: the module.
            datamodule: an ``ActivePool`` around the data.
            rounds: rounds of choosing, labelling and training after the first training.
            acquisition: how samples are chosen.
            plan: learn under differential privacy by this plan, in one training whose phases and
                selections are all charged; needs a private strategy. Of the other arguments, only
                the next four, ``outputs``, ``multi_label`` and ``test`` then count. Files are in
                ``trainer.default_root_dir``/private_active.
            allow_nonprivate_selection: with ``plan``: choose by scores without noise; every report
                says that epsilon does not cover that.
            denominator: with ``plan``: what sums of gradients are divided by: the planned expected
                batch of each phase, the nominal one, or that of the initial phase.
            reinit: with ``plan``: start phases with the first weights, a fresh optimizer, or both.
            log_queries: with ``plan``: write pictures of chosen records, which are private data.
            query_size: labels of a round; default: that of the pool.
            reset: what a round starts from: the initial ``weights``; ``none``, the weights of the
                round before; or ``checkpoint``, its best checkpoint.
            train: how long each round trains.
            pool_subset: score so many pool samples at most, drawn at random.
            stopping: rules that end the run before all rounds are done.
            test: test after each round.
            monitor: metric of the learning curve; default: an accuracy of the test.
            feature_layer: where features come from: ``auto``, the input of the linear layer that
                the network calls last, or the dotted name of a layer.
            outputs: what the module's ``forward`` gives.
            multi_label: several labels a sample.
            log_images: pictures of each query; 0 for none.
            compare: compare several acquisitions over seeds: names such as
                ``random,entropy,bald``, or a list of acquisitions.
            seeds: of a comparison: how many, from ``seed_everything`` up, or a list.
            mode: of a comparison: ``stacked`` trains all members of a round at once, ``separate``
                one run after another, ``auto`` stacks where it can be done.
            full_data: in a comparison, also train with all labels (stacked only).
        """
        if plan is not None:
            if compare is not None or stopping:
                raise ConfigurationError(
                    "a plan with compare or stopping: its rounds and its budget are fixed before "
                    "anything is spent; leave compare and stopping out, or the plan"
                )
            learning = PrivateActiveLearning(
                plan,
                acquisition,
                allow_nonprivate_selection,
                denominator,
                reinit,
                log_queries=log_queries,
                outputs=outputs,
                multi_label=multi_label,
            )
            self._say(private_active_learning.announce(datamodule, learning))
            found = private_active_learning.run(self, model, datamodule, learning, test=test)
            self._say(private_active_learning.show(found).render())
            return
        from lightning_priv.workflows import active_learning

        given = {k: v for k, v in locals().items() if k in active_learning.Options.__annotations__}
        options = active_learning.Options(**{**given, "stopping": stopping or []})
        if compare is not None:
            first = int(os.environ.get("PL_GLOBAL_SEED", "0"))
            study = active_learning.run_study(
                self,
                active_learning.to_compare(compare),
                list(range(first, first + seeds)) if isinstance(seeds, int) else seeds,
                active_learning.RecipeMaker(self.recipe),
                options,
                mode,
                full_data,
                self._say,
            )
            active_learning.show_study(study)
            return
        result = active_learning.run(self, model, datamodule, options, self._say)
        if self.is_global_zero:
            active_learning.show(result)

    def _say(self, text: str) -> None:
        if self.is_global_zero:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()

    recipe: Recipe | None = None  # how the command line builds further models and trainers

    def multiplicity(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        members: int | list[int] | str | list[str] = 10,
        vary: list[
            Literal["init", "data_order", "bootstrap", "hyperparameters", "architecture"]
        ] = ["init", "data_order"],  # noqa: B006  never changed; the help shows it
        hyperparameters: dict[str, list[Any]] | None = None,
        architectures: list[LightningModule] | None = None,
        mode: Literal["auto", "vmap", "loop", "processes"] = "auto",
        jobs: int = 2,
        criterion: SetCriterion = SetCriterion(),  # noqa: B008  frozen
        drivers: int = 0,
        widths: list[int] | None = None,
        width_key: str | None = None,
        epsilons: list[float] | None = None,
        sweep_members: int | None = None,
        match_sensitivity: float | None = None,
        match_specificity: float | None = None,
        report_dir: str | None = None,
        allow_same_split: bool = False,
    ) -> None:
        """Train a set of equally valid models, measure their disagreement, report and abstain.

        Members are trained below ``trainer.default_root_dir``/members; those that are there
        already are not trained again. The decision rule is that of an ``EnsembleAbstention`` in
        ``trainer.callbacks``, else its default.

        Args:
            model: the module of every member.
            datamodule: the data; the set is chosen on validation samples and measured on test.
            members: how many (seeds from ``seed_everything`` up), their seeds, or a glob of
                checkpoints.
            vary: in what members differ.
            hyperparameters: values for each dotted key, such as
                ``model.init_args.optimizer.init_args.lr``; with ``vary: [hyperparameters]``.
            architectures: blocks that stand in the place of ``model``; with
                ``vary: [architecture]``.
            mode: ``vmap`` trains all at once, ``loop`` one after another, ``processes`` each in
                its own process; ``auto`` takes the faster of vmap and loop.
            jobs: processes at once.
            criterion: when a member is as good as the best.
            drivers: members of further sets in which one source varies alone; 0 for none.
            widths: widths of a capacity sweep.
            width_key: dotted key of the width; default: ``hidden`` or ``width`` of the net.
            epsilons: privacy budgets of one member; ``.inf`` trains without privacy.
            sweep_members: members at each value of a sweep; default: as many as ``members``.
            match_sensitivity: give each member the threshold that has this sensitivity on
                validation; two classes only.
            match_specificity: the same for this specificity.
            report_dir: folder of the report; default: that of the callback, else
                ``trainer.default_root_dir``/report.
            allow_same_split: let validation and test samples be the same.
        """
        from lightning_priv.workflows.multiplicity import Options, run, show

        # members are built of blocks, each under its own seed; these modules were only checked
        blocks = None if self.recipe is None else self.recipe.own["architectures"]
        if architectures and blocks is None:
            raise ValueError("architectures are blocks of the command line's configuration")
        options = Options(
            members=members,
            vary=vary,
            hyperparameters=hyperparameters,
            architectures=blocks,
            mode=mode,
            jobs=jobs,
            criterion=criterion,
            drivers=drivers,
            widths=widths,
            width_key=width_key,
            epsilons=epsilons,
            sweep_members=sweep_members,
            match_sensitivity=match_sensitivity,
            match_specificity=match_specificity,
            report_dir=report_dir,
            allow_same_split=allow_same_split,
        )
        show(run(self, model, datamodule, options, self.recipe))

    def audit(
        self,
        model: LightningModule,
        datamodule: LightningDataModule,
        mu: list[float] = [1, 2, 4, 8, 16, 32],  # noqa: B006  never changed; the help shows it
        epsilon: list[float] | None = None,
        methods: list[Reconstructor] | None = None,
        targets: PositiveInt = 16,
        batch_size: PositiveInt = 512,
        delta: float = 1e-5,
        kappa: float = 0.1,
        known_norm: bool = True,
        references: Literal["train", "samples", "none"] = "train",
        max_references: PositiveInt = 5000,
        classifier: Module | None = None,
        perceptual: Module | None = None,
        other_priors: dict[str, str] | None = None,
        prior_cache: str | None = None,
        allow_overlap: bool = False,
        seed: int = 0,
        dirpath: str | None = None,
    ) -> None:
        """Show what an attacker with a diffusion prior recovers from privatised gradients.

        No network is trained privately: the noise of one step is simulated at each privacy level.
        A prior without ``path`` is trained first, by the trainer's settings, and kept. To audit the
        steps of a training, use the callback ReconstructionAudit with ``fit``.

        Args:
            model: the adversary's prior, a ``DiffusionPrior``.
            datamodule: its test images are the targets.
            mu: privacy levels, 1 / noise multiplier of one step.
            epsilon: privacy levels as epsilon at ``delta``, in the place of ``mu``.
            methods: attacks of ``lightning_priv.nn.reconstructors`` and ``nn.denoisers``.
            targets: how many test images to reconstruct.
            batch_size: observations that an attack works on at once.
            delta: for the epsilon beside each mu.
            kappa: chance of guessing the right record among candidates.
            known_norm: the attacker knows the norm of the record, the worst case.
            references: the adversary's images for statistics and comparison: training images,
                samples of the prior, or none.
            max_references: how many of them at most.
            classifier: network from inputs to classes, for the agreement of labels; default: a
                support vector machine on the references, for small images.
            perceptual: network from two batches of images in [-1, 1] to distances, with weights of
                your own: ``lightning_priv.nn.LPIPS``.
            other_priors: name and diffusers directory of further priors, for the map of prior
                shift.
            prior_cache: where a trained prior is kept; default: ``default_root_dir``/prior.
            allow_overlap: let targets be among the prior's training images.
            seed: of noise and attacks.
            dirpath: where the files go; default: ``default_root_dir``/audit.
        """
        from lightning_priv.reports.audit import WARNING, laws_of, summary_table
        from lightning_priv.workflows import visual_audit

        names = inspect.signature(visual_audit.Options).parameters
        options = {name: value for name, value in locals().items() if name in names}
        found = visual_audit.run(self, model, datamodule, visual_audit.Options(**options))
        if found is not None:
            table = summary_table(found.study, laws_of(found.study)).render()
            sys.stdout.write(f"{table}\n{WARNING}\nreport: {found.report}\n")
