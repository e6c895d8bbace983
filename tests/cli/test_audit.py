"""The subcommand audit and the demos of audits; the full prior is trained with the mark slow."""

import csv
import json
from pathlib import Path

import pytest
from audit_kit import ATTACKS, FEW, QUIET, save_alexnet, save_prior
from command_line import CONFIGS, CommandLine
from lightning.pytorch import LightningDataModule, Trainer

from lightning_priv.data import Digits, LFWFaces, Swapped
from lightning_priv.functional.audit import image_hashes
from lightning_priv.models import DiffusionPrior
from lightning_priv.workflows.visual_audit.prior import _key

pytestmark = pytest.mark.whole

DIGITS = CONFIGS / "demo/audit_digits.yaml"


def test_audit_in_a_few_steps_keeps_its_prior(command_line: CommandLine) -> None:
    shown = command_line.ok("audit", "--config", DIGITS, *FEW)
    folder = Path("runs/audit_digits/audit")
    assert "a lower bound on the risk" in shown
    assert shown.splitlines()[-1] == f"report: {folder / 'report.html'}"
    found = {path.name for path in folder.iterdir()}
    assert {"grid_mu4.png", "grid_mu16.png", "overview.png", "risk.png", "report.html"} <= found
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    attacks = {row["attack"] for row in rows}
    assert attacks == {
        *("observation", "clamp", "prior mean", "wiener", "empirical bayes", "mmse", "ddim-25")
    }
    assert len(rows) == len(attacks) * 2 * 4
    assert {row["simulated"] for row in rows} == {"True"}
    summary = json.loads((folder / "summary.json").read_text())
    laws = summary["laws"]
    assert laws["epsilon"][0] == pytest.approx(24.38, rel=1e-3)  # the table of the bounds
    observed = [
        row["mean"] for row in summary["summary"]
        if (row["attack"], row["metric"]) == ("observation", "mse")
    ]  # fmt: skip
    assert observed == pytest.approx(laws["no_prior"], rel=0.3)
    assert {row["metric"] for row in summary["summary"]} == {
        *("mse", "psnr", "ssim", "residual", "gain", "labels")
    }
    # the prior is not trained again, and another recipe means another prior
    weights = Path("runs/audit_digits/prior/unet/diffusion_pytorch_model.safetensors")
    before = weights.stat().st_mtime_ns
    few = ("--methods", ATTACKS)
    assert "none of the targets among them" in summary["facts"]["prior's training data"]
    command_line.ok("audit", "--config", DIGITS, *FEW, *few)
    assert weights.stat().st_mtime_ns == before
    change = ("--model.init_args.optimizer.lr", 1e-3)
    command_line.ok("audit", "--config", DIGITS, *FEW, *few, *change)
    assert weights.stat().st_mtime_ns > before


def test_a_given_prior_with_unknown_norms_other_priors_and_epsilons(
    command_line: CommandLine,
) -> None:
    given, other = save_prior(Path("given")), save_prior(Path("other"))
    shown = command_line.ok(
        *("audit", "--config", DIGITS, *FEW, "--methods", ATTACKS),
        *("--model.init_args.path", given, "--other_priors", f"{{another: {other}}}"),
        *("--known_norm", "false", "--epsilon", "[10, 200]", "--references", "train"),
    )
    assert "report: " in shown
    folder = Path("runs/audit_digits/audit")
    assert (folder / "prior_shift.png").is_file()
    facts = json.loads((folder / "summary.json").read_text())
    assert facts["laws"]["epsilon"] == pytest.approx([10, 200], rel=1e-4)
    assert facts["facts"]["norm of the record"] == "estimated"
    for file in (given, other):
        (file / "training_hashes.json").unlink()
    save_alexnet(Path("alexnet.pth"))
    command_line.ok(
        *("audit", "--config", DIGITS, *FEW, "--model.init_args.path", given),
        *("--references", "none", "--methods", "[{class_path: lightning_priv.nn.denoisers.MMSE}]"),
        *("--perceptual", "lightning_priv.nn.LPIPS", "--perceptual.weights", "alexnet.pth"),
        *("--perceptual.net", "alex", "--perceptual.resize", 64),
    )
    page = (folder / "report.html").read_text()
    assert "not known which images" in page
    assert "perceptual distance by the given network" in page
    rows = json.loads((folder / "summary.json").read_text())["summary"]
    distances = {(r["attack"], r["mu"]): r["mean"] for r in rows if r["metric"] == "perceptual"}
    assert set(distances) == {("mmse", 4.0), ("mmse", 16.0)}
    assert min(distances.values()) > 0
    with (folder / "metrics.csv").open() as file:
        assert all(float(row["perceptual"]) > 0 for row in csv.DictReader(file))


