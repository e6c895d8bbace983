"""What a dashboard shows of a run, part by part: one list for W&B and for our own page."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

__all__ = ["GROUPS", "Chart", "Group", "group_of"]


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves in one panel.

    Attributes:
        title: its title.
        metrics: names or patterns of logged numbers.
        log: logarithmic vertical axis.
    """

    title: str
    metrics: tuple[str, ...]
    log: bool = False

    def shows(self, metric: str) -> bool:
        """Whether a logged number is among the curves."""
        return any(fnmatchcase(metric, pattern) for pattern in self.metrics)


@dataclass(frozen=True, slots=True)
class Group:
    """Panels of one part.

    Attributes:
        title: heading.
        prefixes: first parts of the names that belong to it.
        charts: its curves.
        scalars: names of numbers that are shown large.
        step: logged number on the horizontal axis; else the training step.
        media: figures, images and tables by which W&B finds them.
    """

    title: str
    prefixes: tuple[str, ...]
    charts: tuple[Chart, ...] = ()
    scalars: tuple[str, ...] = ()
    step: str | None = None
    media: tuple[str, ...] = ()


#: In the order in which they are shown.
GROUPS: tuple[Group, ...] = (
    Group(
        "Training and test",
        ("train", "val", "test", "curves", "results_fit", "results_validate", "results_test"),
        (
            Chart("Loss", ("train/loss", "train/loss_epoch", "val/loss")),
            Chart("Accuracy", ("train/accuracy", "val/accuracy")),
            Chart("Calibration error", ("train/ece", "val/ece")),
        ),
        ("test/accuracy", "val/accuracy"),
        media=("curves", "test/confusion", "test/robustness"),
    ),
    Group(
        "Privacy budget",
        ("privacy",),
        (
            Chart("Epsilon", ("privacy/epsilon", "privacy/epsilon_pld", "privacy/epsilon_rdp")),
            Chart("Budget left", ("privacy/budget_left",)),
        ),
        ("privacy/epsilon", "privacy/delta", "privacy/noise_multiplier"),
        step="privacy/steps",
        media=("privacy/curve",),
    ),
    Group(
        "Diagnostics that epsilon does not cover",
        ("private",),
        (
            Chart("Clipped share", ("private/clipped_fraction",)),
            Chart("Gradient norms", ("private/grad_norm_median", "private/grad_norm_max"), True),
            Chart("Batch size", ("private/batch_size",)),
        ),
    ),
    Group(
        "Reconstruction risk",
        ("risk",),
        (
            Chart("PSNR of an attack", ("risk/psnr", "risk/guess_psnr", "risk/measured_psnr")),
            Chart(
                "Identification among candidates",
                ("risk/identification", "risk/identification_lower", "risk/prior_success"),
            ),
        ),
        ("risk/psnr", "risk/identification"),
        media=("risk/corridor",),
    ),
    Group(
        "Audit",
        ("audit",),
        (Chart("PSNR of reconstructions", ("audit/psnr", "audit/*/psnr")),),
        ("audit/mu", "audit/noise_std", "audit/noise_flags"),
        media=("audit/overview", "audit/risk", "audit/summary"),
    ),
    Group(
        "Active learning",
        ("active",),
        (
            Chart("Accuracy over labels", ("active/*accuracy",)),
            Chart("Epsilon over labels", ("active/*epsilon*",)),
        ),
        ("active/labelled", "active/round"),
        step="active/labelled",
        media=("active/curve", "active/queried", "active/curve_table", "active/cohorts"),
    ),
    Group(
        "Sample information",
        ("lsi",),
        (
            Chart("Mean and largest", ("lsi/mean", "lsi/max"), True),
            Chart("Finding corrupted samples", ("lsi/auroc/*",)),
        ),
        ("lsi/mean", "lsi/max"),
        media=("lsi/extremes", "lsi/ranking", "lsi/classes", "lsi/radius"),
    ),
    Group(
        "Multiplicity and abstention",
        ("multiplicity",),
        (
            Chart(
                "Disagreement",
                ("multiplicity/ambiguity", "multiplicity/discrepancy",
                 "multiplicity/pairwise_disagreement"),
            ),
            Chart("Decided cases",
                  ("multiplicity/abstain/coverage", "multiplicity/abstain/selective_risk")),
        ),
        ("multiplicity/members", "multiplicity/unanimous_coverage", "multiplicity/abstain/coverage",
         "multiplicity/abstain/selective_risk"),
        media=("multiplicity/consensus", "multiplicity/conflict", "multiplicity/risk_coverage",
               "multiplicity/contested"),
    ),
    Group(
        "Hyperbolic geometry",
        ("lorentz", "latent"),
        (
            Chart("Radius", ("lorentz/*/radius_q50", "lorentz/*/radius_max")),
            Chart("Curvature parameter", ("lorentz/k", "lorentz/k_*")),
            Chart("Spread", ("lorentz/*/spread",)),
        ),
        ("lorentz/k", "lorentz/few_shot_accuracy", "lorentz/outlier_auroc",
         "lorentz/hierarchy_p_value", "lorentz/radius_confidence"),
        media=("lorentz/radius", "lorentz/hierarchy", "lorentz/superclasses", "lorentz/disk",
               "lorentz/umap", "lorentz/delta", "latent/disk", "latent/radius",
               "latent/reconstruction", "latent/samples",
               "latent/interpolation"),
    ),
)  # fmt: skip


def group_of(key: str, groups: Iterable[Group] = GROUPS) -> Group | None:
    """The group that a logged number, figure or table belongs to; None if there is none.

    Args:
        key: its name, such as ``privacy/epsilon``.
        groups: where to look.

    Example:
        >>> group_of("risk/psnr").title
        'Reconstruction risk'
    """
    first = key.split("/")[0].split("-")[0]  # media with a step are called key-00000010
    return next((group for group in groups if first in group.prefixes), None)
