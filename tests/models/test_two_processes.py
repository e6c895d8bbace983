"""One and two gloo processes train a hyperbolic network to the same weights."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def train(devices: int, folder: Path) -> dict[str, torch.Tensor]:
    """Ten steps of 32 samples in float64, without batch norm, whose statistics are per process."""
    net, model, data = "--model.init_args.net.init_args", "--model.init_args", "--data.init_args"
    options = {
        "--config": ROOT / "configs/demo/hcnn_digits.yaml",
        f"{net}.norm": "none",
        f"{net}.width": 4,
        f"{model}.optimizer": "lightning_priv.optim.RiemannianSGD",
        f"{model}.optimizer.lr": 0.01,
        f"{model}.optimizer.momentum": 0.9,
        f"{data}.batch_size": 32 // devices,
        "--trainer.devices": devices,
        "--trainer.strategy": "ddp" if devices > 1 else "auto",
        "--trainer.precision": "64-true",
        "--trainer.max_epochs": 2,
        "--trainer.limit_train_batches": 5,
        "--trainer.enable_progress_bar": "false",
        "--trainer.default_root_dir": folder,
    }
    words = [str(word) for pair in options.items() for word in pair]
    command = [sys.executable, "-m", "lightning_priv", "fit", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (path,) = folder.rglob("last.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["global_step"] == 10
    return checkpoint["state_dict"]


@pytest.mark.ddp
def test_two_processes_train_to_the_weights_of_one(tmp_path):
    states = {}
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        folder.mkdir()
        states[devices] = train(devices, folder)
    assert states[1].keys() == states[2].keys()
    for key, value in states[1].items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(states[2][key], value, rtol=0, atol=1e-12, msg=key)
