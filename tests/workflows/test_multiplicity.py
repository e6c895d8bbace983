import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import CommandLine, digits

from lightning_priv.callbacks.study_member import write_record
from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.multiplicity import Rule, ambiguity, hard_labels
from lightning_priv.models import Classifier, EnsembleModule
from lightning_priv.nn import MLP
from lightning_priv.workflows.multiplicity.plan import Variation, planned_sets

pytestmark = pytest.mark.whole


def config(name: str = "study.yaml", data: dict[str, Any] | None = None, **keys: Any) -> Path:
    """Three members of an MLP on the digits: 9 batches in 2 epochs."""
    content = yaml.safe_load(digits(name, num_sanity_val_steps=0).read_text())
    content["data"]["init_args"] = {"batch_size": 64, "val_size": 0.2, **(data or {})}
    content |= {"members": 3, "criterion": {"name": "all"}, "mode": "loop", **keys}
    Path(name).write_text(yaml.safe_dump(content))
    return Path(name)


def rows(path: str | Path) -> list[dict[str, str]]:
    with Path(path).open() as file:
        return list(csv.DictReader(file))


def state(path: str | Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return found


ROOT = Path("runs/digits")


def test_from_nothing_to_the_report_and_again(command_line: CommandLine) -> None:
    """Members are lone runs, the report counts their votes, and nothing is trained twice."""
    file = config()
    shown = command_line.ok("multiplicity", "--config", file)
    assert shown.count("trained in") == 3
    members = [ROOT / f"members/seed{k}/member.ckpt" for k in range(3)]
    alone = ("--trainer.default_root_dir", "runs/alone", "--seed_everything", "2")
    content = yaml.safe_load(file.read_text())
    for key in ("members", "criterion", "mode"):
        del content[key]
    Path("alone.yaml").write_text(yaml.safe_dump(content))
    command_line.ok("fit", "--config", "alone.yaml", *alone)
    (lone,) = Path("runs/alone").rglob("*.ckpt")
    assert all(torch.equal(v, state(members[2])[k]) for k, v in state(lone).items())

    from lightning_priv.data import Digits

    data = Digits(val_size=0.2)
    data.setup()
    x, y = data.test_dataset.inputs(), data.test_dataset.targets
    nets = []
    for path in members:
        net = Classifier(MLP(64, 10, dropout=0.2), 10).eval()
        net.load_state_dict(state(path))
        nets.append(net)
    with torch.no_grad():
        labels = hard_labels(torch.stack([net(x).softmax(-1) for net in nets]))
    report = ROOT / "report"
    facts = json.loads((report / "summary.json").read_text())
    best = next(n for n, row in enumerate(facts["member_table"]) if row["best"])
    assert facts["metrics"]["ambiguity"] == pytest.approx(float(ambiguity(labels, best)))
    assert facts["members"] == 3
    assert [row["file"] for row in facts["member_table"]] == [str(path) for path in members]
    assert len(rows(report / "deferrals.csv")) == len(y) == 360
    assert {p.stem for p in (report / "figures").iterdir()} == {
        *("members", "consensus", "conflict", "risk_coverage", "growth", "contested", "groups")
    }
    module = EnsembleModule.load(report / "ensemble.ckpt", nets[0])
    assert module.class_names == list("0123456789")
    decided = [int(row["decision"]) for row in rows(report / "deferrals.csv")]
    assert module.judge(x)["prediction"].tolist() == decided
    logged = rows(ROOT / "version_0/metrics.csv")
    values = [r["multiplicity/ambiguity"] for r in logged if r.get("multiplicity/ambiguity")]
    assert [float(v) for v in values] == [facts["metrics"]["ambiguity"]]

    times = [path.stat().st_mtime_ns for path in members]
    members[1].unlink()
    before = (report / "deferrals.csv").read_bytes()
    shown = command_line.ok("multiplicity", "--config", file)
    assert "2 of 3 members are there already" in shown
    assert shown.count("trained in") == 1
    assert [members[k].stat().st_mtime_ns for k in (0, 2)] == [times[0], times[2]]
    assert (report / "deferrals.csv").read_bytes() == before

    glob = ("--members", f"{ROOT}/members/seed*/member.ckpt", "--report_dir", "runs/glob")
    command_line.ok("multiplicity", "--config", file, *glob)
    again = json.loads(Path("runs/glob/summary.json").read_text())
    assert again["metrics"] == facts["metrics"]

    outcome = command_line.run("multiplicity", "--config", file, "--trainer.max_epochs", "3")
    assert outcome.code == 1
    assert "was trained with another configuration" in outcome.err


@pytest.mark.slow
def test_stack_and_loop_make_the_same_members(command_line: CommandLine) -> None:
    keys = {"vary": ["init", "data_order"], "drivers": 2}
    command_line.ok("multiplicity", "--config", config(**keys))
    other = ("--trainer.default_root_dir", "runs/stack", "--mode", "vmap")
    shown = command_line.ok("multiplicity", "--config", config(**keys), *other)
    assert "3 members trained at once" in shown
    names = {p.parent.name for p in (ROOT / "members").glob("*/member.ckpt")}
    assert names == {"seed0", "seed1", "seed2", "init0-order1", "init1-order0"}
    for name in names:
        one, other_one = (
            state(f"{root}/members/{name}/member.ckpt") for root in (ROOT, "runs/stack")
        )
        if name.startswith("seed"):
            continue  # dropout draws differ
        assert one.keys() == other_one.keys()
    for name in ("drivers.csv", "members.csv"):
        mine, theirs = rows(ROOT / "report" / name), rows(Path("runs/stack/report") / name)
        assert [r.keys() for r in mine] == [r.keys() for r in theirs]
    table = {row["driver"]: row for row in rows(ROOT / "report/drivers.csv")}
    assert set(table) == {"init", "data_order", "together"}
    assert {row["equal_members"] for row in table.values()} == {"2"}


@pytest.mark.slow
def test_capacity_sweep_and_hyperparameters(command_line: CommandLine) -> None:
    key = "model.init_args.net.init_args.dropout"
    keys = {
        "vary": ["init", "hyperparameters"],
        "hyperparameters": {key: [0.0, 0.2]},
        "widths": [3, 64],
        "sweep_members": 2,
        "mode": "vmap",
    }
    command_line.ok("multiplicity", "--config", config(**keys))
    names = {p.parent.name for p in (ROOT / "members").glob("*/member.ckpt")}
    # dropout 0.2 and width 64 are those of the configuration, so they have no name of their own
    assert names == {
        *("seed0-dropout0.0", "init1-order0", "init2-order0-dropout0.0"),
        *("seed0-hidden_3-dropout0.0", "init1-order0-hidden_3"),
    }
    table = rows(ROOT / "report/capacity.csv")
    assert [(row["capacity"], row["members"]) for row in table] == [
        ("width 3", "2"),
        ("width 64", "2"),
    ]
    assert [int(row["parameters"]) for row in table] == [64 * 3 + 3 + 40, 64 * 64 + 64 + 650]
    assert (ROOT / "report/figures/capacity.png").is_file()


@pytest.mark.slow
def test_architectures_side_by_side(command_line: CommandLine) -> None:
    def block(net: str, **arguments: Any) -> dict[str, Any]:
        inner = {"class_path": f"lightning_priv.nn.{net}", "init_args": arguments}
        outer = {"net": inner, "num_classes": 10}
        return {"class_path": "lightning_priv.models.Classifier", "init_args": outer}

    hyperbolic = {"depth": 10, "num_classes": 10, "variant": "l", "width": 4, "in_channels": 1}
    keys = {
        "members": 2,
        "vary": ["architecture"],
        "architectures": [
            block("MLP", in_features=64, num_classes=10, hidden=[8]),
            block("HyperbolicResNet", **hyperbolic),
        ],
        "trainer.limit_train_batches": 2,
    }
    limit = keys.pop("trainer.limit_train_batches")
    command_line.ok(
        "multiplicity", "--config", config(**keys), "--trainer.limit_train_batches", limit
    )
    table = rows(ROOT / "report/members.csv")
    assert [row["member"] for row in table] == ["seed0-model0", "seed0-model1"]
    weights = state(ROOT / "members/seed0-model1/member.ckpt")
    assert any("stem" in key or "stages" in key or "conv" in key for key in weights)


BROKEN = """
import torch
from lightning_priv.models import Classifier

class Breaks(Classifier):
    def on_train_start(self) -> None:
        if torch.initial_seed() % 2:
            raise RuntimeError("an odd seed")
"""


def test_failed_members_are_reported(command_line: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "their_members.py").write_text(BROKEN)
    content = yaml.safe_load(config(members=4).read_text())
    content["model"]["class_path"] = "their_members.Breaks"
    Path("study.yaml").write_text(yaml.safe_dump(content))
    sys.path.insert(0, str(tmp_path))
    try:
        shown = command_line.ok("multiplicity", "--config", "study.yaml")
        assert "member seed1 failed: RuntimeError: an odd seed" in shown
        table = rows(ROOT / "report/members.csv")
        assert [row["member"] for row in table] == ["seed0", "seed2"]
        assert "an odd seed" in (ROOT / "members/seed3/error.txt").read_text()
        facts = json.loads((ROOT / "report/summary.json").read_text())
        assert any("2 members could not be trained" in note for note in facts["notes"])
        outcome = command_line.run("multiplicity", "--config", "study.yaml", "--members", "[0, 1]")
        assert outcome.code == 3
        assert "1 of 2 members could be trained" in outcome.err
    finally:
        sys.path.remove(str(tmp_path))


def test_one_member_is_a_study_without_disagreement(command_line: CommandLine) -> None:
    command_line.ok("multiplicity", "--config", config(members=1))
    facts = json.loads((ROOT / "report/summary.json").read_text())
    assert facts["metrics"]["ambiguity"] == 0
    assert facts["metrics"]["pairwise_disagreement"] is None
    page = (ROOT / "report/report.html").read_text()
    assert "One model alone judged 360 samples of the test set" in page
    Path("twins").mkdir()
    for name in ("a", "b"):
        shutil.copy(ROOT / "members/seed0/member.ckpt", f"twins/{name}.ckpt")
    twins = ("--members", "twins/*.ckpt", "--report_dir", "runs/twins")
    shown = command_line.ok("multiplicity", "--config", "study.yaml", *twins)
    assert "Members a, b have equal weights: one opinion counts 2 times" in " ".join(shown.split())


@pytest.mark.slow
def test_same_samples_for_choice_and_measurement_are_refused(
    command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_data.py").write_text(
        "from lightning_priv.data import Digits\n\n"
        "class SameSplit(Digits):\n"
        "    def val_dataloader(self):\n"
        "        return self.test_dataloader()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    content = yaml.safe_load(config(members=2).read_text())
    content["data"]["class_path"] = "their_data.SameSplit"
    content["model"]["init_args"]["net"]["init_args"]["hidden"] = [4]
    Path("study.yaml").write_text(yaml.safe_dump(content))
    outcome = command_line.run("multiplicity", "--config", "study.yaml")
    assert outcome.code == 1
    assert "360 samples are both in validation and in test" in outcome.err
    command_line.ok("multiplicity", "--config", "study.yaml", "--allow_same_split", "true")


def test_thresholds_of_equal_sensitivity(command_line: CommandLine) -> None:
    """Each member reaches it on validation; the deployed ensemble has the same thresholds."""
    content = yaml.safe_load(config(members=3, match_sensitivity=0.9).read_text())
    content["data"] = {
        "class_path": "lightning_priv.data.BreastCancer",
        "init_args": {"batch_size": 32, "val_size": 0.25},
    }
    net = content["model"]["init_args"]["net"]["init_args"]
    net |= {"in_features": 30, "num_classes": 2}
    content["model"]["init_args"]["num_classes"] = 2
    Path("study.yaml").write_text(yaml.safe_dump(content))
    command_line.ok("multiplicity", "--config", "study.yaml")

    from lightning_priv.data import BreastCancer

    data = BreastCancer(val_size=0.25)
    data.setup()
    template = Classifier(MLP(30, 2, dropout=0.2), 2)
    module = EnsembleModule.load(ROOT / "report/ensemble.ckpt", template)
    assert module.thresholds is not None
    held_out = data.val_dataset
    assert held_out is not None
    p = module(held_out.inputs())[..., 1][:, held_out.targets == 1].double()
    sensitivity = (p >= torch.tensor(module.thresholds)[:, None].double() - 1e-6).double().mean(1)
    assert bool(((sensitivity >= 0.9) & (sensitivity < 0.93)).all())
    decided = [int(row["decision"]) for row in rows(ROOT / "report/deferrals.csv")]
    assert module.judge(data.test_dataset.inputs())["prediction"].tolist() == decided


def test_a_fitted_rule_has_samples_of_its_own(command_line: CommandLine) -> None:
    """A half of the 288 validation samples chooses the set, the other half calibrates."""
    criterion = {"name": "absolute", "epsilon": 0.9}
    content = yaml.safe_load(config(members=3, criterion=criterion).read_text())
    options = {"rule": "calibrated", "target_risk": 0.5}
    content["trainer"]["callbacks"] = [
        {"class_path": "lightning_priv.callbacks.EnsembleAbstention", "init_args": options}
    ]
    Path("study.yaml").write_text(yaml.safe_dump(content))
    command_line.ok("multiplicity", "--config", "study.yaml")
    facts = json.loads((ROOT / "report/summary.json").read_text())
    assert facts["notes"][-1] == (
        "144 validation samples chose the set and the 144 others calibrated the rule."
    )

    from lightning_priv.data import Digits

    data = Digits(val_size=0.2)
    data.setup()
    template = Classifier(MLP(64, 10, dropout=0.2), 10)
    module = EnsembleModule.load(ROOT / "report/ensemble.ckpt", template)
    assert data.val_dataset is not None
    probs = module(data.val_dataset.inputs()).double()
    order = torch.randperm(288, generator=torch.Generator().manual_seed(0))
    choosing, own = order[144:], order[:144]
    accuracy = (probs.argmax(-1) == data.val_dataset.targets)[:, choosing].double().mean(1)
    shown = [row["validation"] for row in facts["member_table"]]
    assert shown == pytest.approx(accuracy.tolist())
    rule = Rule("calibrated", target_risk=0.5).fit(probs[:, own], data.val_dataset.targets[own])
    assert module.rule == rule
    assert rule.calibration is not None
    assert facts["rule"]["threshold"] == rule.calibration.threshold < 1.1
    decided = [int(row["decision"]) for row in rows(ROOT / "report/deferrals.csv")]
    assert module.judge(data.test_dataset.inputs())["prediction"].tolist() == decided


def test_private_members_have_one_account(command_line: CommandLine) -> None:
    from lightning_priv.accountants import epsilon

    strategy = {
        "class_path": "lightning_priv.strategies.DPSGDStrategy",
        "init_args": {"target_epsilon": 2.0, "max_grad_norm": 1.0, "delta": 1e-4},
    }
    content = yaml.safe_load(config(members=2, epsilons=[2.0, float("inf")]).read_text())
    content["trainer"] |= {"strategy": strategy, "max_epochs": 1, "limit_train_batches": 1.0}
    content["model"]["init_args"]["net"]["init_args"]["dropout"] = 0.0
    Path("study.yaml").write_text(yaml.safe_dump(content))
    shown = command_line.ok("multiplicity", "--config", "study.yaml")
    accounts = [
        json.loads((ROOT / f"members/seed{k}/member.json").read_text())["privacy"] for k in (0, 1)
    ]
    history = [tuple(entry) for account in accounts for entry in account["history"]]
    together = epsilon(history, 1e-4, accountant="pld")
    assert together > 2.2
    facts = json.loads((ROOT / "report/summary.json").read_text())
    assert facts["account"]["epsilon"] == pytest.approx(together)
    assert f"epsilon {together:.4g} at delta 0.0001" in " ".join(shown.split())
    table = {row["privacy"]: row for row in rows(ROOT / "report/privacy.csv")}
    assert float(table["epsilon 2"]["epsilon_composed"]) == pytest.approx(together)
    assert table["epsilon inf"]["epsilon_composed"] == ""
    assert (ROOT / "report/figures/privacy.png").is_file()
    assert "privacy/epsilon_composed" in rows(ROOT / "version_0/metrics.csv")[-1]


def test_members_of_a_killed_stack_are_kept(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the finished members move to their folders, the study trains none again."""
    from lightning_priv.workflows.multiplicity import stack

    file, moved = config(mode="vmap"), []

    def killed_at_the_second(folder: Path, facts: dict[str, Any]) -> None:
        if moved:
            raise RuntimeError("killed")
        moved.append(folder)
        write_record(folder, facts)

    with monkeypatch.context() as patch:
        patch.setattr(stack, "write_record", killed_at_the_second)
        with pytest.raises(RuntimeError, match="killed"):
            command_line.run("multiplicity", "--config", file)
    assert [p.parent for p in (ROOT / "members").glob("seed*/member.ckpt")] == moved
    shown = command_line.ok("multiplicity", "--config", file)
    assert "3 of 3 members are there already" in shown
    assert not list((ROOT / "members").rglob("finished.json"))
    for k in range(3):
        record = json.loads((ROOT / f"members/seed{k}/member.json").read_text())
        assert record["epochs"] == 2


def test_a_stack_does_not_stand_for_the_best_epochs(command_line: CommandLine) -> None:
    content = yaml.safe_load(config(members=2, mode="vmap").read_text())
    saver = "lightning.pytorch.callbacks.ModelCheckpoint"
    content["trainer"]["callbacks"] = [
        {"class_path": saver, "init_args": {"monitor": "val/loss", "mode": "min"}}
    ]
    Path("study.yaml").write_text(yaml.safe_dump(content))
    outcome = command_line.run("multiplicity", "--config", "study.yaml")
    assert outcome.code == 1
    assert "keeps the best epoch of each member" in outcome.err


@pytest.mark.slow
def test_the_callback_of_a_study_through_the_command_line(command_line: CommandLine) -> None:
    """Members of the best epoch each, so in a loop; test and predict decide as the study did."""
    content = yaml.safe_load(config(members=3, mode="auto").read_text())
    saver = "lightning.pytorch.callbacks.ModelCheckpoint"
    content["trainer"]["callbacks"] = [
        {"class_path": saver, "init_args": {"monitor": "val/loss", "mode": "min"}}
    ]
    Path("study.yaml").write_text(yaml.safe_dump(content))
    shown = command_line.ok("multiplicity", "--config", "study.yaml")
    assert "loop: ModelCheckpoint keeps the best epoch" in shown
    assert shown.count("trained in") == 3
    decided = [row["decision"] for row in rows(ROOT / "report/deferrals.csv")]
    options = {"members": f"{ROOT}/members", "report_dir": "runs/callback"}
    content["trainer"]["callbacks"] = [
        {"class_path": "lightning_priv.callbacks.EnsembleAbstention", "init_args": options}
    ]
    for key in ("members", "criterion", "mode"):
        del content[key]
    Path("callback.yaml").write_text(yaml.safe_dump(content))
    member = str(ROOT / "members/seed0/member.ckpt")
    for stage in ("test", "predict"):
        command_line.ok(stage, "--config", "callback.yaml", "--ckpt_path", member)
        assert [row["decision"] for row in rows("runs/callback/deferrals.csv")] == decided, stage


@pytest.mark.slow
def test_a_kill_loses_the_running_member_only(tmp_path: Path) -> None:
    """kill -9 while the second member trains: the first stays, the rest is trained on resume."""
    file = config(members=3)
    command = [sys.executable, "-m", "lightning_priv", "multiplicity", "--config", str(file)]
    command += ["--trainer.max_epochs", "40"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first, second = (ROOT / f"members/seed{k}" for k in (0, 1))
    end = time.monotonic() + 240
    while not ((first / "member.ckpt").is_file() and (second / "metrics.csv").is_file()):
        assert process.poll() is None, "the study ended before it was killed"
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = (first / "member.ckpt").stat().st_mtime_ns
    assert not (second / "member.ckpt").exists()
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "1 of 3 members are there already" in done.stdout
    assert (first / "member.ckpt").stat().st_mtime_ns == kept
    assert len(rows(ROOT / "report/members.csv")) == 3


@pytest.mark.slow
def test_processes_make_the_members_of_the_loop(command_line: CommandLine) -> None:
    command_line.ok("multiplicity", "--config", config())
    other = ("--trainer.default_root_dir", "runs/jobs", "--mode", "processes", "--jobs", "2")
    command_line.ok("multiplicity", "--config", config(), *other)
    for k in range(3):
        one, two = (state(f"{root}/members/seed{k}/member.ckpt") for root in (ROOT, "runs/jobs"))
        assert all(torch.equal(v, two[key]) for key, v in one.items())


@pytest.mark.ddp
@pytest.mark.parametrize("mode", ["loop", "vmap"])
def test_training_and_report_on_two_processes(mode: str, command_line: CommandLine) -> None:
    """Members are trained by both processes; one report, with each of the 360 samples once."""
    file = config(members=2, data={"batch_size": 32}, mode=mode)
    command = [sys.executable, "-m", "lightning_priv", "multiplicity", "--config", str(file)]
    command += ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report: ") == 1
    found = (ROOT / "report/deferrals.csv").read_text()
    assert len(found.splitlines()) == 361
    one = ("--report_dir", "runs/one")
    command_line.ok("multiplicity", "--config", file, *one)
    again = Path("runs/one/deferrals.csv").read_text()
    drop = [line.split(",")[:8] for line in found.splitlines()]
    assert drop == [line.split(",")[:8] for line in again.splitlines()]


def base_config() -> dict[str, Any]:
    net = {"class_path": "N", "init_args": {"hidden": [8, 8], "dropout": 0.1}}
    return {
        "seed_everything": 5,
        "trainer": {"callbacks": [{"class_path": "x.EnsembleAbstention"}], "max_epochs": 1},
        "model": {"class_path": "M", "init_args": {"net": net}},
        "data": {"class_path": "D", "init_args": {"seed": 3, "num_workers": 0}},
    }


def test_plans() -> None:
    vary = Variation(("init",), {}, ())
    sets = planned_sets(base_config(), Path("m"), [5, 6], vary, drivers=3, widths=[8, 2])
    assert [one.kind for one in sets] == ["main", "driver", "capacity", "capacity"]
    main = sets[0].plans
    assert [plan.name for plan in main] == ["seed5", "init6-order5"]
    assert [plan.config["seed_everything"] for plan in main] == [5, 6]
    # the data module's own seed stays, because the order is not varied
    assert {plan.config["data"]["init_args"]["seed"] for plan in main} == {3}
    assert [plan.name for plan in sets[1].plans] == ["seed5", "init6-order5", "init7-order5"]
    assert [plan.name for plan in sets[2].plans] == [plan.name for plan in main]
    narrow = sets[3].plans[0]
    assert narrow.config["model"]["init_args"]["net"]["init_args"]["hidden"] == [2, 2]
    assert [c["class_path"] for c in narrow.config["trainer"]["callbacks"]] == [
        "lightning_priv.callbacks.StudyMember"
    ]
    assert len({plan.digest for one in sets for plan in one.plans}) == 5
    # where and how it is computed does not matter
    moved = base_config()
    moved["data"]["init_args"]["num_workers"] = 4
    moved["trainer"]["devices"] = 2
    assert planned_sets(moved, Path("n"), [5, 6], vary)[0].plans[0].digest == main[0].digest


def test_plans_of_order_alone() -> None:
    (one,) = planned_sets(base_config(), Path("m"), [5, 6], Variation(("data_order",), {}, ()))
    assert [plan.name for plan in one.plans] == ["seed5", "init5-order6"]
    assert [plan.config["data"]["init_args"]["seed"] for plan in one.plans] == [5, 6]
    member = one.plans[1].config["trainer"]["callbacks"][-1]["init_args"]
    assert member["order_seed"] == 6


def test_wrong_variations() -> None:
    with pytest.raises(ValueError, match="name at least one of"):
        Variation((), {}, ())
    with pytest.raises(ValueError, match="belong together"):
        Variation(("hyperparameters",), {}, ())
    with pytest.raises(ConfigurationError, match="there is no 'width' among"):
        planned_sets(
            base_config(),
            Path("m"),
            [0],
            Variation(("init",), {}, ()),
            widths=[2],
            width_key="model.init_args.net.init_args.width",
        )
