"""Writes an audit: pictures, tables, numbers, report."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning_priv.files import save_figure, write_atomically
from lightning_priv.functional.audit import AuditStudy, NoiseReport
from lightning_priv.reports.tables import Cell, Table

from .figures import grid_figure, overview_figure, risk_figure
from .html import report_html
from .laws import laws_of, short
from .summary import WARNING, summary_rows

__all__ = ["write_audit"]

_DPI = 130


def write_audit(
    study: AuditStudy,
    folder: Path,
    noise: NoiseReport | None = None,
    rows: int = 8,
    more: Sequence[tuple[str, str, Any]] = (),
) -> Path:
    """Write everything into a folder, replacing an earlier audit there.

    * ``grid_mu<level>.png``, ``overview.png``, ``risk.png``;
    * ``metrics.csv``: every metric of every image; ``summary.json``: aggregates with bootstrap
      intervals, laws, facts, the audit of the noise;
    * ``report.html``: for people who do not read epsilon.

    Args:
        study: the study.
        folder: made if missing.
        noise: of the same run, if its noise was audited.
        rows: targets in each grid.
        more: further figures for the report: (name, caption, figure).

    Returns:
        The report's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("grid_mu*.png"), *folder.glob("prior_shift.png")):
        old.unlink()  # of levels that the new audit may not have
    laws = laws_of(study)
    figures: list[tuple[str, str, Any]] = []
    main = _main_attack(study)
    figures.append(
        (
            "overview",
            f"The targets, and what the attack '{main}' makes of a single training step, from the "
            "strictest privacy to the weakest. If you recognise the target, so does an attacker. A "
            "sharp picture of something else is invented: it shows what such pictures look like.",
            overview_figure(study, laws, main),
        )
    )
    figures.append(
        (
            "risk",
            "Mean error of each attack against the privacy level, with 95 % intervals. The grey "
            "band is what theory says of an attacker without any idea of pictures; attackers with "
            "such an idea may lie below it. At the dotted line of the prior mean, the attacker has "
            f"learnt nothing beyond what pictures of this kind look like.{_degenerate(study)}",
            risk_figure(study, laws),
        )
    )
    figures += more
    for k, level in enumerate(study.levels):
        kind = "simulated" if level.simulated else "the run's own noise"
        caption = (
            f"mu = {short(level.mu)}, epsilon = {short(laws.epsilon[k])} at delta = "
            f"{study.delta:g} ({kind}): every attack on the same targets."
        )
        name = f"grid_mu{level.mu:.3g}{'' if level.simulated else '_run'}"
        figures.append((name, caption, grid_figure(study, laws, k, rows)))
    for name, _, figure in figures:
        save_figure(figure, folder / f"{name}.png", dpi=_DPI)
    write_atomically(folder / "metrics.csv", _images(study).render("csv") + "\n")
    rows_found = summary_rows(study, laws)
    content = {
        "warning": WARNING,
        "facts": dict(study.facts),
        "notes": list(study.notes),
        "targets": len(study.targets),
        "delta": study.delta,
        "kappa": study.kappa,
        "units": "pixels in [0, 1]",
        "laws": {k: [_plain(float(x)) for x in v] for k, v in asdict(laws).items()},
        "summary": [{k: _plain(v) for k, v in asdict(row).items()} for row in rows_found],
        "noise": None if noise is None else {**asdict(noise), "flags": list(noise.flags)},
    }
    text = json.dumps(content, indent=1, allow_nan=False)
    write_atomically(folder / "summary.json", text + "\n")
    page = report_html(study, laws, rows_found, [(n, c) for n, c, _ in figures], folder, noise)
    path = folder / "report.html"
    write_atomically(path, page)
    return path


def _degenerate(study: AuditStudy) -> str:
    """A warning about the law of a Gaussian prior that was fitted to too few images."""
    pixels = study.targets[0].numel()
    if study.eigenvalues is None or len(study.eigenvalues) > 0.75 * pixels:
        return ""
    return (
        f" The dashed line is for a Gaussian that varies in {len(study.eigenvalues)} directions "
        f"only, because the attacker has few pictures of {pixels} numbers each: real pictures vary "
        "in more, so that it is too low."
    )


def _main_attack(study: AuditStudy) -> str:
    """The attack that a person should look at: a sharp one with the diffusion prior."""
    names = list(study.estimates)
    for start in ("ddim", "mmse", "wiener"):
        for name in names:
            if name.startswith(start):
                return name
    return names[-1]


def _images(study: AuditStudy) -> Table:
    metrics = list(dict.fromkeys(m for scores in study.scores.values() for m in scores))
    columns = ["attack", "mu", "simulated", "target", "s", "timestep", *metrics]
    rows: list[list[Cell]] = []
    for attack, scores in study.scores.items():
        for k, level in enumerate(study.levels):
            for i in range(len(study.targets)):
                time = None if study.timesteps is None else int(study.timesteps[k, i])
                numbers = [float(scores[m][k, i]) if m in scores else None for m in metrics]
                s = float(level.noise_std[i]) / 2
                rows.append([attack, level.mu, level.simulated, i, s, time, *numbers])
    return Table(columns, rows)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
