"""Chooses among equal ways to compute, by timing each once on made-up numbers of the same shape."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping

import torch

__all__ = ["Routes"]

_REPEATS = 3
#: a second run is not worth its time if the first one took this many times the best so far
_HOPELESS = 2.0
#: and the rule's route stays unless another one takes less than this part of its time
_WORTH_IT = 0.85


class Routes:
    """Remembers for each kind of layer call which way was fastest.

    All ways give the same numbers up to rounding. Which one is fastest depends on the machine, so
    it is measured; where a run has to be repeatable to the last bit a rule decides instead. A rule
    decides for the first batch too: between two batches, with nothing of either in memory, the
    trials neither raise the peak of memory nor leave it in pieces.

    Args:
        reproducible: never measure; take the route that the rule names.
    """

    def __init__(self, reproducible: bool = False) -> None:
        self.reproducible = reproducible
        self._chosen: dict[Hashable, str] = {}
        self._open: dict[Hashable, tuple[str, Mapping[str, Callable[[], object]], bool]] = {}

    def choose(
        self, key: Hashable, rule: str, trials: Mapping[str, Callable[[], object]], on_gpu: bool
    ) -> str:
        """The name of the route to take.

        Args:
            key: what the answer depends on: kind, shapes, dtype, device.
            rule: the route to take where nothing is measured.
            trials: for each route, one run of it on made-up numbers; they hold no tensors.
            on_gpu: whether to wait for the GPU.
        """
        if len(trials) == 1:
            return next(iter(trials))
        if self.reproducible:
            return rule
        if key not in self._chosen:
            self._open[key] = rule, trials, on_gpu
        return self._chosen.get(key, rule)

    def settle(self) -> None:
        """Measure what was asked for the first time since the last call; between two batches."""
        while self._open:
            key, question = self._open.popitem()
            self._chosen[key] = _fastest(*question)


def _fastest(rule: str, trials: Mapping[str, Callable[[], object]], on_gpu: bool) -> str:
    # the rule's own route first: it is most often the best, and the others stop early
    order = sorted(trials, key=lambda name: name != rule)
    best: dict[str, float] = {}
    for name in order:
        trials[name]()  # kernels are made, memory is fetched
        for _ in range(_REPEATS):
            best[name] = min(best.get(name, float("inf")), _seconds(trials[name], on_gpu))
            if best[name] > _HOPELESS * min(best.values()):
                break
    best[rule] *= _WORTH_IT
    return min(best, key=lambda name: best[name])


def _seconds(run: Callable[[], object], on_gpu: bool) -> float:
    if on_gpu:
        torch.cuda.synchronize()
    # on one thread, processor time: what else the machine does then decides nothing
    clock = time.perf_counter if on_gpu or torch.get_num_threads() > 1 else time.thread_time
    begin = clock()
    run()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - begin
