"""Members on one and two gloo processes become the same."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

NET = {"class_path": "lightning_priv.nn.MLP", "init_args": {"in_features": 64, "num_classes": 10}}


def train(devices: int, rung: str, folder: Path) -> dict[str, torch.Tensor]:
    """Ten steps of 32 samples in float64, with clipping and a bootstrap sample for each member."""
    config = {
        "trainer": {
            "accelerator": "cpu",
            "devices": devices,
            "strategy": "ddp" if devices > 1 else "auto",
            "precision": "64-true",
            "max_epochs": 2,
            "limit_train_batches": 5,
            "enable_progress_bar": False,
            "default_root_dir": str(folder),
        },
        "model": {
            "class_path": "lightning_priv.models.StackedMembers",
            "init_args": {
                "net": NET,
                "num_classes": 10,
                "members": 3,
                "bootstrap": True,
                "gradient_clip_val": 0.5,
                "rung": rung,
                "optimizer": {
                    "class_path": "torch.optim.SGD",
                    "init_args": {"lr": 0.1, "momentum": 0.9},
                },
            },
        },
        "data": {
            "class_path": "lightning_priv.data.Digits",
            "init_args": {"batch_size": 32 // devices},
        },
    }
    folder.mkdir()
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "lightning_priv", "fit", "--config", str(path)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (written,) = folder.rglob("*.ckpt")
    checkpoint = torch.load(written, weights_only=True)
    assert checkpoint["global_step"] == 10
    scores = checkpoint["members"]["scores"]
    state = checkpoint["state_dict"]
    return state | {name: torch.tensor(values) for name, values in scores.items()}


@pytest.mark.ddp
@pytest.mark.parametrize("rung", ["engine", "vmap"])
def test_two_processes_train_to_the_members_of_one(rung: str, tmp_path: Path) -> None:
    states = [train(devices, rung, tmp_path / str(devices)) for devices in (1, 2)]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        bound = 1e-12 if value.dtype == torch.float64 else 1e-6  # scores are float32
        torch.testing.assert_close(states[1][key], value, rtol=0, atol=bound, msg=key)
