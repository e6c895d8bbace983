"""The calculator ``bounds``: what an adversary can reconstruct from a private training."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning_priv.errors import PrivacyError
from lightning_priv.files import newest, save_figure, write_atomically
from lightning_priv.functional.reconstruction import (
    RunRisk,
    noise_for_mse,
    noise_for_psnr,
    reconstruction_risk,
    rero_glrt,
    rero_subsampled_gaussian_inverse,
    risk_corridor,
    subsampled_gaussian_noise,
)
from lightning_priv.reports.tables import Cell, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["bounds"]

Phase = tuple[float, float, int]
Sweep = Literal["noise_multiplier", "epsilon", "dimension", "steps", "sample_rate", "max_norm"]


@dataclass(frozen=True)
class _Setting:
    """One point to evaluate."""

    history: tuple[Phase, ...]
    dimension: int
    max_norm: float
    data_range: float
    gamma: float
    kappa: float
    delta: float

    def risk(self) -> RunRisk:
        return reconstruction_risk(
            self.history,
            self.dimension,
            self.max_norm,
            self.gamma,
            self.kappa,
            self.delta,
            self.data_range,
        )


def bounds(
    noise_multiplier: float | None = None,
    sample_rate: float = 1.0,
    steps: int = 1,
    shape: str | list[int] | None = None,
    dimension: int | None = None,
    max_norm: float | None = None,
    data_range: float = 1.0,
    gamma: float = 0.05,
    kappa: float = 0.1,
    delta: float | None = None,
    target_psnr: float | None = None,
    target_mse: float | None = None,
    target_success: float | None = None,
    target_epsilon: float | None = None,
    max_grad_norm: float | None = None,
    run: Path | None = None,
    sweep: Sweep | None = None,
    values: list[float] | None = None,
    format: Literal["table", "json", "csv"] = "table",
    out: Path | None = None,
) -> str:
    """Bound what an adversary can reconstruct from DP-SGD: the risk corridor in numbers.

    One end is the best attack from scratch, without prior or candidates (PSNR, MSE); the other the
    identification of the record among candidates, certified for every adversary. Give the noise,
    or a target that it is computed from, or a finished run.

    Args:
        noise_multiplier: noise standard deviation divided by max_grad_norm.
        sample_rate: probability that a step uses a record.
        steps: number of steps.
        shape: shape of a record, for example 3,32,32; or give dimension.
        dimension: number of values of a record.
        max_norm: L2 norm of a record as the network sees it (after normalisation); the smallest
            norm of the data covers all records. Take it from a public value: computing it from
            private data is a release of its own.
        data_range: width of the pixel range, 1 for [0, 1] images.
        gamma: success probability to which PSNR and MSE belong.
        kappa: success probability of guessing among the candidates, 1/n for n of them.
        delta: failure probability of epsilon; by default that of the run, or 1e-5.
        target_psnr: find the noise for which this PSNR is reached with probability gamma.
        target_mse: find the noise for which this MSE is reached with probability gamma.
        target_success: find the noise that keeps the identification at this probability.
        target_epsilon: find the noise of this epsilon.
        max_grad_norm: clipping norm, to state what the attack needs to reach it.
        run: folder of a DP run (with dp_report.json), or that file: noise, rate, steps and delta
            are taken from it.
        sweep: quantity to vary.
        values: its values.
        format: table, json (a list of objects) or csv.
        out: folder for corridor.png and the numbers as bounds.csv and bounds.json.

    Returns:
        The text for standard output.

    Raises:
        ValueError: for missing, contradictory or impossible arguments.
    """
    size = _dimension(shape, dimension)
    if max_norm is None:
        raise ValueError(
            "max_norm is missing: give the L2 norm of a record as the network sees it; an image of "
            f"{size} values around 0.5 has about {0.5 * math.sqrt(size):.3g}"
        )
    targets = {
        "target_psnr": target_psnr,
        "target_mse": target_mse,
        "target_success": target_success,
        "target_epsilon": target_epsilon,
    }
    if run is not None:
        if noise_multiplier is not None or any(t is not None for t in targets.values()):
            raise ValueError("run already says the noise; leave noise_multiplier and targets out")
        history, reported = _read_run(run)
        delta = reported if delta is None else delta
    delta = 1e-5 if delta is None else delta
    if run is None:
        law = (size, max_norm, data_range, gamma, kappa, delta)
        if sweep == "noise_multiplier" and noise_multiplier is None:
            noise_multiplier = _values(values)[0]
        if sweep == "epsilon" and noise_multiplier is None:
            targets["target_epsilon"] = _values(values)[0]
        noise = _solve_noise(noise_multiplier, targets, sample_rate, steps, *law)
        history = ((noise, sample_rate, steps),)
    setting = _Setting(history, size, max_norm, data_range, gamma, kappa, delta)
    if sweep is None:
        if values is not None:
            raise ValueError("values are given without sweep: say which quantity they are of")
        table, text = _single(setting, targets, max_grad_norm, format)
    else:
        table = _sweep(setting, sweep, _values(values))
        text = table.render(format)
    if out is not None:
        _write(out, table, setting, sweep)
    return text


def _dimension(shape: str | list[int] | None, dimension: int | None) -> int:
    if (shape is None) == (dimension is None):
        raise ValueError("give either shape (for example 3,32,32) or dimension, and only one")
    if dimension is not None:
        return dimension
    parts = shape.replace("x", ",").split(",") if isinstance(shape, str) else shape or []
    try:
        sizes = [int(part) for part in parts]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise ValueError(f"shape must be positive whole numbers such as 3,32,32; got {shape!r}")
    return math.prod(sizes)


def _values(values: list[float] | None) -> list[float]:
    if not values:
        raise ValueError("sweep needs values: a list such as [0.1, 1, 10]")
    return values


def _read_run(path: Path) -> tuple[tuple[Phase, ...], float | None]:
    """Phases and delta of a run's report; of several cohorts the one that is most at risk."""
    file = path / "dp_report.json" if path.is_dir() else path
    if path.is_dir() and not file.exists():
        found = list(path.rglob("dp_report.json"))
        file = newest(found) if found else file
    if not file.exists():
        raise PrivacyError(
            f"{file} does not exist; give the folder of a run with DPSGDStrategy, which writes its "
            "dp_report.json at the end of the training"
        )
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        histories = [report["history"]] if "history" in report else []
        histories += [cohort["history"] for cohort in report.get("cohorts", [])]
        cohorts = [
            tuple((float(s), float(q), int(t)) for s, q, t in history if int(t))
            for history in histories
        ]
        delta = report.get("delta")
        delta = None if delta is None else float(delta)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PrivacyError(f"{file} is not a report of a DP run: {error!r}") from error
    cohorts = [cohort for cohort in dict.fromkeys(cohorts) if cohort]
    if not cohorts:
        raise PrivacyError(f"{file} holds no step: nothing was released, so nothing is at risk")
    # the largest expected precision of an adversary's average
    riskiest = max(cohorts, key=lambda c: sum(q * t / s**2 if s else math.inf for s, q, t in c))
    return riskiest, delta


