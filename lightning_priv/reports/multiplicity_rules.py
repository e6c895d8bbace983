"""Decision rules in words."""

from lightning_priv.functional.multiplicity import Rule

__all__ = ["rule_guarantee", "rule_name"]


def rule_name(rule: Rule) -> str:
    """The rule with the options that matter to it, for example ``threshold (tau 0.8)``."""
    options = {
        "threshold": ("tau",),
        "mean_prob": ("tau",),
        "binomial": ("alpha",),
        "conformal": ("alpha",),
        "self_consistency": ("kappa",),
        "calibrated": ("target_risk", "target_coverage"),
    }.get(rule.name, ())
    shown = [f"{o} {getattr(rule, o):g}" for o in options if getattr(rule, o) is not None]
    return f"{rule.name} ({', '.join(shown)})" if shown else rule.name


def rule_guarantee(rule: Rule) -> str:
    """What is known of a rule's decisions on new samples, in a sentence or two."""
    if rule.name == "binomial":
        return (
            "A class that is decided is the one that most models trained in this way would give, "
            f"with a probability of at least {1 - rule.alpha:g} over the members; so two "
            "independent ensembles contradict each other on a sample with a probability of at "
            f"most {2 * rule.alpha:g} (exact for two classes)."
        )
    if rule.name == "conformal":
        return (
            "On new samples like those that calibrated it, the set of classes holds the true one "
            f"with a probability of at least {1 - rule.alpha:g}; a sample is decided if the set "
            "has one class. The error on the decided samples alone has no such bound."
        )
    if rule.name == "calibrated":
        what, limit = (
            ("the error on the decided samples is at most", rule.target_risk)
            if rule.target_risk is not None
            else ("the share of decided samples is at least", rule.target_coverage)
        )
        return (
            f"With a confidence of {1 - rule.delta:g} over the samples that calibrated it, {what} "
            f"{limit:g} on new samples like these."
        )
    return "This rule comes without a statistical guarantee."
