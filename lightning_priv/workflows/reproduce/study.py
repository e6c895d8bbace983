"""A paper's study as data: commands, the numbers that they give, and the published ones."""

from dataclasses import dataclass

__all__ = ["CALCULATING", "FEW_STEPS", "Experiment", "Number", "Step", "Study"]

#: Subcommands that print their numbers; the others leave them in the folder of the run.
CALCULATING = ("bounds", "budget", "plan")

#: Options that make a training short enough to see that it runs.
FEW_STEPS = ("--config", "{configs}/base/fast.yaml", "--trainer.enable_progress_bar", "false")


@dataclass(frozen=True, slots=True)
class Step:
    """One command.

    Attributes:
        subcommand: of ``python -m lightning_priv``.
        config: file below the folder of configs.
        words: further words; ``{configs}`` stands for that folder.
    """

    subcommand: str
    config: str
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Number:
    """A number of an experiment, and the published one where it is known.

    Attributes:
        metric: name of the measured number, as the command ``report`` shows it; of a calculator
            the name of the column.
        published: the published number, in ``unit``.
        spread: its published standard deviation.
        source: where in the paper it stands.
        unit: in which both are shown.
        scale: factor from the measured number to ``unit``; 100 for percent.
        where: column and value of the row that is meant, of a calculator with several.
        expected: what the paper says of it where it gives no number.
    """

    metric: str
    published: float | None = None
    spread: float | None = None
    source: str = ""
    unit: str = ""
    scale: float = 1.0
    where: tuple[str, float] | None = None
    expected: str = ""


@dataclass(frozen=True, slots=True)
class Experiment:
    """Commands that are run one after the other in one folder, once for each seed.

    Attributes:
        name: unique in the study; also the name of the folder.
        steps: the commands.
        numbers: what is taken from it.
        data: the data set, by which experiments that lack the same one are told apart.
        seeds: how many seeds the paper takes.
    """

    name: str
    steps: tuple[Step, ...]
    numbers: tuple[Number, ...]
    data: str = ""
    seeds: int = 1


@dataclass(frozen=True, slots=True)
class Study:
    """Everything that a paper measured, and a short form of it without any download.

    Attributes:
        name: what the command line calls it.
        title: authors and title.
        experiments: on the paper's data.
        fast: on data that installed packages ship, in a few steps.
        needs: what the full form takes.
        note: what a reader of the table has to know.
    """

    name: str
    title: str
    experiments: tuple[Experiment, ...]
    fast: tuple[Experiment, ...]
    needs: str
    note: str = ""
