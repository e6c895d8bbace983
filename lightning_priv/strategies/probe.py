"""Asks training_step, on made-up records, whether each record's gradient is its own."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.nn import Parameter
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.data import DataLoader

from lightning_priv.errors import PrivacyError, UnsupportedModuleError
from lightning_priv.nn.per_sample import HooksEngine, PerSampleEngine
from lightning_priv.strategies.validation import protected
from lightning_priv.strategies.views import rows_of_views

__all__ = ["Probe", "ask_probe", "call_training_step"]

_RECORDS = 4
_SEEDS = (0, 1, 2)

Gradients = dict[Parameter, Tensor]


class Probe:
    """Checks on synthetic records that clipping bounds what one record does.

    Four properties: the gradient of a record does not change when the other records of its batch
    do; no buffer takes in what the records hold; the records' gradients add up to the gradient of
    the loss; the loss is the mean (or sum) over the records. No record of the data set is used,
    only the structure of one.

    Args:
        module: copied; its own state is not touched.
        dp_module: name of the part to be trained.
        engine: a fresh engine that forms gradients of single records.
        tolerance: relative difference of norms that rounding may cause.
        views: rows that the training step gets of each record.
    """

    def __init__(
        self,
        module: LightningModule,
        dp_module: str | None,
        engine: HooksEngine,
        tolerance: float,
        views: int = 1,
    ) -> None:
        self._clone = _silent_copy(module)
        self._engine = engine
        self._tolerance = tolerance
        self._views = views
        engine.attach(protected(self._clone, dp_module))

    def run(self, loader: DataLoader[Any], transfer: Callable[[Any], Any]) -> None:
        """Ask.

        Args:
            loader: gives the structure of a record and the collate function.
            transfer: brings a batch to the device, through the user's transfer hooks.

        Raises:
            PrivacyError: saying which property fails.
            MisconfigurationException: if training_step cannot run on made-up records.
        """
        assert loader.collate_fn is not None
        numbers = np.random.default_rng(0)
        example = loader.dataset[0]
        alone = synthetic_like(example, numbers)
        # the others differ as much as they can: all integers (labels, tokens) 0, or all 1
        zeros, ones = (
            [synthetic_like(example, numbers, integer) for _ in range(_RECORDS - 1)]
            for integer in (0, 1)
        )

        def batch(*chosen: Any) -> Any:
            # a copy: transfer hooks and training_step may work in place
            return transfer(copy.deepcopy(loader.collate_fn(list(chosen))))

        self._check_independence(lambda: batch(alone, *zeros), lambda: batch(alone, *ones))
        self._check_buffers(lambda: batch(alone, *zeros), lambda: batch(alone, *ones))
        self._check_reduction(lambda: batch(alone), lambda: batch(*[alone] * _RECORDS))

    def _gradients(self, batch: Any, size: int, seed: int) -> Gradients:
        engine = self._engine
        engine.begin(size, self._views)
        batch = rows_of_views(batch, size, self._views)
        with _seeded(seed):
            try:
                output = call_training_step(self._clone, batch, 0)
            except (PrivacyError, UnsupportedModuleError):
                raise
            except Exception as error:
                raise MisconfigurationException(
                    f"training_step cannot run on made-up records ({type(error).__name__}: "
                    f"{error}); they have the shapes of the data set, floats in [0, 1) and "
                    "integers 0 or 1. If the loss is a mean of one loss a record, with nothing "
                    "shared between records, set probe: false"
                ) from error
            loss = output.get("loss") if isinstance(output, dict) else output
            if loss is None:
                engine.abort()
                return {}
            whole = engine.whole_gradients(loss)
            samples = engine.per_sample_gradients(loss)
        self._check_sum(samples, whole)
        return samples

    def _check_sum(self, samples: Gradients, whole: Gradients) -> None:
        """The records' gradients add up to what autograd says of the whole batch."""
        total = _norm(whole.values())
        for name, parameter in self._clone.named_parameters():
            expected, rows = whole.get(parameter), samples.get(parameter)
            if expected is None and rows is None:
                continue
            found = torch.zeros_like(parameter) if rows is None else rows.sum(0)
            wanted = torch.zeros_like(parameter) if expected is None else expected
            error = float((found - wanted).norm())
            if not error <= self._tolerance * max(float(wanted.norm()), 1e-2 * total):
                raise PrivacyError(
                    f"the gradients of single records of '{name}' do not add up to its gradient: "
                    "it is used outside its layer's forward pass (a weight penalty in the loss, a "
                    "functional call with the layer's weight, a gradient penalty), or its layer is "
                    "not what its class says. Use weight_decay, call layers as modules, or try "
                    "engine: functorch"
                )

    def _check_independence(self, first: Callable[[], Any], second: Callable[[], Any]) -> None:
        for seed in _SEEDS:
            one = self._gradients(first(), _RECORDS, seed)
            two = self._gradients(second(), _RECORDS, seed)
            size = _norm(g[0] for g in one.values())
            change = _norm(
                (one[p][0] if p in one else 0) - (two[p][0] if p in two else torch.zeros_like(p))
                for p in {**one, **two}
            )
            if not change <= self._tolerance * size:
                raise PrivacyError(
                    f"the gradient of a record changes (by {change:.2g}, its norm is {size:.2g}) "
                    "when the other records of its batch do: the loss compares, mixes or weighs "
                    "records (batch norm, contrastive loss, mixup, class weights, a mean over the "
                    "tokens of all records). DP-SGD cannot bound that; take the mean of losses "
                    "that each depend on one record"
                )

    def _check_buffers(self, *batches: Callable[[], Any]) -> None:
        """Buffers go into checkpoints, and into later steps, without noise."""
        before = {n: b.clone() for n, b in self._clone.named_buffers()}
        seen = []
        for batch in batches:
            self._gradients(batch(), _RECORDS, 0)
            seen.append({n: b.clone() for n, b in self._clone.named_buffers()})
            with torch.no_grad():
                for name, buffer in self._clone.named_buffers():
                    if name in before and buffer.shape == before[name].shape:
                        buffer.copy_(before[name])
        one, two = seen
        changed = [n for n in one if n not in two or not _same(one[n], two[n])]
        if changed:
            raise PrivacyError(
                f"training_step writes what the records hold into {', '.join(map(repr, changed))}; "
                "a buffer (running statistics, a codebook, a memory bank) is saved and used "
                "without clipping and noise. Compute it from public data before training, or "
                "leave it out"
            )

    def _check_reduction(self, one: Callable[[], Any], copies: Callable[[], Any]) -> None:
        for layer in self._clone.modules():
            if isinstance(layer, _DropoutNd):
                layer.eval()
        ratios = []
        sizes = []
        for seed in _SEEDS:
            single = _norm(g[0] for g in self._gradients(one(), 1, seed).values())
            repeated = _norm(g[0] for g in self._gradients(copies(), _RECORDS, seed).values())
            sizes.append(single)
            if single > 0:
                ratios.append(repeated / single)
        if not ratios:
            return  # a gradient of zero says nothing
        random_anyway = max(sizes) - min(sizes) > 1e-6 * max(sizes)
        ratio = float(np.median(ratios))
        if not 1 / 1.6 < ratio < 1.6 or (
            not random_anyway and abs(ratio - 1) > 5 * self._tolerance
        ):
            raise PrivacyError(
                f"a record counts {ratio:.3g} times as much in a batch of {_RECORDS} as alone, "
                f"although loss_reduction is '{self._engine.loss_reduction}'; "
                + (
                    "the loss looks like a sum: set loss_reduction: sum"
                    if ratio > 1
                    else "the loss looks like a mean: set loss_reduction: mean"
                )
            )


