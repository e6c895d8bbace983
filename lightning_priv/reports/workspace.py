"""A W&B workspace with a section for each part, by the optional package wandb-workspaces."""

import os
import re
from collections.abc import Sequence
from fnmatch import translate
from importlib import import_module
from typing import Any

from lightning_priv.errors import ConfigurationError
from lightning_priv.reports.panels import GROUPS, Chart, Group

__all__ = ["build_workspace", "save_workspace"]

_PATTERN = "*?["


def build_workspace(
    place: str, groups: Sequence[Group] = GROUPS, name: str = "lightning_priv"
) -> Any:
    """A ``wandb_workspaces.workspaces.Workspace``, made without any connection.

    Args:
        place: ``ENTITY/PROJECT``.
        groups: its sections.
        name: name of the view.

    Raises:
        ValueError: if ``place`` is not of this form.
        ConfigurationError: if wandb-workspaces is not installed.
    """
    parts = place.split("/")
    if len(parts) != 2 or not all(parts):
        raise ValueError(f"workspace {place!r}: give ENTITY/PROJECT, as in the project's address")
    try:
        ws: Any = import_module("wandb_workspaces.workspaces")
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "--workspace needs the package wandb-workspaces; install it with "
            "pip install 'lightning-priv[report]'. Without W&B, --out report.html shows the same"
        ) from error
    sections = [
        ws.Section(name=group.title, panels=_panels(group), is_open=number < 2)
        for number, group in enumerate(groups)
    ]
    return ws.Workspace(name=name, entity=parts[0], project=parts[1], sections=sections)


def save_workspace(place: str) -> str:
    """Make the workspace in the project; only with ``WANDB_MODE=online`` is anything sent.

    Args:
        place: ``ENTITY/PROJECT``.

    Returns:
        A line that says what was done.

    Raises:
        ConfigurationError: if W&B refuses, for example without a key.
    """
    workspace = build_workspace(place)
    count = sum(len(section.panels) for section in workspace.sections)
    made = f"workspace of {len(workspace.sections)} sections and {count} panels"
    if os.environ.get("WANDB_MODE") != "online":
        return f"{made} for {place}: built, not sent; WANDB_MODE=online sends it"
    from wandb.errors import Error

    try:
        workspace.save()
    except (Error, ValueError, OSError) as error:
        raise ConfigurationError(
            f"W&B did not take the workspace of {place}: {error}; log in with wandb login, and "
            "check the names"
        ) from error
    return f"{made}: {workspace.url}"


def _panels(group: Group) -> list[object]:
    wr: Any = import_module("wandb_workspaces.reports.v2")
    panels: list[object] = [_line_plot(chart, group.step) for chart in group.charts]
    panels += [wr.ScalarChart(title=metric, metric=metric) for metric in group.scalars]
    if group.media:
        panels.append(wr.MediaBrowser(title=group.title, media_keys=list(group.media)))
    return panels


def _line_plot(chart: Chart, step: str | None) -> object:
    wr: Any = import_module("wandb_workspaces.reports.v2")
    patterns = [metric for metric in chart.metrics if any(sign in metric for sign in _PATTERN)]
    shown = {"title": chart.title, "x": step or "Step", "log_y": chart.log or None}
    if not patterns:
        return wr.LinePlot(**shown, y=list(chart.metrics))
    # W&B's expressions are JavaScript's: no (?s:...) and \\Z of Python's
    bodies = [re.sub(r"^\(\?s:(.*)\)\\[Zz]$", r"\1", translate(m)) for m in chart.metrics]
    return wr.LinePlot(**shown, metric_regex=f"^({'|'.join(bodies)})$")
