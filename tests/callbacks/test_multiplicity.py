import csv
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from abstention_kit import (
    CLASSES,
    Foreign,
    ForeignData,
    N,
    member,
    probabilities,
    samples,
    trainer,
    write,
)
from gloo_pool import GlooPool
from lightning.pytorch.loggers import WandbLogger
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, TensorDataset

from lightning_priv.callbacks import EnsembleAbstention
from lightning_priv.callbacks.evaluation_batches import refuse_idle_processes
from lightning_priv.errors import ConfigurationError
from lightning_priv.functional import multiplicity as functional
from lightning_priv.functional.multiplicity import Rule

SEEDS = [1, 2, 3, 4]


def rows(path: str | Path) -> list[dict[str, str]]:
    with Path(path).open() as file:
        return list(csv.DictReader(file))


def expected(seeds: list[int], stage_seed: int = 0) -> dict[str, float]:
    x, y = samples(seed=stage_seed)
    labels = probabilities(seeds, x).argmax(-1)
    decisions = functional.decide(labels, "unanimous")
    return {
        "samples": len(y),
        "ambiguity": float(functional.ambiguity(labels)),
        "discrepancy": float(functional.discrepancy(labels)),
        "pairwise_disagreement": float(functional.pairwise_disagreement(labels)),
        "self_consistency": float(functional.self_consistency(labels).mean()),
        "abstain/coverage": float(functional.coverage(decisions)),
        "abstain/selective_risk": float(functional.selective_risk(decisions, y)),
    }


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_metrics_equal_those_of_all_samples_at_once(stage: str, tmp_path: Path) -> None:
    """And the module's own metrics, outputs and weights stay as they are."""
    callback = EnsembleAbstention(write(tmp_path, SEEDS), rule="unanimous")
    run, plain = trainer(callback), trainer()
    module = member(9)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    (with_it,) = getattr(run, stage)(module, ForeignData(), verbose=False)
    (without,) = getattr(plain, stage)(member(9), ForeignData(), verbose=False)
    for name, value in without.items():
        assert with_it[name] == value, name
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    for name, value in expected(SEEDS, 0 if stage == "test" else 1).items():
        assert with_it[f"multiplicity/{name}"] == pytest.approx(value, abs=1e-6), name


