"""Fitting a decision rule to the votes of a validation set."""

from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.multiplicity import Rule
from lightning_priv.reports.multiplicity_votes import Votes

__all__ = ["fitted"]


def fitted(rule: Rule, votes: Votes) -> tuple[Rule, tuple[Rule, ...]]:
    """Fit a rule that needs it: for classes the rule itself, for labels one rule a label.

    Args:
        rule: the rule.
        votes: on samples with targets.

    Returns:
        The rule, and the rules of the labels, of which there are none unless these were fitted.

    Raises:
        ConfigurationError: if the samples have no targets.
    """
    if not rule.needs_calibration:
        return rule, ()
    if votes.target is None:
        raise ConfigurationError(
            f"the rule {rule.name!r} is fitted on validation samples with targets; these have none"
        )
    labels, probs = votes.labels(), votes.metric_probs.double()
    if not votes.multilabel:
        return rule.fit(labels, votes.target, probs), ()
    single = [
        rule.fit(labels[..., q], votes.target[:, q], probs[..., q]) for q in range(labels.shape[-1])
    ]
    return rule, tuple(single)
