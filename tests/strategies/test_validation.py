import lightning.pytorch as pl
import pytest
import torch
import torch.utils.checkpoint
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.plugins import HalfPrecision, MixedPrecision
from lightning.pytorch.tuner import Tuner
from private_kit import (
    QUICK,
    SmallModule,
    fit,
    private,
    quiet_trainer,
    small_data,
    small_module,
    weights,
)
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset, WeightedRandomSampler

from lightning_priv.errors import PrivacyError, UnsupportedModuleError
from lightning_priv.strategies import DPSGDDDPStrategy, DPSGDStrategy
from lightning_priv.strategies.validation import check_trainer


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"gradient_clip_val": 0.5}, "gradient_clip_val=0.5 .* max_grad_norm"),
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches .* physical_batch_size"),
        ({"callbacks": [GradientAccumulationScheduler({0: 2})]}, "GradientAccumulationScheduler"),
        ({"callbacks": [LearningRateFinder()]}, "LearningRateFinder trains on the data again"),
        ({"overfit_batches": 2}, "overfit_batches=2"),
        ({"plugins": [MixedPrecision("16-mixed", "cpu")]}, "precision=16-mixed"),
        ({"plugins": [HalfPrecision("bf16-true")]}, "precision=bf16-true"),
    ],
)
def test_trainer_flags_that_would_break_the_statement(flags, words):
    strategy = private()
    with pytest.raises(MisconfigurationException, match=words):
        fit(strategy, **flags)
    assert strategy.steps == 0


def test_the_tuner_is_refused():
    strategy = private()
    trainer = quiet_trainer(strategy)
    with pytest.raises(MisconfigurationException, match="LearningRateFinder trains on the data"):
        Tuner(trainer).lr_find(small_module(), DataLoader(small_data(), batch_size=16))
    assert strategy.steps == 0


def test_flags_that_lightning_itself_stops_first_are_refused_too():
    with pytest.raises(MisconfigurationException, match="BatchSizeFinder trains on the data"):
        check_trainer(quiet_trainer(private(), callbacks=[BatchSizeFinder()]))
    with pytest.raises(MisconfigurationException, match="sync_batchnorm mixes records"):
        check_trainer(quiet_trainer(DPSGDDDPStrategy(noise_multiplier=1.0), sync_batchnorm=True))


def net_with(layer):
    return nn.Sequential(nn.Linear(6, 8), layer, nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (net_with(nn.BatchNorm1d(8)), "BatchNorm1d at 'net.1' .*norm='group'"),
        (net_with(nn.SyncBatchNorm(8)), "SyncBatchNorm at 'net.1'"),
        (net_with(nn.InstanceNorm1d(8, track_running_stats=True)), "InstanceNorm1d at 'net.1'"),
        (
            net_with(nn.utils.spectral_norm(nn.Linear(8, 8))),
            "has its weight made by a hook",
        ),
        (net_with(nn.Linear(8, 8, dtype=torch.bfloat16)), "too coarse for the noise"),
        (nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 3)), "has no shape yet"),
        (torch.compile(net_with(nn.ReLU()), backend="eager"), "is compiled"),
    ],
)
def test_layers_are_named(net, words):
    with pytest.raises(MisconfigurationException, match=words):
        fit(private(), small_module(net=net))


class OwnBackward(SmallModule):
    def backward(self, loss):
        loss.backward()


class OwnZeroGrad(SmallModule):
    def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
        pass


class OwnClipping(SmallModule):
    def configure_gradient_clipping(self, optimizer, **kwargs):
        pass


class TakesIterator(SmallModule):
    def training_step(self, dataloader_iter):
        return self.loss(next(dataloader_iter)[0])


class Lbfgs(SmallModule):
    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters())


class TwoOptimizers(SmallModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self):
        return [torch.optim.SGD(self.net[i].parameters(), 0.1) for i in (0, 2)]


class OwnParameter(SmallModule):
    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))

    def loss(self, batch):
        x, y = batch
        return nn.functional.cross_entropy(self.net(x) * self.temperature, y)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (OwnBackward, "OwnBackward.backward is overridden"),
        (OwnZeroGrad, "OwnZeroGrad.optimizer_zero_grad is overridden"),
        (OwnClipping, "OwnClipping.configure_gradient_clipping is overridden"),
        (TakesIterator, "dataloader_iter"),
        (Lbfgs, "LBFGS evaluates the same batch several times"),
        (TwoOptimizers, "has 2 optimizers"),
        (OwnParameter, "temperature stands directly on the LightningModule.*dp_module"),
    ],
)
def test_module_hooks_and_optimizers_are_named(module, words):
    with pytest.raises(MisconfigurationException, match=words):
        fit(private(), module())


