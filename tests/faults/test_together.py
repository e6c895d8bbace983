"""Two at once: runs in one folder, ranks of which one dies, and clocks that jump."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import CommandLine, digits
from faults_kit import Runs, write
from private_kit import fit, private

from lightning_priv.errors import ConfigurationError
from lightning_priv.files import newest
from lightning_priv.lightning_cli import last_checkpoint
from lightning_priv.locks import RunLock
from lightning_priv.reports.comparison.read import read_run
from lightning_priv.strategies import DPSGDStrategy
from lightning_priv.strategies.ledger import Ledger, read_lineage

DP = {
    "class_path": "lightning_priv.strategies.DPSGDStrategy",
    "init_args": {"noise_multiplier": 1.0, "accountant": "rdp"},
}
HOLD = """
import sys, time
from pathlib import Path
from lightning_priv.locks import RunLock
RunLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(600)
"""


class Other:
    """Another process that works in a folder, until it is killed."""

    def __init__(self, file: Path) -> None:
        words = [sys.executable, "-c", HOLD, str(file)]
        path = os.pathsep.join(p for p in sys.path if p)
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def holder() -> Any:
    made: list[Other] = []

    def hold(file: Path) -> Other:
        made.append(Other(file))
        return made[-1]

    yield hold
    for other in made:
        other.kill()


# -- runs ------------------------------------------------------------------------------------------


def test_a_lock_is_one_process_s_and_ends_with_it(holder: Any) -> None:
    file = Path("runs/.run.lock")
    other = holder(file)
    with pytest.raises(ConfigurationError, match=rf"runs .*process {other.process.pid} .*wait"):
        RunLock(file).acquire()
    os.kill(other.process.pid, signal.SIGKILL)
    other.process.wait()
    with RunLock(file) as lock:  # given back by the death alone
        lock.acquire()  # once more is nothing
        assert f"process {os.getpid()} " in file.read_text()
        with RunLock(file):  # the same process is not kept out
            pass


def test_two_private_trainings_in_one_folder(holder: Any) -> None:
    fit(private(), max_epochs=1)
    before = Path("privacy_ledger.jsonl").read_bytes()
    other = holder(Path(".privacy_ledger.lock"))
    with pytest.raises(ConfigurationError, match="another run works in"):
        fit(private(), max_epochs=1)
    assert Path("privacy_ledger.jsonl").read_bytes() == before
    fit(private(ledger="shared.jsonl"), max_epochs=1)  # one that is named may have several writers
    other.kill()
    fit(private(), max_epochs=1)


@pytest.mark.parametrize("words", [("active-learn",), ("multiplicity",)])
def test_books_have_one_run(words: tuple[str], holder: Any, command_line: CommandLine) -> None:
    holder(Path("runs/digits/.run.lock"))
    path = digits()
    content = yaml.safe_load(path.read_text())
    if words == ("active-learn",):
        content["data"] = {
            "class_path": "lightning_priv.data.ActivePool",
            "init_args": {"base": content["data"], "initial": 50},
        }
    write(path, content)
    outcome = command_line.run(*words, "--config", path)
    assert outcome.code == 1
    assert "another run works in" in outcome.err.splitlines()[-1]
    assert not Path("runs/digits/active").exists()
    assert not Path("runs/digits/members").exists()


def test_several_writers_of_one_ledger_lose_nothing() -> None:
    """Eight processes append to one file at once; each run is counted by itself."""
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from lightning_priv.strategies.ledger import Ledger\n"
        "ledger = Ledger(Path('shared.jsonl'))\nledger.open()\nledger.phase(0, 1.0, 0.5, 'd')\n"
        "for _ in range(40):\n    ledger.step(0)\n    ledger.close()\n"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    running = [
        subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path})
        for _ in range(3)
    ]
    assert [process.wait() for process in running] == [0] * 3
    file = Path("shared.jsonl")
    roots = [json.loads(line)["root"] for line in file.read_text().splitlines() if "root" in line]
    assert len(set(roots)) == 3
    for root in roots:
        lineage = read_lineage(file, root)
        assert lineage.steps.total() == 40
        assert set(lineage.strangers) == set(roots) - {root}


@pytest.mark.faults
def test_two_commands_at_once(tmp_path: Path) -> None:
    """The second of two private trainings in one folder is told so, and the first is not hurt."""
    config = digits(str(tmp_path / "run.yaml"), strategy=DP, max_epochs=400,
                    default_root_dir="runs")  # fmt: skip
    assert config.exists()
    runs = Runs()
    runs.warm(tmp_path)
    first = runs.start(tmp_path, ["fit", "--config", "run.yaml"])
    ledger = tmp_path / "runs/privacy_ledger.jsonl"
    end = time.monotonic() + 120
    while not ledger.exists() or ledger.stat().st_size < 2000:
        assert first.is_alive()
        assert time.monotonic() < end
        time.sleep(0.01)
    second = runs.start(tmp_path, ["fit", "--config", "run.yaml", "--trainer.max_epochs", "1"])
    second.join(120)
    assert second.exitcode == 1
    assert "another run works in" in (tmp_path / "output.txt").read_text()
    assert first.is_alive()
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    roots = {json.loads(n)["root"] for n in ledger.read_text().splitlines() if '"root"' in n}
    assert len(roots) == 1


# -- ranks -----------------------------------------------------------------------------------------


@pytest.mark.faults
@pytest.mark.parametrize("victim", ["rank zero", "rank one"])
def test_a_rank_that_dies(victim: str, tmp_path: Path) -> None:
    """The other one ends by itself with an error; the ledger has every step that was made."""
    strategy = {**DP, "class_path": "lightning_priv.strategies.DPSGDDDPStrategy"}
    strategy["init_args"] = {**DP["init_args"], "process_group_backend": "gloo"}
    config = digits(strategy=strategy, devices=2, max_epochs=3000, callbacks=[
        {"class_path": "private_kit.Witness", "init_args": {"path": "witness"}}])  # fmt: skip
    path = os.pathsep.join(p for p in sys.path if p)
    environment = {**os.environ, "PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo"}
    words = [sys.executable, "-m", "lightning_priv", "fit", "--config", str(config)]
    with Path("output.txt").open("w") as output:
        main = subprocess.Popen(words, stdout=output, stderr=output, env=environment)
    witness, ledger = tmp_path / "witness", tmp_path / "runs/digits/privacy_ledger.jsonl"
    end = time.monotonic() + 240
    while not witness.exists() or witness.stat().st_size < 20:
        assert main.poll() is None, Path("output.txt").read_text()[-2000:]
        assert time.monotonic() < end
        time.sleep(0.05)
    children = [c for c in _children(main.pid) if b"lightning_priv" in _command(c)]
    assert len(children) == 1
    os.kill(main.pid if victim == "rank zero" else children[0], signal.SIGKILL)
    if victim == "rank one":
        assert main.wait(120) != 0
    else:
        main.wait()
        end = time.monotonic() + 120
        while b"lightning_priv" in _command(children[0]):
            assert time.monotonic() < end, "the other rank waits for ever"
            time.sleep(0.1)
    root = json.loads(ledger.read_text().splitlines()[0])["root"]
    made = read_lineage(ledger, root).steps.total()
    released = witness.stat().st_size / 2  # both write a byte a step
    assert released <= made <= released + 2


def _children(pid: int) -> list[int]:
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


# -- clocks ----------------------------------------------------------------------------------------


def report_of(folder: Path, ledger: Ledger, steps: int, epsilon: float, version: int = 0) -> Path:
    path = folder / f"version_{version}/dp_report.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"epsilon": {"rdp": epsilon}, "epsilon_by": "rdp", "delta": 1e-5, "steps": steps,
             "abandoned_steps": 0,
             "ledger": {"root": ledger.root, "run": ledger.run, "charges": steps}}  # fmt: skip
    path.write_text(json.dumps(facts))
    return path


@pytest.mark.parametrize("jump", [-1e6, 0.0, 1e6])
def test_epsilon_does_not_depend_on_the_clock(jump: float) -> None:
    folder = Path("runs")
    ledger = Ledger(folder / "privacy_ledger.jsonl")
    ledger.open()
    ledger.phase(0, 1.0, 0.5, "d")
    for _ in range(3):
        ledger.step(0)
    report = report_of(folder, ledger, 3, 2.0)
    now = time.time()
    os.utime(ledger.path, (now + jump, now + jump))
    os.utime(report, (now, now))
    assert read_run(folder).numbers["privacy/epsilon"].value == 2.0
    ledger.step(0)
    os.utime(ledger.path, (now + jump, now + jump))
    assert read_run(folder).numbers["privacy/epsilon"].value == "more than 2"
    other = Ledger(ledger.path)  # and one that was killed before it could report
    report_of(folder, ledger, 4, 2.5)
    assert read_run(folder).numbers["privacy/epsilon"].value == 2.5
    other.open()
    other.phase(0, 1.0, 0.5, "d")
    other.step(0)
    os.utime(ledger.path, (now + jump, now + jump))
    assert read_run(folder).numbers["privacy/epsilon"].value == "more than 2.5"
    later = report_of(folder, other, 1, 1.0, version=1)
    os.utime(later, (now + jump, now + jump))
    assert read_run(folder).numbers["privacy/epsilon"].value == 1.0  # the newest, by the ledger


def test_the_report_of_a_training_says_how_far_the_ledger_was() -> None:
    fit(DPSGDStrategy(noise_multiplier=1.0, accountant="rdp", report="dp_report.json"),
        max_epochs=2)  # fmt: skip
    said = json.loads(Path("dp_report.json").read_text())["ledger"]
    lineage = read_lineage(Path("privacy_ledger.jsonl"), said["root"])
    assert said["charges"] == lineage.steps.total() == 12
    assert said["run"] == lineage.runs[-1]


def test_the_newest_checkpoint_with_a_clock_that_was_set_back() -> None:
    old, new = Path("runs/old.ckpt"), Path("runs/new.ckpt")
    old.parent.mkdir()
    old.touch()
    new.touch()
    now = time.time()
    os.utime(old, (now - 100, now - 100))
    assert newest([old, new]) == new
    os.utime(old, (now + 1e5, now + 1e5))  # written before the clock was set back

    class Trainer:
        default_root_dir = "runs"
        checkpoint_callbacks: tuple[Any, ...] = ()

    with pytest.warns(UserWarning, match="dated in the future.*name the file"):
        last_checkpoint(Trainer())  # type: ignore[arg-type]
