"""Members that are trained at once stay apart, are written, refused and resumed one by one."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from stacked_kit import SEEDS, Residual, cnn, digits, fit_stacked, mlp, normed, sgd, trainer
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler, TensorDataset

from lightning_priv.errors import ConfigurationError, DivergenceError
from lightning_priv.models import Classifier, MemberEarlyStopping, StackedMembers
from lightning_priv.models.stacked import MemberLoader, bootstrap_rows, cannot_stack, load_members
from lightning_priv.models.stacked.step import MemberStep
from lightning_priv.nn import MLP, HyperbolicResNet

# -- members do not influence each other -----------------------------------------------------------


@pytest.mark.parametrize("rung", ["engine", "folded", "vmap"])
def test_a_member_that_diverges_is_frozen_and_the_others_do_not_notice(rung: Any) -> None:
    optimizer = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    alone = fit_stacked(mlp, members=[11], optimizer=optimizer, rung=rung)
    with pytest.warns(UserWarning, match=r"members with seeds \[3\] have diverged"):
        module = fit_stacked(
            mlp,
            learning_rates=[1e200, 0.05],
            optimizer=optimizer,
            gradient_clip_val=None,
            rung=rung,
        )
    assert module.failed.keys() == {3}
    assert "not finite at step" in module.failed[3]
    torch.testing.assert_close(
        module.member(1).state_dict(), alone.member(0).state_dict(), rtol=0, atol=1e-12
    )
    written = module.export_members("members")
    assert written == [None, Path("members/member_11.ckpt")]
    assert torch.isfinite(module.trainer.callback_metrics["val/loss"]), "a mean over the healthy"


def test_when_all_members_diverge_training_ends() -> None:
    with (
        pytest.warns(UserWarning, match="diverged"),
        pytest.raises(DivergenceError, match="all 2 members have diverged"),
    ):
        fit_stacked(mlp, learning_rates=[1e200, 1e200])


def test_clipping_does_not_couple_members() -> None:
    stacked = StackedMembers(mlp, 10, SEEDS, gradient_clip_val=1.0)
    stepper = MemberStep(stacked.net, 1.0)
    for parameter in stepper.parameters:
        parameter.grad = torch.ones_like(parameter)
        parameter.grad[0] *= 1e3
        parameter.grad[1] *= 1e-3
    before = [p.grad[1].clone() for p in stepper.parameters if p.grad is not None]
    norms = stepper.clip()
    count = sum(p[0].numel() for p in stepper.parameters)
    torch.testing.assert_close(norms, torch.tensor([1e3, 1e-3]) * count**0.5)
    grads = [p.grad for p in stepper.parameters if p.grad is not None]
    for grad, small in zip(grads, before, strict=True):
        assert torch.equal(grad[1], small), "its own norm is below the bound"
    total = torch.stack([g[0].norm() for g in grads]).norm()
    torch.testing.assert_close(total, torch.tensor(1.0), rtol=1e-4, atol=0)


def test_all_stopped_members_end_the_training() -> None:
    rule = MemberEarlyStopping("val/accuracy", patience=1, min_delta=1.0)
    module = fit_stacked(mlp, {"max_epochs": 9}, early_stopping=rule)
    assert module.stopped == dict.fromkeys(SEEDS, 1)
    assert module.trainer.current_epoch == 2


# -- checkpoints -----------------------------------------------------------------------------------


def test_exported_members_are_ordinary_checkpoints() -> None:
    module = fit_stacked(normed, learning_rates=[0.01, 0.02])
    paths = module.export_members("members")
    assert [p.name for p in paths if p] == ["member_3.ckpt", "member_11.ckpt"]
    assert not list(Path("members").glob("*.part"))
    for index, path in enumerate(paths):
        assert path is not None
        read = Classifier.load_from_checkpoint(path, net=normed())
        torch.testing.assert_close(
            dict(read.double().state_dict()), dict(module.member(index).state_dict())
        )
        assert dict(read.hparams) == dict(Classifier(normed(), 10).hparams)
        assert read.num_classes == 10
        about = torch.load(path, weights_only=True)["member"]
        assert (about["seed"], about["index"]) == (SEEDS[index], index)
        assert about["learning_rate"] == [0.01, 0.02][index]
        assert about["scores"]["val/accuracy"] == float(module.scores["val/accuracy"][index])
        metrics = trainer(precision="64-true").test(read, digits(), verbose=False)
        assert 0 <= metrics[0]["test/accuracy"] <= 1
    named = module.export_members(["a/x.ckpt", "b/y.ckpt"])
    assert all(path is not None and path.is_file() for path in named)
    with pytest.raises(ValueError, match="1 paths for 2 members"):
        module.export_members(["a.ckpt"])


def test_an_exported_member_goes_on_training_alone() -> None:
    module = fit_stacked(mlp)
    (path, _) = module.export_members("members")
    read = Classifier.load_from_checkpoint(path, net=mlp(), optimizer=sgd)
    trainer(max_epochs=1).fit(read, digits())


class Stop(Callback):
    """An interruption behind a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("killed")


