import io
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lightning_priv.callbacks import RandomState


def draw() -> tuple[float, ...]:
    legacy = np.random
    return random.random(), legacy.random(), legacy.normal(), torch.rand(()).item()


def resumed(state: dict[str, Any], world_size: int) -> None:
    callback = RandomState()
    callback.load_state_dict(state)
    callback.on_fit_start(SimpleNamespace(world_size=world_size), None)  # type: ignore[arg-type]


def test_generators_continue_through_a_file() -> None:
    draw()  # leaves half of a pair of normals in the state
    file = io.BytesIO()
    torch.save(RandomState().state_dict(), file)
    expected = draw()
    draw()
    file.seek(0)
    state = torch.load(file, weights_only=True)
    resumed(state, world_size=1)
    assert draw() == expected


def test_several_processes_are_left_alone() -> None:
    state = RandomState().state_dict()
    expected = draw()
    resumed(state, world_size=2)
    assert draw() != expected


def test_without_a_checkpoint_nothing_is_set() -> None:
    state = RandomState().state_dict()
    expected = draw()
    resumed(state, world_size=1)
    RandomState().on_fit_start(SimpleNamespace(world_size=1), None)  # type: ignore[arg-type]
    assert draw() == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_generator_continues() -> None:
    torch.rand((), device="cuda")
    state = RandomState().state_dict()
    expected = torch.rand((), device="cuda")
    resumed(state, world_size=1)
    assert torch.rand((), device="cuda") == expected
