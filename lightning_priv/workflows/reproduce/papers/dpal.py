"""Differentially Private Active Learning; its tables and figures could not be read."""

from lightning_priv.workflows.reproduce.study import Experiment, Number, Step, Study

_RUNS = (
    "cifar10_random", "cifar10_entropy", "cifar10_least_confidence", "cifar10_margin",
    "cifar10_bald", "bloodmnist_random", "bloodmnist_entropy", "octmnist_random",
    "octmnist_entropy", "chexpert_random", "chexpert_entropy", "snli_random", "snli_entropy",
)  # fmt: skip
_BUDGET = Number("privacy/epsilon", expected="8 at most, for every record")


def _run(name: str) -> Experiment:
    # several findings of CheXpert in one picture: there is no single accuracy
    metric = "test/auroc" if name.startswith("chexpert") else "test/accuracy"
    numbers = (Number(metric, unit="%", scale=100.0, expected="uncertainty above random"), _BUDGET)
    step = Step("active-learn", f"dpal_{name}.yaml")
    return Experiment(name, (step,), numbers, name.partition("_")[0], seeds=5)


_PLAN = Experiment(
    "plan",
    (Step("plan", "plan_cifar10.yaml"),),
    (
        Number("noise_multiplier", expected="that of the base schedule"),
        Number("epsilon_envelope", expected="8 at most, whatever is chosen"),
    ),
)
_FEW = (
    "--plan.epochs", "1", "--plan.queries", "[20]", "--plan.epsilon_acquisition", "1.0",
    "--trainer.enable_progress_bar", "false",
)  # fmt: skip


def _fast(name: str, *words: str) -> Experiment:
    numbers = (Number("test/accuracy", unit="%", scale=100.0), _BUDGET)
    step = Step("active-learn", "demo/dpal_digits.yaml", (*_FEW, *words))
    return Experiment(name, (step,), numbers, "digits")


STUDY = Study(
    "dpal",
    "Differentially Private Active Learning (SaTML 2025, arXiv 2410.00542)",
    (_PLAN, *(_run(name) for name in _RUNS)),
    (
        _PLAN,
        _fast("digits_entropy"),
    ),
    "CIFAR-10, BloodMNIST, OCTMNIST, CheXpert and SNLI with BERT features, a GPU for days",
    "No table of the paper is available: what it claims stands in the place of its numbers.",
)
