"""The command line: ``python -m lightning_priv`` and the console script ``lightning-priv``.

Nothing heavy is imported before it is known what was asked for: the help page costs no import of
torch, a calculator imports its own function, and only a training subcommand imports Lightning.
"""

import json
import os
import re
import sys
import warnings
from importlib import import_module
from pathlib import Path

from lightning_priv import __version__
from lightning_priv.config_check import config_files, problems
from lightning_priv.errors import ConfigurationError, PrivacyError
from lightning_priv.files import FULL, FULL_REMEDY

__all__ = ["CALCULATORS", "HELP", "help_page", "main"]

#: Name -> "module:function". The function has typed arguments, a Google docstring and an argument
#: ``format: Literal["table", "json", "csv"] = "table"``, and returns the text for standard output
#: (``lightning_priv.reports.Table.render`` makes it). ``jsonargparse.auto_cli`` adds ``--config``,
#: ``--print_config`` and ``--help``. Its module imports no torch at the top, to answer at once.
CALCULATORS: dict[str, str] = {
    "budget": "lightning_priv.reports.budget:budget",
    "bounds": "lightning_priv.reports.bounds:bounds",
    "plan": "lightning_priv.reports.plan:plan",
    "report": "lightning_priv.reports.comparison:report",
    "schema": "lightning_priv.config_schema:schema",
    "reproduce": "lightning_priv.workflows.reproduce:reproduce",
}

#: Calculators whose words before the first option are values of one option.
WORDS: dict[str, str] = {"report": "runs", "reproduce": "papers"}

#: Their options that may stand alone, without true or false behind them.
FLAGS: dict[str, tuple[str, ...]] = {"reproduce": ("--fast", "--again", "--plan")}

#: Calculators that take the place of a training subcommand where an option or key says so, because
#: LightningCLI would ask for a model: subcommand -> (option, "module:function").
INSTEAD: dict[str, tuple[str, str]] = {
    "lsi": ("features", "lightning_priv.workflows.feature_information:lsi"),
}

#: One line of the help page for each subcommand; ``trainer.py`` says how to add a training one.
HELP: dict[str, str] = {
    "fit": "train a model, with validation",
    "validate": "evaluate on the validation set",
    "test": "evaluate on the test set",
    "predict": "predict with a trained model",
    "active_learn": "label a pool round by round: train, choose the next samples, label them",
    "lsi": "score how informative each training sample is; with --features FILE no model is needed",
    "multiplicity": "train equally valid models; measure where they disagree, and abstain there",
    "audit": "show what an attacker with an image prior recovers from private gradients",
    "budget": "epsilon, noise, sampling rate or steps of DP-SGD from the other three",
    "bounds": "bound the reconstruction of records from a private training",
    "plan": "steps and sampling rates of private active learning",
    "report": "compare runs on one page: accuracy, epsilon, risk, multiplicity",
    "schema": "a JSON schema of the YAML files, by which editors complete keys",
    "reproduce": "run a paper's study; published numbers beside the measured ones",
}

_PAGE = """\
usage: python -m lightning_priv SUBCOMMAND [--config FILE ...] [options]

Private, trustworthy deep learning as PyTorch Lightning parts: a paper is a YAML config.

training subcommands, with trainer:, model: and data: from YAML files or options:
{training}
calculators, without a training; --format table, json or csv:
{calculators}
options:
  -h, --help          this page; SUBCOMMAND --help lists every option of one subcommand
  --version           the version of lightning_priv

Several --config files are merged, the later one wins; --print_config only shows the result.
  python -m lightning_priv fit --config configs/demo/hcnn_digits.yaml
  python -m lightning_priv test --config configs/demo/hcnn_digits.yaml --ckpt_path last

environment:
  WANDB_MODE                  offline (default), online or disabled
  LIGHTNING_PRIV_CALLBACKS    callbacks for every Trainer, for example Dashboard,LinearBaseline
  LIGHTNING_PRIV_TRACEBACK=1  show the traceback of an error that is printed as one line
"""


def help_page() -> str:
    """The page of ``--help``, made from the two tables alone."""
    lines = {name: f"  {name.replace('_', '-'):<18}  {text}\n" for name, text in HELP.items()}
    return _PAGE.format(
        training="".join(line for name, line in lines.items() if name not in CALCULATORS),
        calculators="".join(lines[name] for name in CALCULATORS) or "  (none yet)\n",
    )


