"""Laplace Sample Information; its tables are not available."""

from lightning_priv.workflows.reproduce.study import FEW_STEPS, Experiment, Number, Step, Study

_MEAN = Number("lsi/mean", unit="nats")
_MISLABELLED = tuple(
    Number(f"lsi/auroc/{score}", expected="wrong labels have high scores", unit="AUROC")
    for score in ("lsi_full", "lsi_diag", "el2n")
)


def _scores(name: str, config: str, data: str, *words: str) -> Experiment:
    return Experiment(name, (Step("lsi", config, words),), (_MEAN,), data)


def _mislabelled(name: str, *words: str) -> Experiment:
    step = Step("lsi", "demo/lsi_mislabel_digits.yaml", words)
    return Experiment(name, (step,), _MISLABELLED, "digits")


STUDY = Study(
    "lsi",
    "Laplace Sample Information (ICLR 2025, arXiv 2505.15303)",
    (
        _scores("cifar10", "lsi_cifar10.yaml", "cifar10"),
        _scores("cifar10_published_way", "lsi_paper.yaml", "cifar10"),
        _scores("cifar100", "lsi_cifar100.yaml", "cifar100"),
        _scores("imagenette", "lsi_imagenette.yaml", "imagenette"),
        _scores("imdb", "lsi_imdb.yaml", "imdb"),
        _mislabelled("mislabelled_digits"),
    ),
    (
        _mislabelled(
            "mislabelled_digits",
            *FEW_STEPS,
            *("--max_samples", "600", "--figures", "false", "--baselines", "[el2n]"),
        ),
    ),
    "CIFAR-10, CIFAR-100, Imagenette and IMDb, ImageNet weights of a ResNet-18, weights of BERT",
    "No table of the paper is available. LSI is not better than EL2N at finding wrong labels on a "
    "linear probe; the table shows both.",
)