@pytest.mark.parametrize("step", [9, 12])
@pytest.mark.parametrize("rates", [None, [0.05, 0.5]])
def test_a_resumed_training_equals_an_unbroken_one(step: int, rates: Any) -> None:
    """In the middle of the second epoch, and at its end, with a member that has stopped."""
    options: dict[str, Any] = {
        "optimizer": torch.optim.AdamW,
        "learning_rates": rates and [r / 10 for r in rates],
        "scheduler": partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5),
        "early_stopping": rates and MemberEarlyStopping(patience=1, min_delta=0.08),
    }
    fit = {"max_epochs": 4}
    whole = fit_stacked(normed, fit, **options)
    assert not rates or whole.stopped == {3: 1}, "before the interruption"
    every: dict[str, Any] = {"every_n_epochs": 1} if step == 12 else {"every_n_train_steps": 3}
    saver = ModelCheckpoint("kept", save_top_k=-1, filename="{step}", **every)
    run = {**fit, "callbacks": [saver, Stop(step)], "enable_checkpointing": True}
    with pytest.raises(RuntimeError, match="killed"):
        fit_stacked(normed, run, **options)
    path = Path(f"kept/step={step}.ckpt")
    assert path.is_file()
    # Lightning reads weights before it makes the module double
    module = StackedMembers(normed, 10, SEEDS, **options).double()
    trainer(**fit).fit(module, datamodule=digits(), ckpt_path=str(path))
    for m in range(2):
        torch.testing.assert_close(
            module.member(m).state_dict(), whole.member(m).state_dict(), rtol=0, atol=1e-12
        )
    assert module.stopped == whole.stopped


def test_stacked_checkpoint_reads_as_members() -> None:
    saver = ModelCheckpoint("kept", filename="all")
    module = fit_stacked(normed, {"callbacks": [saver], "enable_checkpointing": True})
    state = torch.load("kept/all.ckpt", weights_only=True)
    assert state["members"]["seeds"] == SEEDS
    assert list(state["state_dict"]) == [f"net.{k}" for k in normed().state_dict()]
    assert all(len(v) == 2 for v in state["state_dict"].values())
    members = load_members("kept/all.ckpt")
    for index, member in enumerate(members):
        classifier = Classifier(normed(), **member["hyper_parameters"])
        classifier.load_state_dict(member["state_dict"])
        expected = module.member(index).float().state_dict()
        torch.testing.assert_close(dict(classifier.state_dict()), dict(expected))
        assert member["member"]["seed"] == SEEDS[index]
    again = StackedMembers.load_from_checkpoint("kept/all.ckpt", net=normed)
    torch.testing.assert_close(again.double().net.state_dict(), module.net.state_dict())
    path = module.export_members("members")[0]
    with pytest.raises(ValueError, match="no 'members'"):
        load_members(str(path))


def test_a_checkpoint_of_other_members_is_refused() -> None:
    saver = ModelCheckpoint("kept", filename="all")
    fit_stacked(mlp, {"callbacks": [saver], "enable_checkpointing": True})
    other = StackedMembers(mlp, 10, [3, 12])
    with pytest.raises(ConfigurationError, match=r"seeds=\[3, 11\], this model has \[3, 12\]"):
        trainer().fit(other, datamodule=digits(), ckpt_path="kept/all.ckpt")
    with pytest.raises(ConfigurationError, match="not one of StackedMembers"):
        other.on_load_checkpoint({"state_dict": {}})


# -- evaluation ------------------------------------------------------------------------------------


def test_predictions_have_all_members_and_ids() -> None:
    module = StackedMembers(mlp, 10, SEEDS)
    batches = trainer().predict(module, digits(indexed=True, batch_size=100))
    assert batches is not None
    first: Any = batches[0]
    assert first["probs"].shape == (2, 100, 10)
    torch.testing.assert_close(first["probs"].sum(-1), torch.ones(2, 100).double())
    assert first["index"].tolist() == list(range(100))
    with torch.no_grad():
        next(module.net.parameters())[1] = float("nan")
    with pytest.raises(DivergenceError, match=r"seeds \[11\]"):
        trainer().predict(module, digits())


