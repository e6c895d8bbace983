"""Files that are cut off or changed: each is refused with its name and what to do.

Small files are cut at every byte. What is whole without its last newline may be read; then it
must give what the whole file gives.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from active_kit import go, pool
from command_line import CommandLine, digits
from faults_kit import seeded
from lightning.pytorch.callbacks import ModelCheckpoint
from private_kit import fit, private

from lightning_priv.data import Digits, Portion
from lightning_priv.data.feature_files import read_features
from lightning_priv.errors import PrivacyError
from lightning_priv.files import read_tensors, save_tensors
from lightning_priv.models import DiffusionPrior
from lightning_priv.reports.comparison.read import read_run
from lightning_priv.reports.information.corruption import numbers_by_id
from lightning_priv.reports.information.parts import find_parts, write_part
from lightning_priv.strategies.checkpoint_files import CheckpointFiles
from lightning_priv.strategies.ledger import Ledger, read_lineage
from lightning_priv.workflows.active_learning.record import Record
from lightning_priv.workflows.visual_audit import prior as priors


def cuts(path: Path, most: int = 4000) -> Iterator[int]:
    """Lengths to which a file is cut, every one of a small file; it is whole again afterwards."""
    whole = path.read_bytes()
    moments = seeded(len(whole))
    lengths = (
        range(len(whole))
        if len(whole) <= most
        else {0, 1, len(whole) - 1, *(moments.randrange(len(whole)) for _ in range(30))}
    )
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        yield length
    path.write_bytes(whole)


def refused(
    path: Path,
    read: Callable[[], Any],
    equal: Callable[[Any], bool],
    most: int = 4000,
    kinds: tuple[type[BaseException], ...] = (PrivacyError,),
    name: str | None = None,
) -> int:
    """Cut a file everywhere; returns how often reading it was refused, by name."""
    times = 0
    for length in cuts(path, most):
        try:
            found = read()
        except kinds as error:  # noqa: PERF203
            assert (name or path.name) in str(error), f"cut to {length}: {error}"  # noqa: PT017
            times += 1
        else:
            assert equal(found), f"cut to {length}, it was read, and otherwise than the whole file"
    return times


def test_checkpoints() -> None:
    path = Path("small.ckpt")
    save_tensors({"state_dict": {"a": torch.arange(3.0)}, "epoch": 1}, path)
    size = path.stat().st_size
    assert refused(path, lambda: CheckpointFiles().load_checkpoint(path), lambda _: False) == size


def test_checkpoints_with_other_bytes() -> None:
    """One byte changed: refused, or it was one that does not matter."""
    path = Path("small.ckpt")
    save_tensors({"state_dict": {"a": torch.arange(300.0)}, "epoch": 1}, path)
    whole, times = path.read_bytes(), 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            found = read_tensors(path)
        except PrivacyError as error:
            times += path.name in str(error)
        else:
            assert torch.equal(found["state_dict"]["a"], torch.arange(300.0)), place
            assert found["epoch"] == 1
    assert times > 1200  # all bytes of the numbers, and more; and by name


def test_a_checkpoint_on_the_command_line(command_line: CommandLine) -> None:
    command_line.ok("fit", "--config", digits(), "--trainer.max_epochs", 1)
    [path] = Path("runs/digits").rglob("*.ckpt")
    whole = path.read_bytes()
    for words in (("fit",), ("test",), ("lsi",), ("multiplicity", "--members")):
        path.write_bytes(whole[: len(whole) // 3])
        more = words[1:] or ("--ckpt_path",)
        outcome = command_line.run(words[0], "--config", digits(), *more, path)
        assert outcome.code == 1
        assert path.name in outcome.err.splitlines()[-1]
        assert "Traceback" not in outcome.err


def test_a_ledger() -> None:
    path = Path("privacy_ledger.jsonl")
    ledger = Ledger(path)
    ledger.open(records=9)
    ledger.phase(0, 1.0, 0.5, "d")
    for _ in range(5):
        ledger.step(0)
    ledger.close()
    whole = path.read_bytes()
    for length in cuts(path):
        kept = whole[:length]
        lines = kept.count(b"\n")
        complete = kept.endswith(b"}") or kept.endswith(b"\n") or not kept
        steps = max(0, lines - 2 + (kept.endswith(b"}") and lines > 1))
        for _ in range(2):  # as it is, and after another run has gone on with it
            lineage = read_lineage(path, ledger.root)
            assert lineage.steps.total() == steps, length
            if length < whole.index(b"\n"):
                break
            again = Ledger(path, ledger.root, ledger.run)
            again.open()
            again.phase(0, 1.0, 0.5, "d")
            again.step(0)
            again.close()
            steps += 1
        assert complete or lines < whole.count(b"\n")


def test_a_ledger_that_lost_steps_is_refused_on_resume() -> None:
    saved = ModelCheckpoint(dirpath="ckpt", every_n_train_steps=6, save_top_k=-1, filename="{step}")
    fit(private(), max_epochs=2, callbacks=[saved], enable_checkpointing=True)
    path = Path("privacy_ledger.jsonl")
    places = [i for i, byte in enumerate(path.read_bytes()) if byte == 10][2:-1]
    for length in [places[0], places[3] + 20, places[-1] - 5]:  # before the checkpoint's last step
        whole = path.read_bytes()
        path.write_bytes(whole[:length])
        with pytest.raises(PrivacyError, match=r"privacy_ledger.*(lacks|cannot|sense)"):
            fit(private(), max_epochs=3, ckpt_path="ckpt/step=12.ckpt")
        path.write_bytes(whole)
    _, spent = private(), fit(private(), max_epochs=3, ckpt_path="ckpt/step=12.ckpt")[0]
    assert spent.strategy.steps >= 18


def test_the_books_of_a_pool() -> None:
    made = pool()
    made.setup("fit")
    made.keep(Path("pool.json"))
    path = Path("pool.json")
    whole = json.loads(path.read_text())

    def read() -> Any:
        again = pool()
        again.setup("fit")
        again.keep(path, resume=True)
        return json.loads(path.read_text())

    assert refused(path, read, lambda found: found == whole) == path.stat().st_size - 1
    for nonsense in ("[]", "{}", '{"state": 3}', '{"state": {}, "queries": [], "answers": []}'):
        path.write_text(nonsense)
        with pytest.raises(PrivacyError, match=r"pool\.json"):
            read()


def test_the_record_of_rounds() -> None:
    go("runs", rounds=2, epochs=1)
    folder = Path("runs/active")
    path = folder / "rounds.json"
    whole = json.loads(path.read_text())
    settings, rows = whole["settings"], whole["rows"]
    times = refused(path, lambda: Record.open(folder, settings), lambda r: r.rows == rows, 6000)
    assert times == path.stat().st_size - 1
    for nonsense in ("[]", "{}", "3"):
        path.write_text(nonsense)
        with pytest.raises(PrivacyError, match=r"rounds\.json"):
            Record.open(folder, settings)
    path.write_text(json.dumps(whole))
    [checkpoint] = folder.glob("round_*.ckpt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(PrivacyError, match=checkpoint.name):
        go("runs", rounds=3, epochs=1)


def test_a_prior() -> None:
    prior = DiffusionPrior(block_channels=(8, 8), norm_groups=4, save_dir=None)
    prior.save_pretrained("prior")
    files = [f for f in sorted(Path("prior").rglob("*")) if f.is_file()]
    assert {f.suffix for f in files} >= {".json", ".safetensors"}
    weights = [p.clone() for p in prior.average.parameters()]

    def equal(found: DiffusionPrior) -> bool:
        return all(map(torch.equal, weights, found.average.parameters()))

    for path in files:
        if path.name == "model_index.json":
            continue  # diffusers alone reads it
        most = 400 if path.suffix == ".json" else 10
        whole = path.read_bytes()
        read = partial(DiffusionPrior.from_pretrained, "prior")
        name = path.name if path.suffix == ".json" else "prior"
        times = refused(path, read, equal, most, name=name)
        assert times > 0 or path.name == "training_hashes.json"
        assert path.read_bytes() == whole


def test_the_mark_of_a_kept_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.pytorch import Trainer

    monkeypatch.setattr(priors, "_key", lambda *_: "the key")
    model = DiffusionPrior(block_channels=(8, 8), norm_groups=4, save_dir=None)
    model.save_pretrained("prior")
    path = Path("prior/audit_cache.json")
    path.write_text(json.dumps({"key": "the key", "model": "m"}))
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_steps=0)
    times = refused(
        path,
        lambda: priors.ready_prior(trainer, model, Digits(), Path("prior")),
        lambda _: False,
    )
    assert times == path.stat().st_size
    path.write_text('["no object"]')
    with pytest.raises(PrivacyError, match="not trained"):  # as if there were none
        priors.ready_prior(trainer, model, Digits(), Path("prior"))


def test_kept_features() -> None:
    ids = torch.arange(5)
    batch = (ids, torch.rand(5, 3), ids % 2)
    write_part(Path("kept"), [batch], 0, 1)
    files = sorted(Path("kept").iterdir())
    assert len(files) == 4
    for path in files:
        whole = path.read_bytes()

        read = partial(find_parts, Path("kept"))
        assert refused(path, read, lambda _: False, name="0-of-1") == len(whole)
        for place in range(len(whole)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            try:
                [found] = read()
            except PrivacyError:
                continue
            assert path.suffix == ".json"  # white space, for example
            assert torch.equal(found.ids, ids)
            np.testing.assert_array_equal(found.features, batch[1].numpy())
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_arrays(name: str) -> None:
    path, ids = Path(name), torch.arange(4)
    (np.savez if name.endswith("z") else np.save)(name, np.arange(4))
    size = path.stat().st_size
    kinds = (PrivacyError, ValueError)
    for read in (lambda: read_features(path), lambda: numbers_by_id(path, ids, "labels")):
        assert refused(path, read, lambda _: False, kinds=kinds) == size


def test_scores() -> None:
    data = Digits()
    data.setup()
    ids, labels = data.train_dataset.ids.tolist(), data.train_dataset.targets.tolist()
    lines = ["index,label,lsi_full"]
    lines += [f"{i},{y},{i / 7:.6f}" for i, y in zip(ids, labels, strict=True)]
    path = Path("scores.csv")
    path.write_text("\n".join(lines) + "\n")

    def read() -> Any:
        from lightning_priv.data.portion import read_scores

        return read_scores(path, data.train_dataset)

    assert refused(path, read, lambda _: False) == 33  # a large file: 33 places
    assert Portion(Digits(), "scores.csv") is not None


def test_files_that_a_report_reads() -> None:
    folder = Path("runs/a")
    (folder / "version_0").mkdir(parents=True)
    facts = {
        "epsilon": {"pld": 3.0, "rdp": 9.0},
        "epsilon_by": "pld",
        "delta": 1e-5,
        "steps": 150,
        "abandoned_steps": 0,
    }
    report = folder / "version_0/dp_report.json"
    report.write_text(json.dumps(facts) + "\n")
    log = folder / "version_0/metrics.csv"
    log.write_text("epoch,val/accuracy\n0,0.5\n1,0.75\n")
    curve = folder / "active/curve.csv"
    curve.parent.mkdir()
    curve.write_text("round,labelled,test/accuracy\n0,10,0.5\n1,20,0.625\n")
    whole = {k: e.value for k, e in read_run(folder).numbers.items()}
    assert whole["active/test_accuracy"] == 0.625

    def read() -> dict[str, Any]:
        return {k: e.value for k, e in read_run(folder).numbers.items()}

    assert refused(report, read, lambda found: found == whole) == report.stat().st_size - 1
    # a table that ends with a whole row is a good one; no number is cut off
    some = {None, 0.5, 0.625}
    times = refused(curve, read, lambda found: found.get("active/test_accuracy") in some)
    assert times == curve.stat().st_size - 2
    # a logger appends: a line that is not whole is left out, and no number is cut off
    values = {0.5, 0.75}
    assert refused(log, read, lambda f: f.get("val/accuracy", 0.5) in values) == 0
    log.write_text("epoch,val/accuracy\n0,0.5\n1,0.7")
    assert any("not complete" in note for note in read_run(folder).notes)


def test_configurations_never_end_in_a_traceback(command_line: CommandLine) -> None:
    """A YAML file has no end mark: cut off, it may be another good one. It never ends badly."""
    path = digits()
    moments, whole = seeded(3), path.read_bytes()
    codes = set()
    for length in [0, *sorted(moments.sample(range(1, len(whole)), 14))]:
        path.write_bytes(whole[:length])
        outcome = command_line.run("fit", "--config", path, "--print_config")
        codes.add(outcome.code)
        assert outcome.code in (0, 2), length
        assert "Traceback" not in outcome.err
        if outcome.code:
            assert outcome.err.startswith("error: ")
    assert codes == {0, 2}


def test_files_of_people() -> None:
    for nonsense in ("one\ntwo\n", "1.5\n", "\x00"):
        Path("initial.txt").write_text(nonsense)
        with pytest.raises(PrivacyError, match=r"initial\.txt"):
            pool(initial="initial.txt").setup("fit")
    Path("initial.txt").write_bytes(b"\xff\xfe1")
    with pytest.raises(PrivacyError, match=r"initial\.txt"):
        pool(initial="initial.txt").setup("fit")


def test_a_folder_in_place_of_a_file() -> None:
    Path("x.ckpt").mkdir()
    with pytest.raises(PrivacyError, match=r"x\.ckpt"):
        read_tensors(Path("x.ckpt"))
    shutil.rmtree("x.ckpt")
    if os.geteuid() != 0:  # root may read everything
        Path("x.ckpt").touch(mode=0)
        with pytest.raises(PrivacyError, match=r"x\.ckpt"):
            read_tensors(Path("x.ckpt"))
