"""Processes joined by gloo that are started once and serve all distributed tests.

The processes are new interpreters (a forked one deadlocks after torch was imported); this file is
also their program.
"""

import importlib
import importlib.util
import os
import pickle
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

_TESTS = Path(__file__).parent


class GlooPool:
    """``size`` worker processes in one gloo group.

    A failure on one rank may leave the others waiting for it; then all are ended, and the next
    ``run`` starts new ones.

    Args:
        size: number of processes.
        timeout: seconds to wait for the answers of one ``run``.
        grace: seconds that the other ranks have once one has failed.
    """

    def __init__(self, size: int, timeout: float = 300, grace: float = 5) -> None:
        self.size, self.timeout, self.grace = size, timeout, grace
        self._workers: list[subprocess.Popen[bytes]] = []
        self._lines: list[Connection] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None  # holds the group's store

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Call ``function(rank, *args)`` on every rank; return what it gave, by rank.

        The function must stand at the top level of its module, and arguments and results must be
        picklable. torch is seeded with 0 before. The first error of a rank is raised here, with
        the traceback of that rank as its cause.
        """
        if not self._workers:
            self._start()
        name, file = function.__module__, function.__code__.co_filename
        message = pickle.dumps((name, file, function.__qualname__, pickle.dumps(args)))
        for line in self._lines:
            line.send_bytes(message)
        answers = self._answers()
        for rank in range(self.size):
            if rank in answers and answers[rank][0] is not None:
                error, text = answers[rank]
                raise error from RuntimeError(f"on rank {rank}:\n{text}")
        if len(answers) < self.size:
            missing = sorted(set(range(self.size)) - set(answers))
            raise TimeoutError(f"no answer of ranks {missing} within {self.timeout:g} s")
        return [answers[rank][1] for rank in range(self.size)]

    def close(self) -> None:
        """End the processes."""
        for line in self._lines:
            line.close()
        for worker in self._workers:
            worker.kill()
            worker.wait()
        if self._folder is not None:
            self._folder.cleanup()
        self._lines, self._workers, self._folder = [], [], None

    def _start(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if sys.platform == "linux":
            environment["GLOO_SOCKET_IFNAME"] = "lo"
        for rank in range(self.size):
            here, there = Pipe()
            numbers = [str(n) for n in (there.fileno(), rank, self.size)]
            command = [sys.executable, __file__, self._folder.name, *numbers]
            self._workers.append(
                subprocess.Popen(command, env=environment, pass_fds=[there.fileno()])
            )
            self._lines.append(here)
            there.close()
        for rank, line in enumerate(self._lines):
            if not line.poll(self.timeout) or self._answer(rank, line)[0] is not None:
                self.close()
                raise RuntimeError(f"the worker of rank {rank} did not start")

    def _answers(self) -> dict[int, Any]:
        answers: dict[int, Any] = {}
        end = time.monotonic() + self.timeout
        while len(answers) < self.size and time.monotonic() < end:
            for rank, line in enumerate(self._lines):
                if rank in answers or not line.poll(0.02):
                    continue
                answers[rank] = self._answer(rank, line)
                if answers[rank][0] is not None:
                    end = min(end, time.monotonic() + self.grace)
        if len(answers) < self.size or any("died" in str(a[0]) for a in answers.values()):
            self.close()
        return answers

    def _answer(self, rank: int, line: Connection) -> Any:
        try:
            return pickle.loads(line.recv_bytes())
        except EOFError:
            return RuntimeError(f"rank {rank} died"), ""


def _module(name: str, file: str) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    if _TESTS not in Path(file).parents:
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _call(rank: int, message: bytes) -> bytes:
    import torch

    try:
        name, file, function, args = pickle.loads(message)
        call = getattr(_module(name, file), function)
        torch.manual_seed(0)
        return pickle.dumps((None, call(rank, *pickle.loads(args))))
    except Exception as error:  # noqa: BLE001  it is raised again in the test
        text = traceback.format_exc()
        try:
            return pickle.dumps((error, text))
        except Exception:  # noqa: BLE001  some errors cannot be pickled
            return pickle.dumps((RuntimeError(f"{type(error).__name__}: {error}"), text))


def _serve(folder: str, channel: int, rank: int, size: int) -> None:
    import torch

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=60),
    )
    line = Connection(channel)
    line.send_bytes(pickle.dumps((None, "ready")))
    while True:
        try:
            message = line.recv_bytes()
        except EOFError:  # the tests are over
            os._exit(0)  # other ranks may be gone, so leave no group in order
        line.send_bytes(_call(rank, message))


if __name__ == "__main__":
    _serve(sys.argv[1], *map(int, sys.argv[2:]))