def test_what_does_not_fit_is_refused_in_one_line(command_line: CommandLine) -> None:
    given = save_prior(Path("given"))
    data = Digits()
    data.setup()
    hashes = image_hashes(2 * data.test_dataset.inputs() - 1)
    (given / "training_hashes.json").write_text(json.dumps(hashes))
    words = ("audit", "--config", DIGITS, *FEW, "--methods", ATTACKS)
    refused = command_line.run(*words, "--model.init_args.path", given)
    assert refused.code == 1
    assert "4 of 4 targets are among the images that the prior was trained on" in refused.err
    command_line.ok(*words, "--model.init_args.path", given, "--allow_overlap", "true")
    summary = json.loads(Path("runs/audit_digits/audit/summary.json").read_text())
    assert summary["facts"]["prior's training data"].endswith("4 of the targets among them")
    assert summary["notes"] == ["4 targets are among the prior's training images."]
    missing = command_line.run(*words, "--model.init_args.path", "nowhere")
    assert missing.code == 1
    assert "nothing is downloaded" in missing.err
    large = command_line.run(*words, "--model.init_args.path", save_prior(Path("large"), 16))
    assert "the prior is for (1, 16, 16)" in large.err
    twice = f"{ATTACKS[:-1]}, {ATTACKS[1:]}"
    same = command_line.run(*words[:-1], twice, "--model.init_args.path", given,
                            "--allow_overlap", "true")  # fmt: skip
    assert "two attacks have one name" in same.err
    # before a prior is trained
    for option in ("--targets", "--batch_size", "--max_references"):
        wrong = command_line.run(*words, option, 0)  # before anything is made
        assert wrong.code == 2
        assert f'"{option[2:]}"' in wrong.err
    for option, value in (("--kappa", 1), ("--delta", 0), ("--mu", "[0]"), ("--epsilon", "[-1]")):
        wrong = command_line.run(*words, option, value)
        assert wrong.code == 1
        assert f"{option[2:]}=" in wrong.err
    for distance, problem in (
        (
            (
                "lightning_priv.nn.LPIPS",
                "--perceptual.weights",
                "none.pth",
                "--perceptual.resize",
                64,
            ),
            "cannot read 'none.pth'",
        ),
        (("torch.nn.Flatten",), "perceptual Flatten cannot compare two batches of images"),
        (("torch.nn.CosineSimilarity",), "returned shape (2, 8, 8) for 2 pairs"),
    ):
        unlike = command_line.run(*words, "--perceptual", *distance)
        assert unlike.code == 1
        assert problem in unlike.err
        assert not Path("runs/audit_digits/prior").exists()


@pytest.mark.whole
def test_the_demo_of_a_private_run(command_line: CommandLine) -> None:
    prior = save_prior(Path("prior"))
    command_line.ok(
        *("fit", "--config", CONFIGS / "demo/audit_dp_run.yaml", *QUIET),
        *("--trainer.max_steps", 6, "--trainer.callbacks.init_args.prior", prior),
        *("--trainer.callbacks.init_args.methods", ATTACKS),
        # fresh noise leaves an interval of 95 % once in twenty runs
        *("--trainer.strategy.init_args.deterministic", True),
        *("--trainer.strategy.init_args.seed", 0),
    )
    folder = Path("runs/audit_dp_run/version_0/audit")
    facts = json.loads((folder / "summary.json").read_text())
    assert facts["noise"]["flags"] == []
    assert facts["noise"]["low"] < 0.125 < facts["noise"]["high"]
    assert facts["laws"]["mu"] == pytest.approx([2, 4, 8, 16])
    assert (folder / "grid_mu8_run.png").is_file()