def ask_probe(
    strategy: Strategy,
    loader: DataLoader[Any],
    dp_module: str | None,
    engine: PerSampleEngine,
    views: int = 1,
) -> str:
    """Run the probe on the strategy's module; says what came of it."""
    module = strategy.lightning_module
    assert module is not None
    if not module.automatic_optimization:
        return "not run: manual optimization"
    mixed = module.trainer.precision == "bf16-mixed"
    # the engine that will train, where it can show gradients of single records
    kind = type(engine) if isinstance(engine, HooksEngine) else HooksEngine

    def transfer(batch: Any) -> Any:
        batch = strategy.precision_plugin.convert_input(batch)
        batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
        return Strategy.batch_to_device(strategy, batch)

    fresh = kind(engine.loss_reduction, engine.reproducible)
    Probe(module, dp_module, fresh, 5e-2 if mixed else 1e-2, views).run(loader, transfer)
    return "passed"


def call_training_step(module: LightningModule, batch: Any, batch_idx: int) -> Any:
    """The user's training step under the trainer's precision."""
    arguments = [batch]
    if is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2):
        arguments.append(batch_idx)
    with module.trainer.precision_plugin.train_step_context(), torch.enable_grad():
        return module.training_step(*arguments)


def synthetic_like(value: Any, numbers: np.random.Generator, integer: int | None = None) -> Any:
    """A made-up value of the same structure: floats in [0, 1), integers 0 or 1, short texts.

    Args:
        value: what to imitate.
        numbers: source of the values.
        integer: the value of all integers; None draws each.
    """
    if isinstance(value, Tensor):
        made = _drawn(value.is_floating_point(), tuple(value.shape), numbers, integer)
        return torch.from_numpy(made).to(value.dtype)
    if isinstance(value, np.ndarray | np.generic):
        return _drawn(value.dtype.kind == "f", value.shape, numbers, integer).astype(value.dtype)
    if isinstance(value, bool | int | float):
        return type(value)(_drawn(isinstance(value, float), (), numbers, integer))
    if isinstance(value, str):
        return " ".join(numbers.choice(["a", "the", "of", "and"], size=3))
    if isinstance(value, dict):
        return {k: synthetic_like(v, numbers, integer) for k, v in value.items()}
    if isinstance(value, list | tuple):
        parts = [synthetic_like(v, numbers, integer) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        return dataclasses.replace(
            value, **{name: synthetic_like(v, numbers, integer) for name, v in fields.items()}
        )
    return value


def _drawn(
    floats: bool, shape: tuple[int, ...], numbers: np.random.Generator, integer: int | None
) -> npt.NDArray[np.float64]:
    if integer is not None and not floats:
        return np.full(shape, float(integer))
    drawn = numbers.random(shape)
    return np.asarray(drawn if floats else np.round(drawn))


def _silent_copy(module: LightningModule) -> LightningModule:
    trainer = module.trainer
    shared = (trainer, trainer.strategy, getattr(trainer, "datamodule", None))
    try:
        # attributes may lead to the trainer (an optimizer that the command line has made does)
        clone = copy.deepcopy(module, {id(part): part for part in shared})
    except (TypeError, RuntimeError) as error:
        raise MisconfigurationException(
            f"{type(module).__name__} cannot be copied for the start-up probe ({error}); if its "
            "loss is a mean of one loss a record, with nothing shared between records, set probe: "
            "false"
        ) from error
    clone.trainer = trainer
    silent: Any = lambda *_, **__: None  # noqa: E731
    clone.log = clone.log_dict = silent  # type: ignore[method-assign]
    return clone


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """All global generators seeded inside, and as before outside."""
    python, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the user's code may use the global generator
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)  # noqa: NPY002


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), equal_nan=True)


def _norm(tensors: Any) -> float:
    return float(sum(float(t.double().square().sum()) for t in tensors)) ** 0.5
