"""The report of an audit as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from lightning_priv.functional.audit import AuditStudy, NoiseReport
from lightning_priv.reports.html import document, plain

from .laws import Laws, short
from .summary import WARNING, AuditRow

__all__ = ["report_html"]

_ATTACKS = {  # how a name begins: what the attack does
    "observation": "what the step shows, as it is",
    "clamp": "what the step shows, with impossible brightness cut off",
    "prior mean": "the average picture, whatever the step shows: a blind guess",
    "shrinkage": "what the step shows, faded towards the average picture as far as the noise asks",
    "wiener": "the noise smoothed away as usual brightness and shapes of such pictures suggest",
    "wavelet": "the noise smoothed away without knowing such pictures, edges kept",
    "non local means": "the noise smoothed away by averaging similar patches of the same picture",
    "empirical bayes": "the attacker's own pictures, mixed by how well each explains what is seen",
    "nearest neighbour": "of the attacker's own pictures the one that is most like what is seen",
    "mmse": "a network that has learnt such pictures: its most careful guess, blurred where unsure",
    "ddim": "the same network, made to give a sharp picture; what it did not see, it invents",
    "ddpm": "the same network, asked for one of the pictures that may lie behind what is seen",
    "ddrm": "the same network, pulled back in every step to what is seen",
    "mean of": "the average of several pictures that the network thinks possible",
    "best of": "of several pictures that the network thinks possible, the one that fits best",
}

_METRICS = {
    "mse": "mean squared error (0: the picture is known)",
    "psnr": "peak signal-to-noise ratio in dB (higher: more is known)",
    "ssim": "structural similarity (1: identical)",
    "gain": "gain over guessing the mean picture (0: nothing learnt, 1: everything)",
    "labels": "share of reconstructions that a classifier takes for the target's class",
    "residual": "distance from the observation in units of the noise (below 1: follows the noise)",
    "perceptual": "perceptual distance by the given network (0: identical)",
}


def report_html(
    study: AuditStudy,
    laws: Laws,
    rows: Sequence[AuditRow],
    figures: Sequence[tuple[str, str]],
    folder: Path,
    noise: NoiseReport | None,
) -> str:
    """The whole report.

    Args:
        study: the study.
        laws: its laws.
        rows: its aggregates.
        figures: (name, caption); ``<name>.png`` lies in ``folder``.
        folder: where the pictures are.
        noise: audit of the noise, if there was one.
    """
    parts = [
        "<h1>What a training step gives away</h1>",
        "<p>Differential privacy hides each picture of the training set under noise. This report "
        "plays the attacker: it takes what one step of the training reveals of a picture, removes "
        "the noise with the help of a model of what pictures look like, and shows the result "
        "beside the original.</p>",
        f"<p class='note'>{plain(WARNING)}</p>",
        *(f"<p class='note'>{plain(note)}</p>" for note in study.notes),
        _in_short(study, laws, rows),
    ]
    if noise is not None:
        parts.append(_noise(noise))
    parts.append(_attacks(study))
    for name, caption in figures:
        data = base64.b64encode((folder / f"{name}.png").read_bytes()).decode()
        parts.append(
            f"<h2>{plain(_heading(name))}</h2><p class='soft'>{plain(caption)}</p>"
            f"<img alt='{plain(_heading(name))}' src='data:image/png;base64,{data}'>"
        )
    parts.append("<h2>Numbers</h2>")
    parts += [_table(study, rows, metric) for metric in _METRICS if _has(rows, metric)]
    parts.append(_method(study))
    return document("Reconstruction audit", parts)


def _in_short(study: AuditStudy, laws: Laws, rows: Sequence[AuditRow]) -> str:
    """For each level, in words, what the best attack gained over guessing."""
    lines = []
    for k, level in enumerate(study.levels):
        gains = {
            r.attack: r
            for r in rows
            if r.metric == "gain" and r.mu == level.mu and r.simulated == level.simulated
        }
        if not gains:
            continue
        best = max(gains.values(), key=lambda r: r.mean)
        if best.low <= 0.02:
            words = "no attack tried here clearly learns more than what such pictures look like"
        elif best.mean < 0.5:
            words = "an attacker learns rough features"
        else:
            words = "an attacker learns most of the picture"
        kind = "" if level.simulated else ", one step of the run"
        lines.append(
            f"<li><b>epsilon {short(laws.epsilon[k])}</b> (mu {short(level.mu)}{kind}): {words}; "
            f"best here: {plain(best.attack)}, {100 * best.mean:.0f} % of the uncertainty removed "
            f"(95 % interval {100 * best.low:.0f} to {100 * best.high:.0f} %). "
            f"{_identification(study, float(laws.identification[k]))}</li>"
        )
    scope = (
        "<p class='soft'>Epsilon and mu say how strict the privacy is: the smaller, the stricter. "
        "They are those of one release in which the picture takes part; a whole training makes "
        "many, and its epsilon is another.</p>"
    )
    return f"<h2>In short</h2>{scope}<ul>{''.join(lines)}</ul>" if lines else ""


def _identification(study: AuditStudy, bound: float) -> str:
    candidates = f"the right picture among {round(1 / study.kappa)} candidates"
    if bound > 0.995:
        return f"Nothing keeps one who has {candidates} from picking it."
    return f"One who has {candidates} picks it with a probability of at most {bound:.2f}."


def _attacks(study: AuditStudy) -> str:
    """What each attack does, in plain words."""
    lines = []
    for name in study.estimates:
        found = next((words for start, words in _ATTACKS.items() if name.startswith(start)), "")
        lines.append(f"<li><b>{plain(name)}</b>{': ' * bool(found)}{plain(found)}</li>")
    return f"<h2>The attacks</h2><ul class='short'>{''.join(lines)}</ul>"


def _noise(noise: NoiseReport) -> str:
    text = (
        f"Measured standard deviation {noise.estimate:.5g} ({100 * noise.level:.0f} % interval "
        f"{noise.low:.5g} to {noise.high:.5g}) from {noise.count} numbers; stated "
        f"{noise.stated:.5g}. A correct run is flagged with probability of at most "
        f"{noise.false_alarm:g}."
    )
    if noise.flags:
        verdict = "".join(f"<p class='note bad'>{plain(flag)}</p>" for flag in noise.flags)
    else:
        verdict = (
            "<p class='note good'>The noise is what it is said to be, as far as the tests see.</p>"
        )
    return f"<h2>Is the noise really there?</h2>{verdict}<p class='soft'>{plain(text)}</p>"


def _table(study: AuditStudy, rows: Sequence[AuditRow], metric: str) -> str:
    levels = [(level.mu, level.simulated) for level in study.levels]
    head = "".join(f"<th>mu {short(mu)}{'' if sim else ' (run)'}</th>" for mu, sim in levels)
    body = []
    for attack in study.scores:
        found = {(r.mu, r.simulated): r for r in rows if r.attack == attack and r.metric == metric}
        if found:
            cells = "".join(
                f"<td>{found[k].mean:.4g}<br><small>{found[k].low:.3g} to {found[k].high:.3g}"
                "</small></td>"
                for k in levels
            )
            body.append(f"<tr><td>{plain(attack)}</td>{cells}</tr>")
    return (
        f"<p class='soft'>{plain(metric)}: {plain(_METRICS[metric])}</p><div class='scroll'><table>"
        f"<tr><th>attack</th>{head}</tr>{''.join(body)}</table></div>"
    )


def _method(study: AuditStudy) -> str:
    rows = "".join(
        f"<tr><td>{plain(k)}</td><td class=wide>{plain(v)}</td></tr>"
        for k, v in study.facts.items()
    )
    return (
        "<h2>How this was done</h2><p class='soft'>Threat model: the attacker chose network and "
        "loss, sees one privatised gradient, knows the clipping norm, the noise multiplier, the "
        "other records of the batch and (unless said otherwise) the norm of the record. Measured: "
        "everything about attacks. Proved: the law without a prior, the closed form for the stated "
        "Gaussian prior, and the bound on identification. Errors and PSNR are those of unclamped "
        "estimates, for pixels in [0, 1]. Below each number is its 95 % bootstrap interval over "
        "the targets."
        f"</p><div class='scroll'><table>{rows}</table></div>"
    )


def _heading(name: str) -> str:
    if name.startswith("grid_mu"):
        level = name.removeprefix("grid_mu").removesuffix("_run")
        return f"Every attack at mu {level}{' (the run)' if name.endswith('_run') else ''}"
    known = {"overview": "From strict to weak privacy", "risk": "Risk against privacy"}
    return known.get(name, name.replace("_", " "))


def _has(rows: Sequence[AuditRow], metric: str) -> bool:
    return any(row.metric == metric for row in rows)