# -- steps -----------------------------------------------------------------------------------------


def test_steps_are_counted_by_the_trainer() -> None:
    """The raw optimizer would leave global_step at 0: no max_steps, no checkpoints by step."""
    saver = ModelCheckpoint("kept", every_n_train_steps=4, save_top_k=-1, filename="{step}")
    module = fit_stacked(
        mlp,
        {"max_epochs": -1, "max_steps": 10, "callbacks": [saver], "enable_checkpointing": True},
    )
    assert module.trainer.global_step == 10
    assert {p.name for p in Path("kept").iterdir()} == {"step=4.ckpt", "step=8.ckpt"}


@pytest.mark.parametrize(
    ("fit", "reason"),
    [
        ({"max_steps": 23}, "max_steps=23"),
        ({"max_steps": 25}, "27 steps an epoch"),  # epochs end within a batch of steps
        ({"callbacks": [ModelCheckpoint(every_n_train_steps=4)]}, "every_n_train_steps=4"),
        ({"limit_train_batches": 6}, "limit_train_batches=6"),
        ({"val_check_interval": 3}, "val_check_interval=3"),
    ],
)
def test_several_steps_a_batch_refuse_triggers_they_do_not_meet(fit: Any, reason: str) -> None:
    settings = {"limit_train_batches": 1.0, "enable_checkpointing": True, **fit}
    with pytest.raises(ConfigurationError, match=reason):
        fit_stacked(mlp, settings, steps_per_batch=5)


def test_several_steps_a_batch_meet_triggers_they_divide() -> None:
    module = fit_stacked(mlp, {"limit_train_batches": 1.0, "max_steps": 54}, steps_per_batch=9)
    assert module.trainer.global_step == 54


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fit", "reason"),
    [
        ({"gradient_clip_val": 1.0}, "gradient_clip|gradient clipping"),
        ({"accumulate_grad_batches": 2}, "accumulat"),
        ({"callbacks": [EarlyStopping("val/loss")]}, "stop all members together"),
    ],
)
def test_settings_that_couple_members_are_refused(fit: Any, reason: str) -> None:
    with pytest.raises(Exception, match=reason):
        fit_stacked(mlp, fit)
    assert reason.split("|")[0] in str(
        cannot_stack([Classifier(mlp(), 10, optimizer=sgd)], trainer(**fit))
    )


class Own(Classifier):
    """A subclass may train in its own way."""


def member(net: nn.Module | None = None, **options: Any) -> Classifier:
    return Classifier(mlp() if net is None else net, 10, **{"optimizer": sgd, **options})


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([], "no member"),
        ([Own(mlp(), 10)], "a member is a Own"),
        ([member(optimizer=torch.optim.LBFGS)], "LBFGS is not known"),
        ([member(optimizer=partial(torch.optim.Rprop, lr=0.1))], "Rprop is not known"),
        ([member(HyperbolicResNet(10, 10, "l", width=4))], "points of a manifold"),
        ([member(HyperbolicResNet(10, 10, "el", width=4, learn_k=True))], "parameter groups"),
        ([member(nn.Flatten())], "no parameter is trained"),
        ([member(), member(cnn())], "other layers"),
        ([member(), member(optimizer=partial(torch.optim.SGD, lr=1.0))], "differ in their optim"),
        (
            [
                member(scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=n))
                for n in (1, 2)
            ],
            "differ in their scheduler",
        ),
        ([member(), member(loss=nn.CrossEntropyLoss(label_smoothing=0.1))], "loss or monitor"),
        (
            [member(loss=nn.CrossEntropyLoss(weight=torch.full((10,), w))) for w in (1.0, 2.0)],
            "numbers of their loss",
        ),
    ],
)
def test_members_that_cannot_be_trained_at_once(members: Any, reason: str) -> None:
    assert reason in str(cannot_stack(members))
    with pytest.raises(ConfigurationError, match="cannot be trained at once"):
        StackedMembers.from_members(members, range(len(members)))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"members": [1, 1]}, "each seed once"),
        ({"members": 0}, "at least one"),
        ({"learning_rates": [0.1]}, "learning_rates has 1 entries for 2"),
        ({"weight_decays": [0.1, -1.0]}, "at least 0"),
        ({"gradient_clip_val": 0.0}, "gradient_clip_val=0"),
        ({"steps_per_batch": 0}, "steps_per_batch=0"),
        ({"monitor": "train/loss"}, "monitor="),
        ({"num_classes": 1}, "num_classes"),
    ],
)
def test_arguments_out_of_range(options: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        StackedMembers(mlp, **{"num_classes": 10, "members": SEEDS, **options})


def test_stopping_arguments_out_of_range() -> None:
    with pytest.raises(ValueError, match="monitor"):
        MemberEarlyStopping("train/loss")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="patience=0"):
        MemberEarlyStopping(patience=0)


