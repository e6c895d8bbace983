"""A full disk: nothing that was there is lost, no file is a part, and the error says what to do."""

import builtins
import errno
import json
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from active_kit import pool
from command_line import CommandLine, digits
from faults_kit import half_written
from lightning.pytorch.callbacks import ModelCheckpoint
from private_kit import SmallModule, fit, private

from lightning_priv.errors import DiskFullError
from lightning_priv.files import FULL, save_figure, save_tensors, write_atomically, written_whole
from lightning_priv.strategies.ledger import Ledger, read_lineage

LEFT = {"bytes": 0}  # on the imitated disk


class Disk:
    """A disk that takes some more bytes, and then no more, until there is room again."""

    def __init__(self) -> None:
        self.patch = pytest.MonkeyPatch()

    def __call__(self, free: int) -> None:
        imitate(self.patch, free)

    def room(self) -> None:
        self.patch.undo()


@pytest.fixture
def full() -> Iterator[Disk]:
    disk = Disk()
    yield disk
    disk.room()


def imitate(patch: pytest.MonkeyPatch, free: int) -> None:
    """Let what writes in this process find that much room."""
    write, opener = os.write, builtins.open

    def limited(number: int) -> int:
        taken = min(number, LEFT["bytes"])
        LEFT["bytes"] -= taken
        return taken

    def write_some(file: int, data: bytes) -> int:
        taken = limited(len(data))
        if data and not taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data[:taken])

    class Limited:
        """A binary file on that disk."""

        def __init__(self, file: Any) -> None:
            self._file = file

        def write(self, data: Any) -> int:
            size = memoryview(data).nbytes
            taken = limited(size)
            self._file.write(memoryview(data).cast("B")[:taken])
            if taken < size:
                self._file.flush()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return size

        def __enter__(self) -> "Limited":
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    def write_bytes(path: Path, data: bytes) -> int:
        with Limited(opener(path, "wb")) as file:
            return file.write(data)

    LEFT["bytes"] = free
    patch.setattr(os, "write", write_some)
    patch.setattr(Path, "write_bytes", write_bytes)


WRITERS: dict[str, Callable[[Path], None]] = {
    "text": lambda path: write_atomically(path, "new" * 100),
    "tensors": lambda path: save_tensors({"a": torch.zeros(100)}, path),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
@pytest.mark.parametrize("free", [0, 1, 100])
def test_the_old_file_stays(write: Callable[[Path], None], free: int, full: Disk) -> None:
    path = Path("runs/file.json")
    write_atomically(path, "old")
    full(free)
    with pytest.raises(DiskFullError, match=r"runs/file\.json .*no space.*[Mm]ake room"):
        write(path)
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


@pytest.mark.parametrize("number", FULL)
def test_every_kind_of_full(number: int) -> None:
    def full_now(beside: Path) -> None:
        raise OSError(number, "x")

    with pytest.raises(DiskFullError, match="make room"), written_whole(Path("a/b")) as beside:
        full_now(beside)
    assert list(Path("a").iterdir()) == []

    class Figure:
        def savefig(self, path: Path, format: str) -> None:
            path.touch()
            full_now(path)

    with pytest.raises(DiskFullError, match="make room"):
        save_figure(Figure(), Path("a/b.png"))
    assert list(Path("a").iterdir()) == []


@pytest.mark.parametrize("free", [0, 5, 40])
def test_a_ledger(free: int, full: Disk) -> None:
    path = Path("privacy_ledger.jsonl")
    ledger = Ledger(path)
    ledger.open()
    ledger.phase(0, 1.0, 0.5, "d")
    ledger.step(0)
    full(free)
    with pytest.raises(DiskFullError, match="must not be made"):
        ledger.step(0)
    assert read_lineage(path, ledger.root).steps.total() == 1
    full.room()  # room again
    ledger.step(0)
    assert read_lineage(path, ledger.root).steps.total() == 2


def test_a_ledger_that_could_not_begin(full: Disk) -> None:
    ledger = Ledger(Path("privacy_ledger.jsonl"))
    full(10)
    with pytest.raises(DiskFullError):
        ledger.open()
    full.room()
    ledger.open()  # not forgotten: a step of a run that was never opened makes no sense
    ledger.phase(0, 1.0, 0.5, "d")
    ledger.step(0)
    assert read_lineage(ledger.path, ledger.root).steps.total() == 1


def test_private_training(full: Disk) -> None:
    """It stops before the step that could not be written down, and goes on when there is room."""
    saved = ModelCheckpoint(dirpath="ckpt", every_n_train_steps=2, save_top_k=-1, filename="{step}")
    released = []

    class Module(SmallModule):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            released.append(1)
            if len(released) == 5:
                full(20)

    arguments = {"callbacks": [saved], "enable_checkpointing": True}
    with pytest.raises(DiskFullError, match="must not be made"):
        fit(private(), Module(), max_epochs=3, **arguments)
    full.room()
    path = Path("privacy_ledger.jsonl")
    root = json.loads(path.read_text().splitlines()[0])["root"]
    assert read_lineage(path, root).steps.total() == len(released) == 5
    assert list(half_written(Path("ckpt"))) == []
    assert {p.name for p in Path("ckpt").iterdir()} == {"step=2.ckpt", "step=4.ckpt"}
    trainer, _ = fit(private(), max_epochs=3, ckpt_path="ckpt/step=4.ckpt")
    assert trainer.strategy.account.abandoned == 1
    assert read_lineage(path, root).steps.total() == 19  # 18 and the one that was lost


def test_the_books_of_a_pool(full: Disk) -> None:
    made = pool()
    made.setup("fit")
    made.keep(Path("pool.json"))
    before = Path("pool.json").read_bytes()
    full(200)
    with pytest.raises(DiskFullError, match=r"pool\.json"):
        made.save()
    full.room()
    assert Path("pool.json").read_bytes() == before
    made.save()


def test_a_run_on_the_command_line(command_line: CommandLine) -> None:
    """The system's own limit on the size of a file, which the checkpoint passes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    config = digits()
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        outcome = command_line.run("fit", "--config", config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert outcome.code == 1
    last = outcome.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert ".ckpt could not be written" in last
    assert "make room" in last
    assert "Traceback" not in outcome.err
    assert not list(Path("runs").rglob("*.ckpt"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real one, of 400 kB, where the system lets us have it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk is not allowed here; the others are imitated")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_real_disk(small_disk: Path, command_line: CommandLine) -> None:
    config = digits(default_root_dir=str(small_disk / "runs"), max_epochs=30, strategy={
        "class_path": "lightning_priv.strategies.DPSGDStrategy",
        "init_args": {"noise_multiplier": 1.0, "accountant": "rdp"},
    }, callbacks=[{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                   "init_args": {"every_n_epochs": 1, "save_top_k": -1}}])  # fmt: skip
    outcome = command_line.run("fit", "--config", config)
    assert outcome.code == 1, outcome.out
    last = outcome.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert "ake room" in last
    assert "Traceback" not in outcome.err
    broken = [b for b in half_written(small_disk) if "metrics.csv" not in b]
    assert broken == []
    ledger = small_disk / "runs/privacy_ledger.jsonl"
    root = json.loads(ledger.read_text().splitlines()[0])["root"]
    made = read_lineage(ledger, root).steps.total()
    assert made > 0
    checkpoints = sorted(small_disk.rglob("*.ckpt"))
    assert len(checkpoints) > 2
    checkpoints[0].unlink()  # room again
    command_line.ok("test", "--config", config, "--ckpt_path", "last", "--trainer.logger", "false")
    assert read_lineage(ledger, root).steps.total() == made
