"""The tests' own foundations: network guard, working directory, gloo pool."""

import contextlib
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_pool import GlooPool

OUTSIDE = ("192.0.2.1", 80)  # a documentation address, RFC 5737


def test_connections_and_lookups_are_refused(network_attempts: list[Any]) -> None:
    with socket.socket() as line, pytest.raises(OSError, match="reach the network"):
        line.connect(OUTSIDE)
    with socket.socket(type=socket.SOCK_DGRAM) as line, pytest.raises(OSError, match="network"):
        line.sendto(b"x", OUTSIDE)
    with pytest.raises(OSError, match="reach the network"):
        socket.create_connection(("example.invalid", 80))
    with contextlib.suppress(OSError):
        socket.gethostbyname("example.invalid")
    # all four are on record, so the test would fail even where the error is caught
    assert len(network_attempts) == 4
    network_attempts.clear()


def test_loopback_is_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(("localhost", server.getsockname()[1])).close()


def test_working_directory_is_empty(tmp_path: Path) -> None:
    assert Path.cwd() == tmp_path
    assert list(tmp_path.iterdir()) == []
    assert torch.get_num_threads() == 1


class Box:
    """An argument whose class the workers only know from this file."""

    def __init__(self, value: float) -> None:
        self.value = value


def total(rank: int, box: Box) -> float:
    x = torch.tensor([box.value + rank])
    torch.distributed.all_reduce(x)
    return float(x)


def fail_on_one(rank: int) -> float:
    if rank == 1:
        raise ValueError("rank one is wrong")
    x = torch.zeros(1)
    torch.distributed.all_reduce(x)  # waits for rank 1
    return float(x)


@pytest.mark.ddp
def test_pool_reduces_over_both_ranks_and_survives_a_failure(gloo_pool: GlooPool) -> None:
    assert gloo_pool.run(total, Box(2.0)) == [5.0, 5.0]
    with pytest.raises(ValueError, match="rank one is wrong") as caught:
        gloo_pool.run(fail_on_one)
    assert "in fail_on_one" in str(caught.value.__cause__)
    assert gloo_pool.run(total, Box(0.0)) == [1.0, 1.0]