def test_data_of_other_classes_is_refused() -> None:
    module = StackedMembers(partial(MLP, 64, 3), 3, SEEDS)
    with pytest.raises(ConfigurationError, match="num_classes=3, but the data has 10"):
        trainer().fit(module, datamodule=digits())


def test_ready_members_keep_their_weights_and_hyper_parameters() -> None:
    members = [member(manifold_lr_scale=0.1 * (i + 1)) for i in range(2)]
    states = [copy.deepcopy(m.state_dict()) for m in members]
    module = StackedMembers.from_members(
        members, [5, 6], order_seeds=[0, 0], bootstrap_seeds=[1, 2]
    )
    assert (module.order_seeds, module.bootstrap_seeds) == ([0, 0], [1, 2])
    for index in range(2):
        own = module.member(index)
        torch.testing.assert_close(dict(own.state_dict()), dict(states[index]))
        assert dict(own.hparams) == dict(members[index].hparams)
    with pytest.raises(ValueError, match="1 seeds for 2"):
        StackedMembers.from_members(members, [5])
    with pytest.raises(ValueError, match="order_seeds has 1"):
        StackedMembers.from_members(members, [5, 6], order_seeds=[0])


def test_making_members_leaves_the_generators_alone() -> None:
    before = torch.get_rng_state()
    StackedMembers(mlp, 10, SEEDS)
    assert torch.equal(torch.get_rng_state(), before)


# -- loaders ---------------------------------------------------------------------------------------


def test_bootstrap_rows_are_those_of_the_data_modules() -> None:
    from lightning_priv.data.sampling import bootstrap_rows as theirs

    assert torch.equal(bootstrap_rows(50, 7), theirs(50, 7))


def test_any_shuffled_loader_gives_each_member_an_order() -> None:
    x, y = torch.arange(20.0).unsqueeze(1), torch.arange(20)
    loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
    members = MemberLoader(loader, [1, 2], None, 2)
    epochs = [[part for (part,) in members] for _ in range(2)]
    assert [p.shape for p in epochs[0]] == [(2, 8), (2, 8), (2, 4)]
    orders = [torch.cat(epoch, 1) for epoch in epochs]
    for order in orders:
        assert all(sorted(row.tolist()) == list(range(20)) for row in order)
        assert not torch.equal(order[0], order[1])
    assert not torch.equal(orders[0], orders[1])
    again = MemberLoader(loader, [2, 9], None, 2)
    assert torch.equal(next(iter(again))[0][0], epochs[0][0][1]), "follows from seed and epoch"
    shares = [MemberLoader(loader, [1], None, 1, 1, (2, rank)) for rank in range(2)]
    parts = [next(iter(share))[0][0] for share in shares]
    assert torch.equal(torch.stack(parts, 1).flatten(), orders[0][0][:16])


def test_a_shared_order_takes_any_loader() -> None:
    batches = [(torch.randn(4, 64), torch.randint(10, (4,))) for _ in range(5)]
    loader = MemberLoader(batches, None, None, 3, steps_per_batch=2)
    assert [len(item) for item in loader] == [2, 2, 1]
    assert len(loader) == 3
    module = StackedMembers(mlp, 10, SEEDS, data_order="shared")
    trainer(precision="32-true").fit(module, train_dataloaders=batches)
    assert module.trainer.global_step == 10


def test_loaders_whose_order_cannot_be_chosen() -> None:
    data = TensorDataset(torch.randn(8, 64), torch.randint(10, (8,)))
    plain = DataLoader(data, batch_size=4, sampler=SequentialSampler(data))
    with pytest.raises(ConfigurationError, match="got a SequentialSampler"):
        MemberLoader(plain, [1], None, 1)
    with pytest.raises(ConfigurationError, match="got list"):
        MemberLoader([1, 2], [1], None, 1)


def test_precision_bf16_takes_the_next_way() -> None:
    module = fit_stacked(mlp, {"precision": "bf16-mixed"})
    assert module.chosen_rung == "folded"
    assert not module.failed
    residual = fit_stacked(Residual, {"precision": "bf16-mixed"})
    assert residual.chosen_rung == "vmap"
