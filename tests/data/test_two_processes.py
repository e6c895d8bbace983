import json
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).with_name("two_processes.py")


def run(devices: int, folder: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-W", "ignore", str(SCRIPT), str(devices), str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    files = [folder / f"{devices}_{rank}.json" for rank in range(devices)]
    return [json.loads(file.read_text()) for file in files]


@pytest.mark.ddp
def test_two_processes_see_what_one_sees(tmp_path: Path) -> None:
    (alone,) = run(1, tmp_path)
    pair = run(2, tmp_path)
    steps = list(zip(*(result["seen"]["train"] for result in pair), strict=True))
    assert [sorted(left + right) for left, right in steps] == [
        sorted(step) for step in alone["seen"]["train"]
    ]
    for part in ("val", "test", "predict"):
        together = chain(*chain(*(result["seen"][part] for result in pair)))
        assert sorted(together) == sorted(chain(*alone["seen"][part]))  # each sample once
        assert len({len(result["seen"][part]) for result in pair}) == 1  # equally many batches
    for result in pair:
        assert result["val"] == pytest.approx(alone["val"], rel=1e-6)
        assert result["test"] == alone["test"] == 16  # the mean of 0..32
        torch.testing.assert_close(
            torch.tensor(result["weights"]), torch.tensor(alone["weights"]), rtol=0, atol=1e-6
        )