def test_all_problems_are_told_at_once():
    module = small_module(net=net_with(nn.BatchNorm1d(8)))
    module.net[0].register_full_backward_hook(lambda *_: None)
    module.net[2].weight.register_hook(lambda g: None)
    with pytest.raises(MisconfigurationException) as caught:
        fit(private(), module)
    text = str(caught.value)
    assert all(w in text for w in ("BatchNorm1d", "backward hook", "'net.2.weight' has a gradient"))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(small_data())


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        (DataLoader(Stream(), batch_size=4), "Stream without random access"),
        (
            DataLoader(small_data(), batch_size=4, sampler=WeightedRandomSampler([1.0] * 96, 96)),
            "WeightedRandomSampler",
        ),
        (
            DataLoader(small_data(), batch_sampler=[[0, 1], [2, 3]]),
            "batch_sampler of its own",
        ),
        (DataLoader(small_data(), batch_size=None), "batch_size=None"),
        (
            {"a": DataLoader(small_data(), 16), "b": DataLoader(small_data(), 16)},
            "one data set and one loader",
        ),
        ([(torch.zeros(4, 6), torch.zeros(4).long())], "is a Tensor"),
    ],
)
def test_loaders_that_cannot_be_sampled_are_named(loader, words):
    with pytest.raises((MisconfigurationException, PrivacyError), match=words):
        fit(private(), loader=loader)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"noise_multiplier": None}, "give exactly one"),
        ({"target_epsilon": 3.0}, "give exactly one"),
        ({"noise_multiplier": -1.0}, "noise_multiplier=-1.0; it must be at least 0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm=0.0; it must be above 0"),
        ({"delta": 0.1}, "delta=0.1"),
        ({"max_epsilon": float("nan")}, "max_epsilon=nan"),
        ({"seed": 3}, "without deterministic"),
        ({"rates": [0.1], "sample_rate": 0.1}, "both given"),
        ({"sample_rate": 1.5}, "sample_rate=1.5"),
        ({"sampling": "shuffle", "neighbouring": "replace_special", "sample_rate": 0.1}, "shuffle"),
    ],
)
def test_arguments_are_checked(arguments, words):
    with pytest.raises(ValueError, match=words):
        private(**arguments)


def test_rates_must_fit_the_data_set(tmp_path):
    with pytest.raises(ValueError, match=r"shape \(3,\) for 96 records"):
        fit(private(rates=[0.1, 0.2, 0.3]))
    with pytest.raises(ValueError, match="npy"):
        fit(private(rates="rates.csv"))
    import numpy as np

    np.save("rates.npy", np.full(96, 0.125))
    strategy = private(rates="rates.npy")
    fit(strategy, max_epochs=1)
    assert strategy.history == [(1.0, 0.125, 8)]
    assert strategy.denominator == 12


def test_engine_and_clipping_must_fit():
    with pytest.raises(ValueError, match="cannot clip per layer"):
        fit(private(engine="ghost", clipping="per_layer"))
    with pytest.raises(ValueError, match="mixed precision"):
        fit(private(engine="ghost"), precision="bf16-mixed")


def test_dp_module_is_trained_and_the_rest_is_not():
    module = OwnParameter()
    before = weights(module.net)
    with pytest.raises(MisconfigurationException, match=r"no sub-module .* it has net"):
        fit(private(dp_module="head"), OwnParameter())
    fit(private(dp_module="net"), module)
    assert module.temperature.item() == 1.0
    assert (weights(module.net) - before).abs().max() > 1e-3


def test_fix_modules_repairs_batch_norm_before_the_optimizer_and_on_resume():
    def module():
        return small_module(net=net_with(nn.Sequential(nn.BatchNorm1d(8), nn.ReLU(inplace=True))))

    saved = ModelCheckpoint(dirpath="ckpt", every_n_train_steps=8, save_top_k=-1, filename="{step}")
    trained = module()
    strategy = private(fix_modules=True)
    fit(strategy, trained, callbacks=[saved], enable_checkpointing=True)
    assert isinstance(trained.net[1][0], nn.GroupNorm)
    assert not trained.net[1][1].inplace
    assert trained.net[1][0].weight.std() > 0  # it was trained
    resumed = module()
    fit(private(fix_modules=True), resumed, ckpt_path="ckpt/step=16.ckpt")
    trainer = quiet_trainer(private(fix_modules=True))
    trainer.validate(
        module(), DataLoader(small_data()), ckpt_path="ckpt/step=16.ckpt", verbose=False
    )


