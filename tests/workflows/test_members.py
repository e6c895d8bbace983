"""Members of a study as one stack, from modules that the command line built."""

from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import digits as digits_config
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from stacked_kit import SEEDS, digits, fit_alone, mlp, sgd, trainer

from lightning_priv.errors import ConfigurationError
from lightning_priv.models import Classifier
from lightning_priv.models.stacked.admission import seeded
from lightning_priv.workflows import members as workflow
from lightning_priv.workflows.members import choose_mode, train_stacked


def build(seed: int) -> Any:
    return seeded(seed, lambda: Classifier(mlp(), 10, optimizer=sgd))


def close(path: Path, alone: LightningModule) -> None:
    state = torch.load(path, weights_only=True)["state_dict"]
    torch.testing.assert_close(state, dict(alone.state_dict()), rtol=0, atol=1e-10)


def test_clipping_and_early_stopping_of_the_trainer_are_each_members_own() -> None:
    def settings() -> dict[str, Any]:
        stop = EarlyStopping("val/loss", patience=1, min_delta=0.1)
        return {"max_epochs": 5, "gradient_clip_val": 0.3, "callbacks": [stop]}

    out = train_stacked(
        build, digits(), trainer(**settings()), SEEDS, 0, ["init", "data_order"], Path("members")
    )
    assert (out.failed, set(out.paths)) == ({}, set(SEEDS))
    for seed in SEEDS:
        alone = fit_alone(mlp, seed, settings())
        close(out.paths[seed], alone)
        expected = float(alone.trainer.callback_metrics["val/accuracy"])
        assert out.scores[seed]["val/accuracy"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("vary", "init", "order", "bootstrap"),
    [
        (["init"], None, 7, False),
        (["data_order"], 7, None, False),
        (["bootstrap"], 7, 7, True),
    ],
)
def test_what_does_not_vary_follows_the_base_seed(
    vary: Any, init: Any, order: Any, bootstrap: bool
) -> None:
    out = train_stacked(build, digits(), trainer(), SEEDS, 7, vary, Path("members"))
    for seed in SEEDS:
        data = digits(seed if order is None else order)
        data.setup()
        if bootstrap:
            data.resample_training(seed)
        alone = build(seed if init is None else init)
        trainer().fit(alone, data)
        close(out.paths[seed], alone)


def test_an_interrupted_stack_goes_on() -> None:
    def fit(**options: Any) -> Trainer:
        saver = ModelCheckpoint("members", save_last=True)
        return trainer(callbacks=[saver], enable_checkpointing=True, **options)

    whole = train_stacked(build, digits(), trainer(), SEEDS, 0, ["init"], Path("whole"))
    train_stacked(build, digits(), fit(max_epochs=1), SEEDS, 0, ["init"], Path("members"))
    run = fit()
    assert Path("members/last.ckpt").is_file()
    out = train_stacked(build, digits(), run, SEEDS, 0, ["init"], Path("members"))
    for seed in SEEDS:
        again, unbroken = (
            torch.load(o.paths[seed], weights_only=True)["state_dict"] for o in (out, whole)
        )
        # Lightning reads a checkpoint as float32 before it makes the module double
        torch.testing.assert_close(again, unbroken, rtol=1e-4, atol=1e-6)
    with pytest.warns(UserWarning, match="belongs to other members"):
        train_stacked(build, digits(), trainer(), [1, 2], 0, ["init"], Path("members"))


def test_the_faster_way_is_chosen_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_rng_state()
    choice = choose_mode(build, digits(), trainer(), range(10), steps=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert choice.stacked is not None
    assert choice.single is not None
    assert "ms (engine)" in choice.reason
    assert choice.mode == ("vmap" if choice.stacked < 10 * choice.single else "loop")
    times = iter([5.0, 1.0, 5.0, 1.0])
    monkeypatch.setattr(workflow, "_seconds", lambda stack, *_: next(times))
    monkeypatch.setattr(workflow.StackedMembers, "chosen_rung", "vmap", raising=False)
    assert choose_mode(build, digits(), trainer(), range(10)).mode == "vmap"
    assert choose_mode(build, digits(), trainer(), range(10), jobs=2).mode == "loop"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"}, "clipping by norm"),
        ({"callbacks": [EarlyStopping("train/loss")]}, "no 'train/loss' of its own"),
        ({"callbacks": [EarlyStopping("val/accuracy")]}, "has mode max only"),
        (
            {"callbacks": [EarlyStopping("val/loss"), EarlyStopping("val/accuracy", mode="max")]},
            "several EarlyStopping",
        ),
        ({"accumulate_grad_batches": 2}, "automatic optimization"),
    ],
)
def test_settings_that_need_single_members(settings: Any, reason: str) -> None:
    run = trainer(**settings)
    choice = choose_mode(build, digits(), run, SEEDS)
    assert choice.mode == "loop"
    assert reason in choice.reason
    assert run.gradient_clip_val == settings.get("gradient_clip_val"), "the Trainer is as before"
    with pytest.raises(ConfigurationError, match="cannot be trained at once"):
        train_stacked(build, digits(), run, SEEDS, 0, ["init"], Path("members"))


def test_modules_of_the_command_line(command_line: Any) -> None:
    from lightning_priv.lightning_cli import PrivacyCLI

    config = digits_config()

    def built(seed: int) -> PrivacyCLI:
        return PrivacyCLI(["--config", str(config), "--seed_everything", str(seed)], run=False)

    cli = built(1)
    out = train_stacked(
        lambda seed: built(seed).model, cli.datamodule, cli.trainer, [1, 2], 1, ["init"], Path("m")
    )
    read = Classifier.load_from_checkpoint(out.paths[2], net=built(2).model.net)
    assert read.num_classes == 10


def test_fit_from_a_configuration(command_line: Any) -> None:
    """``net`` is a plain class_path; each member makes its own."""
    config = digits_config()
    model = "lightning_priv.models.StackedMembers"
    words = ["--model", model, "--model.net", "lightning_priv.nn.MLP"]
    words += ["--model.net.in_features", "64", "--model.net.num_classes", "10"]
    words += ["--model.num_classes", "10", "--model.members", "[1, 2, 3]"]
    words += ["--model.early_stopping", "lightning_priv.models.MemberEarlyStopping"]
    command_line.ok("fit", "--config", config, *words)
    (last,) = Path("runs").rglob("*.ckpt")
    state = torch.load(last, weights_only=True)["state_dict"]
    assert state["net.body.0.weight"].shape == (3, 64, 64)
    assert not torch.equal(*state["net.body.0.weight"][:2])