def _solve_noise(
    noise_multiplier: float | None,
    targets: Mapping[str, float | None],
    sample_rate: float,
    steps: int,
    size: int,
    max_norm: float,
    data_range: float,
    gamma: float,
    kappa: float,
    delta: float,
) -> float:
    given = {name: value for name, value in targets.items() if value is not None}
    if (noise_multiplier is not None) + len(given) != 1:
        names = ", ".join(["noise_multiplier", *targets, "run"])
        raise ValueError(f"give exactly one of {names}")
    if noise_multiplier is not None:
        return noise_multiplier
    name, target = next(iter(given.items()))
    if name == "target_success":
        if target <= kappa:
            raise ValueError(
                f"target_success must be above kappa: guessing alone succeeds with {kappa}, so no "
                f"noise brings the success down to {target}"
            )
        return rero_subsampled_gaussian_inverse(target, kappa, sample_rate, steps)
    if name == "target_epsilon":
        return subsampled_gaussian_noise(target, delta, sample_rate, steps)
    law = (gamma, size, max_norm)
    if name == "target_psnr":
        noise = float(noise_for_psnr(target, *law, data_range, steps, sample_rate))
    else:
        noise = float(noise_for_mse(target, *law, steps, sample_rate))
    if not 0 < noise < math.inf:
        raise ValueError(
            f"{name}={target:g} is reached with probability {gamma:g} for no noise: "
            + ("gamma is 0" if noise else "the record takes part too rarely; lower gamma")
        )
    return noise


def _record(setting: _Setting) -> dict[str, Cell]:
    risk = setting.risk()
    history = setting.history
    values: dict[str, Cell] = {
        "noise_multiplier": history[0][0] if len(history) == 1 else None,
        "sample_rate": history[0][1] if len(history) == 1 else None,
        "dimension": setting.dimension,
        "max_norm": setting.max_norm,
        "data_range": setting.data_range,
    }
    values.update({field.name: getattr(risk, field.name) for field in fields(risk)})
    full = len(history) == 1 and history[0][1] == 1
    values["identification_direction_unknown"] = (
        float(rero_glrt(setting.kappa, history[0][0], setting.dimension, history[0][2]))
        if full
        else None
    )
    return values


def _single(
    setting: _Setting,
    targets: Mapping[str, float | None],
    max_grad_norm: float | None,
    format: Literal["table", "json", "csv"],
) -> tuple[Table, str]:
    values = _record(setting)
    if max_grad_norm is not None:
        if not 0 < max_grad_norm < math.inf:
            raise ValueError(f"max_grad_norm must be a positive number; got {max_grad_norm}")
        values["outputs_to_reach_the_clipping_norm"] = max(
            1, math.ceil((max_grad_norm / setting.max_norm) ** 2)
        )
    table = Table(list(values), [list(values.values())])
    if format != "table":
        return table, table.render(format)
    solved = any(value is not None for value in targets.values())
    return table, _sheet(setting, values, solved).render("table")