def test_frozen_batch_norm_in_eval_mode_is_allowed_and_watched():
    norm = nn.BatchNorm1d(8).requires_grad_(False).eval()
    module = small_module(net=net_with(norm))
    fit(private(), module)

    class Thaw(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            pl_module.train()

    with pytest.raises(MisconfigurationException, match="frozen BatchNorm1d was put into training"):
        fit(private(), small_module(net=net_with(norm.eval())), callbacks=[Thaw()])
    assert not norm._forward_pre_hooks


def test_what_is_harmless_is_allowed():
    class Dropping(SmallModule):
        def __init__(self):
            super().__init__(net=net_with(nn.Dropout(0.3)))

        def configure_optimizers(self):
            groups = [{"params": self.net[0].parameters(), "lr": 0.01}]
            groups.append({"params": self.net[2].parameters()})
            optimizer = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.1, foreach=True)
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, 0.1, total_steps=self.trainer.estimated_stepping_batches
            )
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    callbacks = [
        StochasticWeightAveraging(1e-2, swa_epoch_start=2),
        EarlyStopping("train/loss", patience=10, check_on_train_epoch_end=True),
        ModelCheckpoint(dirpath="ckpt"),
    ]
    strategy = private()
    trainer, _ = fit(
        strategy,
        Dropping(),
        callbacks=callbacks,
        enable_checkpointing=True,
        detect_anomaly=True,
        max_epochs=4,
    )
    assert strategy.steps == trainer.global_step == 24
    averaged = private()
    fit(averaged, callbacks=[WeightAveraging()])
    assert averaged.steps == 18


def test_a_subset_is_sampled_by_itself():
    strategy = private()
    fit(strategy, data=Subset(small_data(), range(48)), max_epochs=1)
    assert strategy.history == [(1.0, 1 / 3, 3)]


