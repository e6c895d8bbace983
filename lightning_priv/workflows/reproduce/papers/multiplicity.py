"""On Arbitrary Predictions from Equally Valid Models; its tables are not available."""

from lightning_priv.workflows.reproduce.study import FEW_STEPS, Experiment, Number, Step, Study

# the findings in kind; each is a number of a set of equally good models
_FINDINGS = (
    Number("multiplicity/ambiguity", unit="%", scale=100.0, expected="above 0: arbitrary"),
    Number("multiplicity/pairwise_disagreement", unit="%", scale=100.0, expected="above 0"),
    Number("multiplicity/coverage", unit="%", scale=100.0, expected="most cases are decided"),
    Number("multiplicity/selective_risk", unit="%", scale=100.0, expected="below the error of all"),
)


def _study(name: str, config: str, data: str, *words: str) -> Experiment:
    return Experiment(name, (Step("multiplicity", config, words),), _FINDINGS, data)


def _fast(name: str, members: str) -> Experiment:
    words = ("--members", members, "--drivers", "0", "--widths", "null", "--epsilons", "null")
    step = Step("multiplicity", f"demo/multiplicity_{name}.yaml", (*FEW_STEPS, *words))
    return Experiment(name, (step,), _FINDINGS[:2], name)


STUDY = Study(
    "multiplicity",
    "On Arbitrary Predictions from Equally Valid Models (arXiv 2507.19408)",
    (
        _study("bloodmnist", "multiplicity_medmnist.yaml", "bloodmnist"),
        _study("cifar10", "multiplicity_cifar10.yaml", "cifar10"),
        _study("breast_cancer", "demo/multiplicity_breast_cancer.yaml", "breast_cancer"),
    ),
    (_fast("breast_cancer", "3"),),
    "BloodMNIST and CIFAR-10, a GPU",
    "No table of the paper is available: its findings are compared in kind.",
)