def main(args: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: words after the program's name; ``None`` takes ``sys.argv``, which training on several
            processes needs, because the others are started with it again.

    Raises:
        SystemExit: code 2 for a wrong option or file, 1 for an error of ours, 3 for a study of
            which fewer than two members remain, 4 for labels that are awaited, 5 for a data set
            that is not there, 130 after Ctrl-C, 143 after SIGTERM.
    """
    words = sys.argv[1:] if args is None else list(args)
    if words and not words[0].startswith("-"):
        words[0] = words[0].replace("-", "_")
        if words[0] not in HELP:
            known = ", ".join(HELP).replace("_", "-")
            _stop(f"unknown subcommand {words[0]!r}; accepted: {known}; see --help", 2)
        if args is None:
            sys.argv[1] = words[0]
    if not words or words in (["-h"], ["--help"]):
        sys.stdout.write(help_page())
    elif words == ["--version"]:
        sys.stdout.write(f"lightning_priv {__version__}\n")
    else:
        _run(words, from_argv=args is None)


def _run(words: list[str], from_argv: bool) -> None:
    os.environ.setdefault("WANDB_MODE", "offline")
    if os.environ["WANDB_MODE"] != "online":  # W&B reports its own errors over the network
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # the user's own modules, as python -m does it
    wrong = next(problems(words), None)
    if wrong is not None:
        _stop(wrong, 2)
    try:
        place = CALCULATORS.get(words[0]) or _instead(words)
        if place is not None:
            _calculate(place, words[0], _named(words))
        else:
            _train(None if from_argv else words)
    except KeyboardInterrupt:
        _stop("interrupted", 130)
    except OSError as error:
        if error.errno not in FULL:
            raise
        _stop(f"{error}: {FULL_REMEDY}", 1)
    except (PrivacyError, TypeError, ValueError) as error:
        text = _explanation(error)
        if text is None or os.environ.get("LIGHTNING_PRIV_TRACEBACK") == "1":
            raise
        _stop(text, getattr(error, "exit_code", 1))


def _instead(words: list[str]) -> str | None:
    """The calculator that the words, or a configuration file among them, ask for."""
    if words[0] not in INSTEAD:
        return None
    option, place = INSTEAD[words[0]]
    if any(word == f"--{option}" or word.startswith(f"--{option}=") for word in words):
        return place
    texts = (file.read_text(encoding="utf-8", errors="replace") for file in config_files(words))
    found = any(re.search(rf"^{option}\s*:", text, re.MULTILINE) for text in texts)
    return place if found else None


def _named(words: list[str]) -> list[str]:
    """The words behind the subcommand, leading values given to the option that they belong to."""
    flags = FLAGS.get(words[0], ())
    answers = ("true", "false")
    words = [
        f"{word}=true" if word in flags and after not in answers else word
        for word, after in zip(words, [*words[1:], ""], strict=True)
    ]
    options = next((i for i, w in enumerate(words[1:], 1) if w.startswith("-")), len(words))
    values, rest = words[1:options], words[options:]
    if not values or words[0] not in WORDS:
        return words[1:]
    return [f"--{WORDS[words[0]]}={json.dumps(values)}", *rest]


def _calculate(place: str, name: str, words: list[str]) -> None:
    from jsonargparse import auto_cli

    from lightning_priv.suggestions import SuggestingParser

    module, function = place.split(":")
    text = auto_cli(
        getattr(import_module(module), function),
        args=words,
        as_positional=False,
        parser_class=SuggestingParser,
        prog=f"lightning_priv {name}",
    )
    sys.stdout.write(f"{text}\n")


def _train(words: list[str] | None) -> None:
    for category in (FutureWarning, DeprecationWarning):  # geoopt's import; torch chooses the class
        warnings.filterwarnings("ignore", message="`torch.jit.script", category=category)
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from lightning_priv.lightning_cli import PrivacyCLI, strategy_names

    try:
        PrivacyCLI(words)
    except MisconfigurationException as error:
        text = str(error)
        if "configure_optimizers" in text:
            text += " Or add --optimizer torch.optim.Adam --optimizer.lr 1e-3 to the command."
        raise ConfigurationError(text) from error
    except FileNotFoundError as error:
        if "ckpt" not in str(error):
            raise
        raise ConfigurationError(f"{error}; name an existing checkpoint, or last") from error
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        raise ConfigurationError(
            f"{' '.join(str(error).split())[:300]} ... the checkpoint belongs to another network; "
            "run with the config.yaml that lies beside it"
        ) from error
    except ValueError as error:
        if "invalid strategy name" not in str(error):
            raise
        ours = ", ".join(strategy_names()) or "none"
        raise ConfigurationError(f"{error} lightning_priv adds: {ours}.") from error


def _explanation(error: BaseException) -> str | None:
    """The text of an error that this package raised, and that so says what to do; else None."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))
    if isinstance(error, PrivacyError) or module.startswith("lightning_priv."):
        return " ".join(str(error).split())
    if module.startswith("torch.optim."):
        return f"the optimizer: {error}; check lr, momentum and the like in its init_args"
    if not module.startswith("jsonargparse."):
        return None
    if "Errors:" in str(error):
        return _refused(str(error))
    return _explanation(error.__cause__) if error.__cause__ else None  # of a constructor


def _refused(text: str) -> str | None:
    """Of the reasons why a value is of none of several types the one that a constructor gave."""
    key = re.search(r'[Kk]ey "([\w.]+)"', text)
    reasons = re.findall(r"^ *- (.*)$", text.partition("Errors:")[2], re.MULTILINE)
    said = [r for r in reasons if not r.startswith(("Expected a", "Not a valid subclass"))]
    return f"{key.group(1)}: {'; '.join(said)}" if key and said else "; ".join(said) or None


def _stop(message: str, code: int) -> None:
    sys.stderr.write(f"error: {message}\n")
    raise SystemExit(code) from None
