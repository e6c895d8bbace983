"""Visual Privacy Auditing with Diffusion Models; its tables are not available."""

from lightning_priv.workflows.reproduce.study import Experiment, Number, Step, Study

# at the largest privacy level mu of the file, which is the least noise
_ATTACKS = (
    Number("audit/mu"),
    Number("audit/observation/psnr", unit="dB", expected="without a prior: the formal law"),
    Number("audit/wiener/psnr", unit="dB", expected="a weak prior gains some"),
    Number("audit/mmse/psnr", unit="dB", expected="a diffusion prior gains most"),
)


def _audit(name: str, config: str, *words: str) -> Experiment:
    return Experiment(name, (Step("audit", config, words),), _ATTACKS, name)


STUDY = Study(
    "visual_audit",
    "Visual Privacy Auditing with Diffusion Models (TMLR 2025, arXiv 2403.07588)",
    (
        _audit("cifar10", "audit_cifar10.yaml"),
        _audit("celebahq", "audit_celebahq.yaml"),
        _audit("imagenet", "audit_imagenet.yaml"),
        _audit("digits", "demo/audit_digits.yaml"),
        _audit("faces", "demo/audit_faces.yaml"),
    ),
    (
        _audit(
            "digits",
            "demo/audit_digits.yaml",
            *("--trainer.max_steps", "3", "--targets", "4", "--mu", "[4, 16]"),
            *("--trainer.enable_progress_bar", "false"),
        ),
    ),
    "CIFAR-10, CelebA-HQ and ImageNet with a diffusion model of each, a GPU",
    "No table of the paper is available. Of several privacy levels the last, with the least noise, "
    "is shown; the report of each run has all.",
)
