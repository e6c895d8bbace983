"""Audits that log to Weights & Biases, offline: the run holds the pictures, tables and numbers."""

import json
import math
from pathlib import Path

import pytest
from audit_kit import ATTACKS, FEW, QUIET, save_prior
from command_line import CONFIGS, CommandLine
from PIL import Image
from wandb_run import history, media

pytestmark = pytest.mark.whole

WANDB = ("--config", CONFIGS / "base/wandb.yaml")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def assert_pictures(root: Path, audit: Path) -> None:
    """Each picture of the report is in the run as it is in the folder."""
    logged = history(root)
    pictures = {p.stem for p in audit.glob("*.png")}
    assert {"overview", "risk"} < pictures
    for name in pictures:
        (copy,) = media(root, logged[f"audit/{name}"])
        with Image.open(copy) as one, Image.open(audit / f"{name}.png") as other:
            assert one.convert("RGB").tobytes() == other.convert("RGB").tobytes()


def test_the_subcommand(command_line: CommandLine) -> None:
    given = save_prior(Path("given"))
    command_line.ok(
        *("audit", "--config", CONFIGS / "demo/audit_digits.yaml", *WANDB, *FEW),
        *("--methods", ATTACKS, "--model.init_args.path", given, "--mu", "[16]"),
    )
    root = Path("runs/audit_digits")
    assert_pictures(root, root / "audit")
    logged = history(root)
    (table,) = media(root, logged["audit/summary"])
    rows = json.loads(table.read_text())
    assert rows["columns"][:3] == ["mu", "epsilon", "noise"]
    assert [row[0] for row in rows["data"]] == pytest.approx([16])
    assert logged["audit/mu"] == pytest.approx(16)
    summary = json.loads((root / "audit/summary.json").read_text())["summary"]
    for row in summary:
        key = f"audit/{row['attack'].replace(' ', '_')}/{row['metric']}"
        assert logged[key] == pytest.approx(row["mean"])


@pytest.mark.parametrize("private", [True, False])
def test_the_callback_logs_only_what_it_may(command_line: CommandLine, private: bool) -> None:
    command_line.ok(
        *("fit", "--config", CONFIGS / "demo/audit_dp_run.yaml", *WANDB, *QUIET),
        *("--trainer.max_steps", 6, "--trainer.callbacks.init_args.prior", "null"),
        *("--trainer.callbacks.init_args.methods", ATTACKS),
        *("--trainer.callbacks.init_args.log_private", str(private).lower()),
    )
    root = Path("runs/audit_dp_run")
    (audit,) = root.glob("lightning_priv/*/audit")
    assert (audit / "report.html").is_file()
    logged = history(root)
    assert any(key.startswith("train/") for key in logged), sorted(logged)
    if not private:
        assert not [key for key in logged if key.startswith("audit")]
        return
    assert_pictures(root, audit)
    assert {"grid_mu8_run", "grid_mu2", "grid_mu4", "grid_mu16"} <= {
        p.stem for p in audit.iterdir()
    }
    assert media(root, logged["audit/summary"])[0].is_file()
    assert logged["audit/noise_flags"] == 0
    noise = json.loads((audit / "summary.json").read_text())["noise"]
    assert logged["audit/noise_std"] == pytest.approx(noise["estimate"])
    assert math.isfinite(logged["audit/psnr"])
    assert {"audit/wiener/mse", "audit/wiener/mse/mu16_simulated"} <= set(logged)