def _sheet(setting: _Setting, values: Mapping[str, Any], solved: bool) -> Table:
    """One quantity a line, in words."""
    rows: list[list[Cell]] = []
    for number, (sigma, rate, steps) in enumerate(setting.history):
        phase = "" if len(setting.history) == 1 else f"phase {number + 1}: "
        star = " *" if solved else ""
        rows.append([f"{phase}noise_multiplier{star}", f"{sigma:.10g}"])
        rows.append([f"{phase}sample_rate, steps", f"{rate:.6g}, {steps}"])
    epsilon, psnr, mse = values["epsilon"], values["psnr"], values["mse"]
    rows.append([f"epsilon at delta = {setting.delta:g}", f"{epsilon:.6g}"])
    rows.append(
        ["record", f"{setting.dimension} values, norm {setting.max_norm:g}, range "
         f"{setting.data_range:g}"]
    )  # fmt: skip
    chance = f"{setting.gamma:g}"
    if mse == math.inf:
        used = 1 - values["never_used"]
        rows.append(
            [
                f"from scratch, probability {chance}",
                f"nothing: it is used with probability {used:.3g}",
            ]
        )
    else:
        verdict = "" if values["informative"] else " (no better than guessing)"
        rows.append(
            [f"from scratch: PSNR reached with probability {chance}", f"{psnr:.4g} dB{verdict}"]
        )
        rows.append([f"from scratch: MSE reached with probability {chance}", f"{mse:.6g}"])
        rows.append(["from scratch: correlation of that attack", f"{values['ncc']:.4g}"])
    rows.append(["guessing zeros: MSE", f"{values['guess_mse']:.6g}"])
    rows.append(
        [f"identification, guessing succeeds with {setting.kappa:.4g}",
         f"at most {values['identification']:.6f} (certified)"]
    )  # fmt: skip
    blind = values["identification_direction_unknown"]
    if blind is not None:
        rows.append(["  if the direction is unknown (assumption)", f"{blind:.6f}"])
    rows.append(["  what epsilon and delta alone promise", f"{values['identification_by_dp']:.6f}"])
    if "outputs_to_reach_the_clipping_norm" in values:
        rows.append(
            ["outputs (or loss scale squared) the attack needs",
             str(values["outputs_to_reach_the_clipping_norm"])]
        )  # fmt: skip
    rows.append(["not covered", "adversaries with an image prior"])
    head = "quantity (* computed)" if solved else "quantity"
    return Table([head, "value"], rows)


def _sweep(setting: _Setting, sweep: Sweep, values: Sequence[float]) -> Table:
    if len(setting.history) != 1:
        raise ValueError("a sweep varies one phase; the run has several")
    columns = [
        sweep,
        "noise_multiplier",
        "epsilon",
        "psnr",
        "mse",
        "guess_mse",
        "informative",
        "identification_lower",
        "identification",
        "identification_by_dp",
        "never_used",
    ]
    columns = list(dict.fromkeys(columns))
    rows = []
    for value in values:
        record = _record(_varied(setting, sweep, value))
        record[sweep] = value
        rows.append([record[name] for name in columns])
    title = f"gamma {setting.gamma:g}, kappa {setting.kappa:.4g}, delta {setting.delta:g}"
    return Table(columns, rows, title)


def _varied(setting: _Setting, sweep: Sweep, value: float) -> _Setting:
    (noise, rate, steps), size, norm = setting.history[0], setting.dimension, setting.max_norm
    if sweep == "noise_multiplier":
        noise = value
    elif sweep == "epsilon":
        noise = subsampled_gaussian_noise(value, setting.delta, rate, steps)
    elif sweep == "dimension":
        if value != int(value):
            raise ValueError(f"values of a sweep over dimension must be whole; got {value}")
        size = int(value)
    elif sweep == "steps":
        if value != int(value):
            raise ValueError(f"values of a sweep over steps must be whole; got {value}")
        steps = int(value)
    elif sweep == "sample_rate":
        rate = value
    else:
        norm = value
    law = (setting.data_range, setting.gamma, setting.kappa, setting.delta)
    return _Setting(((noise, rate, steps),), size, norm, *law)


def _write(out: Path, table: Table, setting: _Setting, sweep: Sweep | None) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for kind in ("csv", "json"):
        text = table.render(kind)
        write_atomically(out / f"bounds.{kind}", text + "\n")
    save_figure(_figure(setting), out / "corridor.png", dpi=110)


def _figure(setting: _Setting) -> "Figure":
    """The corridor over the noise; a run of several phases as if all had the first one's rate."""
    from lightning_priv.reports.corridor import corridor_figure

    noise, rate, steps = setting.history[0]
    if len(setting.history) > 1:
        steps = sum(t for _, _, t in setting.history)
        rate = max(q for _, q, _ in setting.history)
        noise = min(s for s, _, _ in setting.history)
    corridor = risk_corridor(
        setting.gamma,
        setting.kappa,
        setting.dimension,
        setting.max_norm,
        steps,
        setting.data_range,
        rate,
        points=61 if rate < 1 else 121,
        around=noise,
    )
    return corridor_figure(corridor, noise, setting.delta)
