"""Learning curves of several acquisition functions over several seeds."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from lightning_priv.acquisition import Acquisition
from lightning_priv.callbacks.media import log_media
from lightning_priv.callbacks.pool_query import choose
from lightning_priv.callbacks.pool_report import keep_media, metric_of
from lightning_priv.data import ActivePool
from lightning_priv.errors import ConfigurationError
from lightning_priv.files import write_atomically
from lightning_priv.models import Classifier
from lightning_priv.reports.labelling import LEVELS, Curves, curves_figure, saving_table
from lightning_priv.reports.tables import Cell, Table
from lightning_priv.workflows.multiplicity.quiet import quiet

from .options import Options
from .rounds import round_seed
from .run import run
from .stacked import StackedRounds, cannot_stack_rounds

__all__ = ["Made", "Maker", "Mode", "StudyResult", "run_study"]

Mode = Literal["auto", "stacked", "separate"]


@dataclass(frozen=True)
class Made:
    """What a run of a seed is made of, as after ``seed_everything(seed)``."""

    trainer: Trainer
    model: LightningModule
    pool: LightningDataModule


class Maker(Protocol):
    """Makes the parts of runs."""

    def run(self, seed: int, folder: Path) -> Made:
        """Trainer, model and pool of a seed, which write to a folder."""

    def models(self, seeds: Sequence[int], folder: Path) -> tuple[Made, list[LightningModule]]:
        """The parts of the first seed, and the model of each."""


@dataclass(frozen=True)
class StudyResult:
    """What a study found.

    Attributes:
        curves: learning curves by acquisition and seed.
        full: mean of the metric with all labels, if it was measured.
        rows: acquisition, seed, round, labels, value.
        queries: global indices of each query by (acquisition, seed).
        metric: what the curves show.
        mode: how the members were trained, and why.
        folder: where the files are.
    """

    curves: list[Curves]
    full: float | None
    rows: list[list[Cell]]
    queries: dict[tuple[str, int], list[tuple[int, ...]]]
    metric: str
    mode: str
    folder: Path

    @property
    def table(self) -> Table:
        """Areas, labels needed and saved; of a loss, which has no level to reach, areas only."""
        levels = () if self.metric.endswith("loss") else LEVELS
        return saving_table(self.curves, self.full, levels)


def run_study(
    trainer: Trainer,
    compare: dict[str, Acquisition],
    seeds: Sequence[int],
    make: Maker,
    options: Options,
    mode: Mode = "auto",
    full_data: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> StudyResult:
    """Train every acquisition with every seed, and compare the learning curves.

    Args:
        trainer: owns folder and loggers; trains nothing.
        compare: acquisitions by name.
        seeds: seeds; each has its own initial weights, initial labels and orders, the same for all
            acquisitions.
        make: makes the parts of runs.
        options: of each run; its acquisition is not used.
        mode: ``stacked`` trains all members of a round at once; ``separate`` makes a run of each;
            ``auto`` stacks where it can be done.
        full_data: also train with all labels, to which the table compares (stacked only).
        say: told how far the study is.

    Raises:
        ConfigurationError: if the members cannot be stacked though ``mode`` says so, or the labels
            are not those of the data set.
    """
    if trainer.world_size > 1:
        raise ConfigurationError("a study runs in one process; set trainer.devices to 1")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds={list(seeds)}: give at least one, each once")
    folder = Path(trainer.default_root_dir) / "compare"
    first, models = make.models(seeds, folder / "stacked")
    pool = _pool(first)
    pool.check_query((options.query_size or pool.query_size) * options.rounds)
    reason = cannot_stack_rounds(first.trainer, models, pool, options)
    if mode == "stacked" and reason:
        raise ConfigurationError(
            f"the members cannot be trained at once: {reason}; use mode: separate"
        )
    stack = mode == "stacked" or (mode == "auto" and not reason)
    count = len(compare) * len(seeds)
    text = f"{count} members at once" if stack else f"{count} runs one after another"
    if not stack and mode == "auto":
        text += f", because {reason}"
    say(text)
    if stack:
        classifiers = [m for m in models if isinstance(m, Classifier)]
        found = _stacked(compare, seeds, first.trainer, pool, classifiers, options, full_data, say)
    else:
        found = _separate(compare, seeds, make, folder, options, say)
    rows, queries, metric, full = found
    names, places = list(compare), list(seeds)
    rows.sort(key=lambda r: (names.index(str(r[0])), places.index(r[1]), r[2]))  # type: ignore[arg-type]
    result = StudyResult(_curves(compare, seeds, rows), full, rows, queries, metric, text, folder)
    _write(trainer, result)
    return result


Found = tuple[list[list[Cell]], dict[tuple[str, int], list[tuple[int, ...]]], str, "float | None"]


def _pool(made: Made) -> ActivePool:
    """The pool, set up."""
    pool = made.pool
    if not isinstance(pool, ActivePool) or pool.oracle != "dataset":
        raise ConfigurationError(
            "a study buys every label once for each acquisition and seed; it needs an ActivePool "
            "with oracle: dataset"
        )
    pool.trainer = made.trainer
    pool.prepare_data()
    pool.setup("fit")
    return pool


def _stacked(
    compare: dict[str, Acquisition],
    seeds: Sequence[int],
    trainer: Trainer,
    whole: ActivePool,
    models: list[Classifier],
    options: Options,
    full_data: bool,
    say: Callable[[str], None],
) -> Found:
    """All members of a round at once."""
    keys = [(name, s) for name in compare for s in range(len(seeds))]
    fixed = whole.seed
    pools = [whole.twin(seeds[s] if fixed is None else fixed) for _, s in keys]
    stack = StackedRounds([models[s] for _, s in keys], whole, trainer)
    shown = models[0].to(stack.dtype)
    epochs = options.train.max_epochs or trainer.max_epochs or 0
    size = options.query_size or whole.query_size
    own_seed = getattr(whole.base, "seed", None)
    tested = getattr(whole.base, "test_dataset" if options.test else "val_dataset")
    metric = "test/accuracy" if options.test else "val/accuracy"
    rows: list[list[Cell]] = []

    def orders(states: Sequence[Any], round: int) -> list[int]:
        return [round_seed(p.seed, round) if own_seed is None else own_seed for p in states]

    with quiet():
        for round in range(options.rounds + 1):
            if options.reset == "weights":
                stack.reset()
            labelled = torch.stack([pool.labelled_indices for pool in pools])
            numbers = range(round * epochs, (round + 1) * epochs)
            stack.train(labelled, orders([p.state for p in pools], round), numbers)
            values = stack.accuracy(tested).tolist()
            for (name, s), value in zip(keys, values, strict=True):
                rows.append([name, seeds[s], round, labelled.shape[1], value])
            say(f"round {round}: {labelled.shape[1]} labels, mean {metric} "
                f"{sum(values) / len(values):.4f}")  # fmt: skip
            if round == options.rounds:
                break
            for m, ((name, _), pool) in enumerate(zip(keys, pools, strict=True)):
                query = choose(
                    trainer,
                    stack.put(m, shown),
                    pool,
                    compare[name],
                    round + 1,
                    size,
                    pool.state.seed,
                    options.pool_subset,
                    **options.how,
                )
                pool.propose(query)
                pool.accept(pool.ask())
        full = None
        if full_data:
            alone = StackedRounds(models, whole, trainer)
            everything = torch.arange(whole.num_records).expand(len(models), -1)
            firsts = [pools[s].state for s in range(len(seeds))]
            alone.reset()
            alone.train(everything, orders(firsts, options.rounds + 1), range(epochs))
            full = float(alone.accuracy(tested).mean())
    queries = {
        (name, seeds[s]): [query.ids for query in pool.history]
        for (name, s), pool in zip(keys, pools, strict=True)
    }
    return rows, queries, metric, full


def _separate(
    compare: dict[str, Acquisition],
    seeds: Sequence[int],
    make: Maker,
    folder: Path,
    options: Options,
    say: Callable[[str], None],
) -> Found:
    """One run after another; each goes on where it was if the study is started again."""
    rows: list[list[Cell]] = []
    queries: dict[tuple[str, int], list[tuple[int, ...]]] = {}
    metric = options.monitor
    for name, acquisition in compare.items():
        for seed in seeds:
            one = make.run(seed, folder / _folder_name(name) / f"seed_{seed}")
            chosen = replace(options, acquisition=acquisition, log_images=0)
            result = run(one.trainer, one.model, one.pool, chosen)
            metric = metric or metric_of(result.rows)
            if metric is None or metric not in result.rows[-1]:
                raise ConfigurationError(
                    f"the runs log {sorted(result.rows[-1])}, nothing of which is the metric "
                    f"{metric!r}; set monitor"
                )
            rows += [[name, seed, r["round"], r["labelled"], r[metric]] for r in result.rows]
            queries[name, seed] = [query.ids for query in result.queries]
            say(f"{name}, seed {seed}: {metric} {result.rows[-1][metric]:.4f}")
    return rows, queries, str(metric), None


def _folder_name(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name).strip("_")


def _curves(
    compare: dict[str, Acquisition], seeds: Sequence[int], rows: list[list[Cell]]
) -> list[Curves]:
    curves = []
    for name in compare:
        mine: list[Any] = [[r for r in rows if r[0] == name and r[1] == seed] for seed in seeds]
        rounds = min(len(each) for each in mine)  # stopping rules may end runs early
        labels = torch.tensor([r[3] for r in mine[0][:rounds]])
        values = torch.tensor([[r[4] for r in each[:rounds]] for each in mine], dtype=torch.float64)
        curves.append(Curves(name, labels, values))
    return curves


def _write(trainer: Trainer, result: StudyResult) -> None:
    """``curves.csv``, ``compare.csv``, ``compare.png`` and ``queries.json``."""
    folder = result.folder
    folder.mkdir(parents=True, exist_ok=True)
    columns = ["acquisition", "seed", "round", "labels", result.metric]
    curves = Table(columns, result.rows)
    write_atomically(folder / "curves.csv", curves.render("csv") + "\n")
    write_atomically(folder / "compare.csv", result.table.render("csv") + "\n")
    queries = [
        {"acquisition": name, "seed": seed, "queries": ids}
        for (name, seed), ids in result.queries.items()
    ]
    write_atomically(folder / "queries.json", json.dumps(queries) + "\n")
    figure = curves_figure(result.curves, result.metric, result.full)
    keep_media(trainer, "active/compare", figure, folder / "compare.png")
    log_media(trainer, "active/saving", result.table)