@pytest.mark.whole
@pytest.mark.parametrize(
    ("name", "shape", "level"),
    [
        pytest.param("faces", (1, 24, 24), 32, marks=pytest.mark.slow),
        ("mnist5k", (1, 28, 28), 16),
        pytest.param("patches", (3, 32, 32), 64, marks=pytest.mark.slow),
    ],
)
def test_priors_of_other_pictures_in_a_few_steps(
    command_line: CommandLine, name: str, shape: tuple[int, ...], level: int
) -> None:
    """Trained on demand, kept, and taken from there the second time."""
    pytest.importorskip("skimage")
    words = (
        *("audit", "--config", CONFIGS / f"demo/audit_{name}.yaml", *QUIET),
        *("--trainer.max_steps", 2, "--targets", 2, "--mu", f"[{level}]", "--methods", ATTACKS),
        *("--max_references", 100, "--data.init_args.batch_size", 4),
    )
    command_line.ok(*words)
    root = Path(f"runs/audit_{name}")
    facts = json.loads((root / "audit/summary.json").read_text())
    assert f", shape {shape}, " in facts["facts"]["targets"]
    assert facts["facts"]["prior"].startswith(f"{root}/prior")
    assert facts["facts"]["prior's training data"].endswith("none of the targets among them")
    weights = root / "prior/unet/diffusion_pytorch_model.safetensors"
    before = weights.stat().st_mtime_ns
    assert "trained anew" not in command_line.ok(*words)
    assert weights.stat().st_mtime_ns == before
    again = json.loads((root / "audit/summary.json").read_text())
    assert again["facts"]["prior"].startswith(f"{root}/prior")
    assert again["summary"] == facts["summary"]


def test_a_prior_is_kept_for_its_data_and_for_those_that_they_are_made_from(
    tmp_path: Path,
) -> None:
    def key(data: LightningDataModule) -> str:
        prior = DiffusionPrior(image_shape=[1, 24, 24], block_channels=[8], norm_groups=4)
        return _key(Trainer(max_steps=3, logger=False, default_root_dir=tmp_path), prior, data)

    faces, all_pictures = (LFWFaces(side=24, faces_only=only) for only in (True, False))
    assert key(faces) == key(LFWFaces(side=24, faces_only=True))
    found = [key(d) for d in (faces, all_pictures, Swapped(faces), Swapped(all_pictures))]
    assert len(set(found)) == 4


@pytest.mark.slow
def test_the_diffusion_prior_beats_the_wiener_filter_on_digits(command_line: CommandLine) -> None:
    """192 disjoint targets, pixels in [-1, 1] for the network as in the published prototype."""
    attacks = ", ".join(
        [
            "{class_path: lightning_priv.nn.reconstructors.Wiener}",
            "{class_path: lightning_priv.nn.denoisers.MMSE}",
            "{class_path: lightning_priv.nn.denoisers.DDIM, init_args: {steps: 25}}",
            "{class_path: lightning_priv.nn.denoisers.DDPM, init_args: {steps: 25}}",
        ]
    )
    # norms of [-1, 1] pixels are about 1.75 times those of [0, 1], of which the noise is doubled:
    # the levels below are those of the prototype times 2 / 1.75
    levels = [6, 8, 12, 16, 24, 32, 64]
    mu = [2 / 1.75 * m for m in levels]
    command_line.ok(
        *("audit", "--config", DIGITS, *QUIET, "--trainer.max_steps", 3300),
        *("--targets", 192, "--mu", str(mu), "--methods", f"[{attacks}]"),
    )
    summary = json.loads(Path("runs/audit_digits/audit/summary.json").read_text())["summary"]
    error = {
        name: [r["mean"] for r in summary if (r["attack"], r["metric"]) == (name, "mse")]
        for name in ("wiener", "mmse", "ddim-25", "ddpm-25")
    }
    for k, level in enumerate(levels):
        wiener, mmse, ddim, ddpm = (error[name][k] for name in error)
        assert mmse < wiener
        assert mmse <= 1.02 * ddim
        if 8 <= level <= 32:
            assert mmse < 0.8 * wiener
        if level >= 8:
            assert ddim < wiener
        if level <= 32:
            assert 1.4 * mmse < ddpm < 2.2 * mmse