def test_report_has_every_sample_once(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    callback = EnsembleAbstention(
        write(tmp_path, SEEDS), rule="unanimous", report_dir=str(folder), defer_value=-7
    )
    run = trainer(callback, default_root_dir=tmp_path)
    run.test(member(9), ForeignData(indexed=True), verbose=False)
    x, y = samples()
    labels = probabilities(SEEDS, x).argmax(-1)
    found = rows(folder / "deferrals.csv")
    assert [int(row["id"]) for row in found] == list(range(N))
    assert [int(row["target"]) for row in found] == y.tolist()
    decisions = functional.decide(labels, "unanimous")
    assert [int(r["decision"]) for r in found] == [-7 if d < 0 else d for d in decisions.tolist()]
    for number, row in enumerate(found):
        votes = torch.bincount(labels[:, number], minlength=CLASSES).tolist()
        assert [int(row[f"votes_{c}"]) for c in range(CLASSES)] == votes
        assert (int(row["n_A"]), int(row["n_B"])) == tuple(sorted(votes)[:0:-1])
        assert int(row["deferred"]) == (max(votes) < len(SEEDS))
    facts = json.loads((folder / "summary.json").read_text())
    for name, value in callback.metrics[0].items():
        if name in facts["metrics"]:
            assert facts["metrics"][name] == pytest.approx(value, abs=1e-9), name
        elif name.startswith("abstain/"):
            got = facts["abstain"][name.removeprefix("abstain/")]
            assert got == pytest.approx(value, abs=1e-9), name
    assert set(callback.metrics[0]) >= {"ambiguity", "abstain/coverage", "aurc", "score_std"}
    page = (folder / "report.html").read_text()
    assert 'src="data:image/svg+xml' in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert not list(folder.rglob("*.part"))


def test_report_goes_to_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures and tables of the folder, and the numbers by their names."""
    logger = WandbLogger(save_dir="runs", mode="disabled")
    images: list[str] = []
    tables: dict[str, Any] = {}
    logged: dict[str, float] = {}
    monkeypatch.setattr(logger, "log_image", lambda key, *args, **rest: images.append(key))
    monkeypatch.setattr(
        logger, "log_table", lambda key, columns, data, step=None: tables.update({key: data})
    )
    monkeypatch.setattr(logger, "log_metrics", lambda metrics, step=None: logged.update(metrics))
    folder = tmp_path / "report"
    callback = EnsembleAbstention(write(tmp_path, SEEDS), report_dir=str(folder))
    run = pl.Trainer(
        accelerator="cpu",
        logger=logger,
        callbacks=[callback],
        enable_progress_bar=False,
        default_root_dir=tmp_path,
    )
    run.test(member(9), ForeignData(), verbose=False)
    drawn = {f"multiplicity/{path.stem}" for path in (folder / "figures").iterdir()}
    assert set(images) == drawn
    assert len(drawn) == 7  # those for which a callback has data
    assert len(tables["multiplicity/deferrals_table"]) == N
    assert "multiplicity/members_table" in tables
    assert logged["multiplicity/ambiguity"] == pytest.approx(callback.metrics[0]["ambiguity"])


def test_predict_writes_rows_and_leaves_predictions_alone(tmp_path: Path) -> None:
    callback = EnsembleAbstention(write(tmp_path, SEEDS), report_dir=str(tmp_path / "report"))
    run = trainer(callback, default_root_dir=tmp_path)
    outputs = run.predict(member(9), ForeignData())
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(outputs), member(9)(samples()[0]))
    assert len(rows(tmp_path / "report/deferrals.csv")) == N


def test_mapping_batches_with_ids(tmp_path: Path) -> None:
    x, y = samples(5)
    data = [{"image": x[i], "x": x[i], "label": y[i], "id": f"patient {i}"} for i in (3, 1, 4)]
    callback = EnsembleAbstention(
        [member(s) for s in (1, 2)], input_key="image", report_dir=str(tmp_path / "report")
    )
    run = trainer(callback, default_root_dir=tmp_path)
    run.test(member(9), DataLoader(data, batch_size=2), verbose=False)
    found = rows(tmp_path / "report/deferrals.csv")
    assert [row["id"] for row in found] == ["patient 3", "patient 1", "patient 4"]
    assert [int(row["target"]) for row in found] == y[[3, 1, 4]].tolist()
    bad = trainer(EnsembleAbstention([member(1), member(2)], input_key="picture"))
    with pytest.raises(ConfigurationError, match="the batch has no 'picture'"):
        bad.test(member(9), DataLoader(data, batch_size=2), verbose=False)


def test_subgroups_from_a_file(tmp_path: Path) -> None:
    groups = tmp_path / "groups.csv"
    groups.write_text("id,group\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(N)))
    callback = EnsembleAbstention(
        write(tmp_path, SEEDS), report_dir=str(tmp_path / "report"), groups=str(groups)
    )
    run = trainer(callback, default_root_dir=tmp_path)
    run.test(member(9), ForeignData(), verbose=False)
    x, _ = samples()
    labels = probabilities(SEEDS, x).argmax(-1)
    for row in rows(tmp_path / "report/groups.csv"):
        part = labels[:, "ab".index(row["group"]) :: 2]
        share = 1 - float(functional.unanimous_coverage(part))
        assert float(row["ambiguity"]) == pytest.approx(share)
    groups.write_text("id,group\n0,a\n")
    with pytest.raises(ConfigurationError, match="no row for 36 of 37"):
        run.test(member(9), ForeignData(), verbose=False)


@pytest.mark.parametrize("rule", ["conformal", "calibrated"])
def test_fitted_rules_take_the_validation_samples(rule: str, tmp_path: Path) -> None:
    options = {"target_coverage": 0.5} if rule == "calibrated" else {"alpha": 0.3}
    callback = EnsembleAbstention(write(tmp_path, SEEDS), rule=rule, **options)
    (got,) = trainer(callback).test(member(9), ForeignData(), verbose=False)
    (xv, yv), (x, _) = samples(seed=1), samples()
    held_out, probs = probabilities(SEEDS, xv).double(), probabilities(SEEDS, x).double()
    fitted = Rule(rule, **options).fit(held_out.argmax(-1), yv, held_out)
    decided = fitted.decide(probs.argmax(-1), probs)
    assert got["multiplicity/abstain/coverage"] == pytest.approx(
        float(functional.coverage(decided)), abs=1e-6
    )


def test_one_member_and_duplicates(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="one member"):
        (got,) = trainer(EnsembleAbstention(write(tmp_path, [1]))).test(
            member(9), ForeignData(), verbose=False
        )
    assert got["multiplicity/ambiguity"] == 0
    assert got["multiplicity/self_consistency"] != got["multiplicity/self_consistency"]
    twins = [member(1), member(2), member(1)]
    with pytest.warns(UserWarning, match="members 0, 2 have equal weights"):
        trainer(EnsembleAbstention(twins)).test(member(9), ForeignData(), verbose=False)


def test_binomial_with_too_few_members_warns(tmp_path: Path) -> None:
    callback = EnsembleAbstention(write(tmp_path, SEEDS), rule="binomial")
    with pytest.warns(UserWarning, match="at least 6 members"):
        (got,) = trainer(callback).test(member(9), ForeignData(), verbose=False)
    assert got["multiplicity/abstain/coverage"] == 0


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    good = write(tmp_path, [1, 2])

    def run(*more: str, **options: object) -> None:
        callback = EnsembleAbstention([*good, *more], **options)  # type: ignore[arg-type]
        trainer(callback).test(member(9), ForeignData(), verbose=False)

    torn = tmp_path / "torn.ckpt"
    torn.write_bytes(Path(good[0]).read_bytes()[:500])
    with pytest.raises(ConfigurationError, match=r"torn\.ckpt is damaged or no file of tensors"):
        run(str(torn))
    other = tmp_path / "other.ckpt"
    torch.save({"state_dict": member(3, hidden=7).state_dict()}, other)
    with pytest.raises(ConfigurationError, match=r"other\.ckpt belongs to another network"):
        run(str(other))
    weights = tmp_path / "weights.ckpt"
    torch.save(member(3).state_dict(), weights)
    with pytest.raises(ConfigurationError, match="no Lightning checkpoint"):
        run(str(weights))
    swapped = write(tmp_path / "swapped", [3], class_names=["b", "a", "c"])
    named = write(tmp_path / "named", [4], class_names=["a", "b", "c"])
    with pytest.raises(ConfigurationError, match="equal numbers would mean different classes"):
        run(*named, *swapped)
    objects = tmp_path / "objects.ckpt"
    torch.save({"state_dict": member(3).state_dict(), "hyper_parameters": Foreign()}, objects)
    with pytest.raises(ConfigurationError, match="weights_only: false"):
        run(str(objects))
    run(str(objects), weights_only=False)


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match=r"tau must be in \(0, 1\]"):
        EnsembleAbstention("*.ckpt", tau=1.5)
    with pytest.raises(ValueError, match="target_risk or target_coverage"):
        EnsembleAbstention("*.ckpt", rule="calibrated")
    with pytest.raises(ValueError, match="one a label, goes with multilabel"):
        EnsembleAbstention("*.ckpt", threshold=[0.5, 0.4])
    with pytest.raises(ValueError, match="give numbers between 0 and 1"):
        EnsembleAbstention("*.ckpt", threshold=1.0)
    with pytest.raises(ValueError, match="is a class"):
        EnsembleAbstention("*.ckpt", defer_value=0)
    with pytest.raises(ConfigurationError, match="has no members"):
        trainer(EnsembleAbstention()).test(member(9), ForeignData(), verbose=False)
    callback = EnsembleAbstention([member(1), member(2)], baseline=2)
    with pytest.raises(ConfigurationError, match="numbered 0 to 1"):
        trainer(callback).test(member(9), ForeignData(), verbose=False)


def test_targets_beyond_the_classes() -> None:
    callback = EnsembleAbstention([member(1), member(2)])
    data = TensorDataset(torch.randn(4, 4), torch.tensor([0, 1, 2, 3]))
    with pytest.raises(ConfigurationError, match="targets reach from 0 to 3"):
        trainer(callback).test(member(9), DataLoader(data, batch_size=4), verbose=False)


def test_fit_evaluates_when_asked_and_changes_no_bit(tmp_path: Path) -> None:
    results = []
    paths = write(tmp_path, SEEDS)
    for every in (None, 0, 2):
        callbacks = [] if every is None else [EnsembleAbstention(paths, every_n_epochs=every)]
        run = trainer(*callbacks, max_epochs=3, num_sanity_val_steps=2)
        torch.manual_seed(0)
        module = Foreign()
        run.fit(module, ForeignData())
        results.append(module.state_dict())
        logged = "multiplicity/ambiguity" in run.callback_metrics
        assert logged == (every == 2)
    for state in results[1:]:
        assert all(torch.equal(v, results[0][k]) for k, v in state.items())


class ManyLabels(Foreign):
    def test_step(self, batch: object, batch_idx: int) -> None:
        pass


def test_multilabel(tmp_path: Path) -> None:
    x, _ = samples(20)
    y = (torch.rand(20, CLASSES, generator=torch.Generator().manual_seed(1)) > 0.5).long()
    nets = [member(s) for s in SEEDS]
    callback = EnsembleAbstention(
        nets, rule="unanimous", multilabel=True, report_dir=str(tmp_path / "r")
    )
    run = trainer(callback, default_root_dir=tmp_path)
    run.test(ManyLabels(), DataLoader(TensorDataset(x, y), batch_size=6), verbose=False)
    with torch.no_grad():
        labels = torch.stack([(net(x).sigmoid() >= 0.5).long() for net in nets])
    by_label = [float(functional.ambiguity(labels[..., q])) for q in range(CLASSES)]
    got = callback.metrics[0]
    assert got["macro/ambiguity"] == pytest.approx(sum(by_label) / CLASSES)
    joint = functional.joint_labels(labels)
    assert got["any/ambiguity"] == pytest.approx(float(functional.ambiguity(joint)))
    facts = json.loads((tmp_path / "r/summary.json").read_text())
    assert facts["metrics"]["ambiguity_any_label"] == pytest.approx(got["any/ambiguity"])
    assert [row["ambiguity"] for row in facts["labels"][:-1]] == pytest.approx(by_label)
    found = rows(tmp_path / "r/deferrals.csv")
    assert len(found) == 20 * CLASSES
    decided = functional.decide_multilabel(labels, "unanimous").reshape(-1).tolist()
    assert [int(row["decision"]) for row in found] == decided
    assert found[4]["id"] == "1:1"


def many_labels(n: int, seed: int) -> TensorDataset:
    x, _ = samples(n, seed)
    y = torch.rand(n, CLASSES, generator=torch.Generator().manual_seed(seed)) > 0.5
    return TensorDataset(x, y.long())


class ManyLabelsData(pl.LightningDataModule):
    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(many_labels(60, 2), batch_size=8)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(many_labels(20, 1), batch_size=6)


def test_labels_with_thresholds_and_a_fitted_rule_each(tmp_path: Path) -> None:
    cuts = [0.45, 0.5, 0.6]
    nets = [member(s) for s in SEEDS]
    callback = EnsembleAbstention(
        nets,
        rule="conformal",
        alpha=0.4,
        multilabel=True,
        threshold=cuts,
        defer="sample",
        report_dir=str(tmp_path / "r"),
    )
    trainer(callback, default_root_dir=tmp_path).test(ManyLabels(), ManyLabelsData(), verbose=False)

    def judged(data: TensorDataset) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x, y = data.tensors
        with torch.no_grad():
            probs = torch.stack([net(x).sigmoid() for net in nets])
        labels = functional.hard_labels(probs, "multilabel", torch.tensor(cuts))
        return labels, probs.double(), y

    labels, probs, y = judged(many_labels(60, 2))
    rule = Rule("conformal", alpha=0.4)
    rules = [rule.fit(labels[..., q], y[:, q], probs[..., q]) for q in range(CLASSES)]
    assert callback.label_rules == tuple(rules)
    labels, probs, y = judged(many_labels(20, 1))
    decided = functional.decide_multilabel(labels, rules, probs=probs, defer="sample")
    assert 0 < int((decided < 0).sum()) < decided.numel()
    found = rows(tmp_path / "r/deferrals.csv")
    assert [int(row["decision"]) for row in found] == decided.reshape(-1).tolist()
    got = callback.metrics[0]
    kept = (decided >= 0).all(1)
    assert got["abstain/any/coverage"] == pytest.approx(float(kept.double().mean()))
    assert got["any/ambiguity"] == pytest.approx(
        float(functional.ambiguity(functional.joint_labels(labels)))
    )
    facts = json.loads((tmp_path / "r/summary.json").read_text())
    assert facts["metrics"]["ambiguity_any_label"] == pytest.approx(got["any/ambiguity"])
    assert facts["rule"]["shown"] == "conformal (alpha 0.4), whole samples"
    assert facts["rule"]["threshold"] == [one.calibration.threshold for one in rules]
    assert facts["rule"]["calibration_samples"] == 60
    assert facts["abstain"]["deferred"] == int((decided < 0).sum())


def test_a_threshold_of_two_classes() -> None:
    x, y = samples()
    nets = [member(s, outputs=2) for s in SEEDS]
    callback = EnsembleAbstention(nets, threshold=0.4, rule="unanimous")
    data = TensorDataset(x, (y > 0).long())
    trainer(callback).test(member(9), DataLoader(data, batch_size=5), verbose=False)
    with torch.no_grad():
        labels = torch.stack([(net(x).softmax(-1)[:, 1] >= 0.4).long() for net in nets])
        plain = torch.stack([(net(x).softmax(-1)[:, 1] >= 0.5).long() for net in nets])
    wanted = float(functional.ambiguity(labels))
    assert wanted != float(functional.ambiguity(plain))
    assert callback.metrics[0]["ambiguity"] == pytest.approx(wanted)


def test_a_fitted_rule_is_not_reported_on_its_own_samples(tmp_path: Path) -> None:
    paths = write(tmp_path, SEEDS)
    callback = EnsembleAbstention(paths, rule="conformal", alpha=0.3, report_dir=str(tmp_path))
    with pytest.raises(ConfigurationError, match="would flatter it; use the subcommand test"):
        trainer(callback).validate(member(9), ForeignData(), verbose=False)
    without = EnsembleAbstention(paths, rule="conformal", alpha=0.3)
    (got,) = trainer(without).validate(member(9), ForeignData(), verbose=False)
    assert "multiplicity/ambiguity" in got
    assert "multiplicity/abstain/coverage" not in got


def test_one_output_is_two_classes() -> None:
    x, y = samples()
    nets = [member(s, outputs=1) for s in SEEDS]
    callback = EnsembleAbstention(nets, rule="unanimous")
    data = TensorDataset(x, (y > 0).long())
    trainer(callback).test(member(9), DataLoader(data, batch_size=5), verbose=False)
    with torch.no_grad():
        labels = torch.stack([(net(x)[:, 0] >= 0).long() for net in nets])
    got = callback.metrics[0]
    assert got["ambiguity"] == pytest.approx(float(functional.ambiguity(labels)))
    assert got["dp_disagreement"] == pytest.approx(
        float(2 * (1 - functional.self_consistency(labels)).mean())
    )


def joined_trainer(rank: int, world: int, folder: str, callback: pl.Callback) -> pl.Trainer:
    """The Trainer of one of the processes that another program joined."""
    from in_pool import InPool
    from lightning.pytorch.strategies import DDPStrategy

    environment = InPool(rank, world)
    return trainer(
        callback,
        devices=world,
        strategy=DDPStrategy(cluster_environment=environment, process_group_backend="gloo"),
        default_root_dir=folder,
    )


def evaluate_on_this_rank(
    rank: int, world: int, folder: str, n: int, padded: bool
) -> dict[str, float]:
    callback = EnsembleAbstention(
        str(Path(folder) / "*.ckpt"), rule="unanimous", report_dir=f"{folder}/report"
    )
    run = joined_trainer(rank, world, folder, callback)
    if padded:
        run.test(member(9), ForeignData(n, batch_size=4), verbose=False)
    else:
        from lightning_priv.data.sampling import ShardSampler

        data = TensorDataset(*samples(n))
        loader = DataLoader(data, 3, sampler=ShardSampler(data, world, rank))
        run.test(member(9), loader, verbose=False)
    return callback.metrics[0]


@pytest.mark.ddp
@pytest.mark.parametrize("n", [N, 4])
@pytest.mark.parametrize("padded", [True, False])
def test_two_and_three_processes_equal_one(
    padded: bool, n: int, gloo_pool: GlooPool, three_processes: GlooPool, tmp_path: Path
) -> None:
    """No multiple of the processes: Lightning's sampler repeats some, which must not count."""
    write(tmp_path, SEEDS)
    one = EnsembleAbstention(
        str(tmp_path / "*.ckpt"), rule="unanimous", report_dir=str(tmp_path / "one")
    )
    trainer(one, default_root_dir=tmp_path).test(member(9), ForeignData(n), verbose=False)
    want = (tmp_path / "one/deferrals.csv").read_text().splitlines()
    for pool in (gloo_pool, three_processes):
        found = pool.run(evaluate_on_this_rank, pool.size, str(tmp_path), n, padded)
        for rank in found:
            assert rank["samples"] == n
            assert rank == pytest.approx(one.metrics[0], abs=1e-12, nan_ok=True)
        got = (tmp_path / "report/deferrals.csv").read_text().splitlines()
        assert len(got) == len(want) == n + 1
        assert [line.split(",")[:8] for line in got] == [line.split(",")[:8] for line in want]


class Unpadded(DistributedSampler[Any]):
    """Repeats no sample, and so may leave a process without any."""

    def __init__(self, dataset: Any, num_replicas: int, rank: int) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=False)
        self.total_size = len(dataset)
        self.num_samples = len(range(rank, len(dataset), num_replicas))

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank, self.total_size, self.num_replicas))