def test_unfreezing_in_mid_training_is_followed():
    class Unfreeze(pl.callbacks.BaseFinetuning):
        def freeze_before_training(self, pl_module):
            self.freeze(pl_module.net[0])

        def finetune_function(self, pl_module, epoch, optimizer):
            if epoch == 1:
                self.unfreeze_and_add_param_group(pl_module.net[0], optimizer)

    module = small_module()
    first, states = module.net[0].weight.detach().clone(), []

    class Watch(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            states.append(pl_module.net[0].weight.detach().clone())

    fit(private(), module, callbacks=[Unfreeze(), Watch()])
    assert torch.equal(states[0], first)
    assert (states[2] - first).abs().max() > 1e-3


class Manual(SmallModule):
    steps_a_batch = 1
    backwards_a_batch = 1

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        for _ in range(self.backwards_a_batch):
            self.manual_backward(self.loss(batch))
        for _ in range(self.steps_a_batch):
            optimizer.step()


def test_manual_optimization_makes_the_same_steps():
    arguments = {**QUICK, "deterministic": True, "seed": 3}
    _, automatic = fit(DPSGDStrategy(**arguments), small_module(momentum=0.0), max_epochs=2)
    torch.manual_seed(0)
    manual = Manual()
    manual.momentum = 0.0
    strategy = DPSGDStrategy(**arguments)
    trainer, _ = fit(strategy, manual, max_epochs=2)
    torch.testing.assert_close(weights(manual), weights(automatic), rtol=0, atol=1e-6)
    assert trainer.global_step == strategy.steps == 12
    single = private()
    fit(single, Manual(), batch_size=1, max_epochs=1)  # with empty batches
    assert single.history == [(1.0, 1 / 96, 96)]


@pytest.mark.parametrize(
    ("attribute", "words"),
    [("steps_a_batch", "were released already"), ("backwards_a_batch", "second backward pass")],
)
def test_manual_optimization_releases_a_batch_once(attribute, words):
    module = Manual()
    setattr(module, attribute, 2)
    strategy = private()
    with pytest.raises(PrivacyError, match=words):
        fit(strategy, module)
    assert strategy.steps <= 1


class CallsTwice(SmallModule):
    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        optimizer.step(closure=optimizer_closure)
        optimizer.step(closure=optimizer_closure)


class Skips(SmallModule):
    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        if batch_idx % 2 == 0:
            optimizer.step(closure=optimizer_closure)
        else:
            optimizer_closure()


def test_a_second_step_on_a_batch_is_an_error_and_a_skipped_one_costs_nothing():
    strategy = private()
    with pytest.raises(PrivacyError, match="second training step for one batch"):
        fit(strategy, CallsTwice())
    assert strategy.steps == 1
    skipping = private()
    fit(skipping, Skips(), max_epochs=2)
    assert skipping.history == [(1.0, 1 / 6, 6)]


class ReturnsNone(SmallModule):
    def training_step(self, batch, batch_idx):
        return None if batch_idx % 2 else self.loss(batch)


def test_no_loss_is_a_gradient_of_zero_and_still_a_step():
    strategy = private()
    with pytest.warns(UserWarning, match="training_step returned no loss"):
        trainer, _ = fit(strategy, ReturnsNone(), max_epochs=1)
    assert strategy.steps == trainer.global_step == 6
    # the others in the batch may have been left out for what one record holds
    assert ["returned no loss" in line for line in strategy.account.uncovered] == [True]


def test_transfer_hooks_must_keep_one_row_a_record():
    class Crops(SmallModule):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            x, y = batch
            return x.repeat_interleave(2, 0), y.repeat_interleave(2, 0)

    with pytest.raises((PrivacyError, UnsupportedModuleError), match="record"):
        fit(private(), Crops())
    with pytest.raises(PrivacyError, match="nothing in the training batch has"):
        fit(private(probe=False), Crops())


def test_more_devices_than_one_need_the_other_strategy():
    with pytest.raises(MisconfigurationException, match="DPSGDDDPStrategy"):
        fit(private(), devices=2)


def test_hooks_that_come_later_are_refused():
    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            if trainer.global_step == 2:
                pl_module.net[0].weight.register_hook(lambda gradient: None)

    for engine in ("bk", "hooks", "ghost"):
        strategy = private(engine=engine)
        with pytest.raises(
            MisconfigurationException, match=r"'net\.0\.weight' has a gradient hook"
        ):
            fit(strategy, callbacks=[Watch()])
        assert strategy.steps == 2


class PartlyUsed(SmallModule):
    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(3, 3)


def test_an_unused_layer_gets_noise_and_a_warning():
    for engine in ("bk", "hooks", "ghost", "functorch"):
        module = PartlyUsed()
        before = module.spare.weight.detach().clone()
        with pytest.warns(UserWarning, match=r"'spare\.weight', 'spare\.bias' took no part"):
            fit(private(engine=engine), module, max_epochs=1)
        assert (module.spare.weight - before).abs().max() > 1e-3


def test_a_delta_above_one_over_n_is_warned_of():
    with pytest.warns(UserWarning, match=r"delta 0\.01.* is above 1/N"):
        fit(private(delta=0.01), data=small_data(192), max_epochs=1)


def test_another_data_set_in_mid_training_is_refused():
    class Growing(pl.LightningDataModule):
        records = 96

        def train_dataloader(self):
            self.records += 10
            return DataLoader(small_data(self.records), batch_size=16)

    trainer = quiet_trainer(private(), reload_dataloaders_every_n_epochs=1)
    with pytest.raises(PrivacyError, match=r"about 106 records .* now has 116"):
        trainer.fit(small_module(), datamodule=Growing())
    same = private()
    trainer = quiet_trainer(same, reload_dataloaders_every_n_epochs=1)
    trainer.fit(small_module(), DataLoader(small_data(), batch_size=16))
    assert same.history == [(1.0, 1 / 6, 18)]


def test_activation_checkpointing_changes_nothing():
    class Checkpointed(SmallModule):
        def loss(self, batch):
            x, y = batch
            h = torch.utils.checkpoint.checkpoint(self.net[:2], x, use_reentrant=False)
            return nn.functional.cross_entropy(self.net[2](h), y)

    arguments = {**QUICK, "deterministic": True, "seed": 3}
    for engine in ("bk", "hooks", "ghost"):
        results = []
        for kind in (SmallModule, Checkpointed):
            torch.manual_seed(0)
            strategy = DPSGDStrategy(**arguments, engine=engine, probe=engine == "hooks")
            results.append(weights(fit(strategy, kind(), max_epochs=1)[1]))
        torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-6)
