"""What every test stands on: one thread, fixed seeds, an empty working directory, no network."""

import ipaddress
import os
import random
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["WANDB_MODE"] = "disabled"
os.environ["WANDB_ERROR_REPORTING"] = "false"  # else W&B sends crash reports from a thread
os.environ["MPLBACKEND"] = "Agg"

import hypothesis
import numpy as np
import pytest
import torch
from command_line import CommandLine
from gloo_pool import GlooPool

torch.set_num_threads(1)
hypothesis.settings.register_profile(
    "house", deadline=None, max_examples=30, derandomize=True, database=None
)
hypothesis.settings.load_profile("house")


@pytest.fixture(autouse=True)
def _own_folder_and_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  what code under test may draw from
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_wandb_left() -> Iterator[None]:
    """Finish what a test leaves open in W&B, and let the next one read its own environment.

    Lightning's WandbLogger goes on with a run in progress, and W&B keeps the mode that it was
    started with in the process.
    """
    yield
    wandb = sys.modules.get("wandb")
    if wandb is None or not hasattr(wandb, "teardown"):  # not imported, or not to the end
        return
    if wandb.run is not None:
        wandb.finish()
    wandb.teardown()


def _is_local(host: Any) -> bool:
    if host in (None, "", b"", "localhost", b"localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def network_attempts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Refuse every connection and name look-up beyond this machine.

    The test fails at its end even if the code under test caught the error.
    """
    attempts: list[Any] = []

    def refuse(what: Any) -> OSError:
        attempts.append(what)
        return OSError(f"a test tried to reach the network: {what}")

    def guard_method(name: str, address_at: int) -> None:
        original = getattr(socket.socket, name)

        def guarded(self: socket.socket, *args: Any) -> Any:
            address = args[address_at]
            if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
                raise refuse(address)
            return original(self, *args)

        monkeypatch.setattr(socket.socket, name, guarded)

    def guard_lookup(name: str) -> None:
        original: Callable[..., Any] = getattr(socket, name)

        def guarded(host: Any, *args: Any, **kwargs: Any) -> Any:
            if not _is_local(host):
                raise refuse(host)
            return original(host, *args, **kwargs)

        monkeypatch.setattr(socket, name, guarded)

    for name, address_at in (("connect", 0), ("connect_ex", 0), ("sendto", -1)):
        guard_method(name, address_at)
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        guard_lookup(name)
    yield attempts
    if attempts:
        pytest.fail(f"the test tried to reach the network: {attempts}")


@pytest.fixture
def command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> CommandLine:
    """``python -m lightning_priv`` in this process."""
    return CommandLine(capsys, monkeypatch)


@pytest.fixture(scope="session")
def gloo_pool() -> Iterator[GlooPool]:
    """Two processes joined by gloo, started once; ``gloo_pool.run(function, *args)`` runs on both.

    For tests marked ``ddp``. The function stands at the top level of the test file and is called
    as ``function(rank, *args)``.
    """
    pool = GlooPool(2)
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def three_processes() -> Iterator[GlooPool]:
    """As ``gloo_pool``, with three processes: shares of samples that are not even."""
    pool = GlooPool(3)
    yield pool
    pool.close()