@pytest.mark.parametrize(
    ("samples_", "processes", "size", "drop_last", "refused"),
    [
        (1, 2, 3, False, True),
        (2, 2, 3, False, False),
        (2, 3, 1, False, True),
        (3, 2, 2, True, True),  # shares of 2 and 1, of which one makes a batch
        (4, 2, 2, True, False),
        (3, 2, 3, True, False),  # no process has a batch, so none waits
        (0, 2, 3, False, False),
    ],
)
def test_every_process_needs_a_batch(
    samples_: int, processes: int, size: int, drop_last: bool, refused: bool
) -> None:
    data = TensorDataset(torch.zeros(samples_, 4))
    for rank in range(processes):
        shares = Unpadded(data, processes, rank)
        loaders: list[DataLoader[Any]] = [
            DataLoader(data, size, sampler=shares, drop_last=drop_last),
            DataLoader(data, batch_sampler=BatchSampler(shares, size, drop_last)),
        ]
        counts = [len(Unpadded(data, processes, r)) for r in range(processes)]
        least = size if drop_last else 1
        assert refused == (min(counts) < least <= max(counts))
        for loader in loaders:
            with (
                pytest.raises(ConfigurationError, match="without a batch")
                if refused
                else nullcontext()
            ):
                refuse_idle_processes(loader)
    padded: DataLoader[Any] = DataLoader(
        data, size, sampler=DistributedSampler(data, processes, 0), drop_last=drop_last
    )
    refuse_idle_processes(padded)
    refuse_idle_processes(DataLoader(data, size, drop_last=drop_last))


def evaluate_with_an_idle_rank(rank: int, world: int, folder: str, stage: str) -> str:
    """One sample for all processes; Lightning is told to go on without batches."""
    callback = EnsembleAbstention([member(1), member(2)], report_dir=f"{folder}/report")
    run = joined_trainer(rank, world, folder, callback)
    module = member(9)
    module.allow_zero_length_dataloader_with_multiple_devices = True
    data = TensorDataset(*samples(1))
    loader: DataLoader[Any] = DataLoader(data, 3, sampler=Unpadded(data, world, rank))
    try:
        getattr(run, stage)(module, loader, verbose=False)
    except ConfigurationError as error:
        return str(error)
    return "idle"


@pytest.mark.ddp
@pytest.mark.parametrize("stage", ["validate", "test"])
def test_a_process_without_a_batch_is_refused(
    stage: str, gloo_pool: GlooPool, tmp_path: Path
) -> None:
    """The others would wait for it for ever."""
    busy, idle = gloo_pool.run(evaluate_with_an_idle_rank, 2, str(tmp_path), stage)
    assert "leave one of 2 processes without a batch" in busy
    assert idle == "idle"
