"""From Mean to Extreme: the closed forms of its official code at the paper's settings."""

from lightning_priv.workflows.reproduce.study import Experiment, Number, Step, Study

_FORM = "official closed forms"
_AT = ("noise_multiplier", 0.01)


def _step(config: str, *words: str) -> tuple[Step, ...]:
    return (Step("bounds", config, words),)


def _psnr(name: str, gamma: float, published: float, source: str) -> Experiment:
    number = Number("psnr", published, source=source, unit="dB", where=_AT)
    return Experiment(name, _step("bounds_cifar10.yaml", "--gamma", str(gamma)), (number,))


_EXPERIMENTS = (
    # success probability 0.05: the PSNR that only 5 % of the attacks pass
    _psnr("cifar10_best_5_percent", 0.05, 40.09808598415, f"{_FORM}, PSNR at 95 %"),
    _psnr("cifar10_median", 0.5, 39.91451506959, f"{_FORM}, PSNR at 50 %"),
    _psnr("cifar10_worst_5_percent", 0.95, 39.73349453644, f"{_FORM}, PSNR at 5 %"),
    Experiment(
        "cifar10_grey",
        _step("bounds_cifar10_grey.yaml"),
        (
            Number(
                "mse",
                0.005,
                source=f"{_FORM}, reached with probability 0.25699291301717014",
                where=("noise_multiplier", 0.1),
            ),
        ),
    ),
    Experiment(
        "norm_27",
        _step("bounds_norm.yaml", "--noise_multiplier", "0.003783222717186654"),
        (Number("psnr", 20.0, source=_FORM, unit="dB", where=("max_norm", 27.0)),),
    ),
    Experiment(
        "identification_full_step",
        _step("bounds_corridor.yaml", "--target_success=null", "--noise_multiplier=0.5",
              "--out=null"),
        (
            Number(
                "identification",
                0.7169900891108114,
                source="reconstruction robustness, Gaussian mechanism, one of 13",
            ),
        ),
    ),
    Experiment(
        "identification_subsampled",
        _step("bounds_steps.yaml"),
        tuple(
            Number(
                "identification",
                published,
                source=f"reconstruction robustness, sampled at 0.001, {steps:,.0f} steps",
                where=("steps", steps),
            )
            for steps, published in ((1e4, 0.125252), (1e6, 0.510964876))
        ),
    ),
)  # fmt: skip

STUDY = Study(
    "bounds",
    "From Mean to Extreme (arXiv 2402.12861)",
    _EXPERIMENTS,
    _EXPERIMENTS,
    "nothing: no data, no training, half a minute",
    "The published numbers are the values of the official closed forms, not of simulated attacks.",
)
