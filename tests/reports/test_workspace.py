"""Panels of every part, as a W&B workspace that is built without a connection."""

import re
import sys
from typing import Any

import pytest
from command_line import CommandLine

from lightning_priv.reports.panels import GROUPS, Chart, Group, group_of
from lightning_priv.reports.workspace import build_workspace

PREFIXES = ("train", "val", "test", "privacy", "private", "risk", "lorentz", "active", "lsi",
            "audit", "multiplicity", "latent")  # fmt: skip


def test_every_part_has_one_group() -> None:
    for prefix in PREFIXES:
        assert group_of(f"{prefix}/anything") is not None
    known = [prefix for group in GROUPS for prefix in group.prefixes]
    assert len(set(known)) == len(known)
    assert group_of("nobody/knows") is None
    found = group_of("active/queried-00000012.png")
    assert found is not None
    assert found.step == "active/labelled"


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.title)
def test_a_group_shows_what_belongs_to_it(group: Group) -> None:
    named = [m for chart in group.charts for m in chart.metrics]
    for metric in (*named, *group.scalars, *group.media):
        assert group_of(metric) is group, metric


def test_workspace_has_a_section_for_each_part() -> None:
    workspace = build_workspace("me/project")
    assert (workspace.entity, workspace.project) == ("me", "project")
    assert [section.name for section in workspace.sections] == [g.title for g in GROUPS]
    for section, group in zip(workspace.sections, GROUPS, strict=True):
        kinds = [type(panel).__name__ for panel in section.panels]
        assert kinds.count("LinePlot") == len(group.charts)
        assert kinds.count("ScalarChart") == len(group.scalars)
        assert kinds.count("MediaBrowser") == bool(group.media)
    workspace._to_model()  # what would be sent is valid


def test_patterns_become_expressions() -> None:
    chart = Chart("Radius", ("lorentz/*/radius_q50", "lorentz/k"))
    group = Group("Geometry", ("lorentz",), (chart,), step="trainer/global_step")
    (section,) = build_workspace("me/project", [group]).sections
    (plot,) = section.panels
    expression = plot.metric_regex
    for metric in ("lorentz/stage1/radius_q50", "lorentz/k", "lorentz/k2", "a/lorentz/k"):
        assert bool(re.search(expression, metric)) == chart.shows(metric), metric
    assert "(?s" not in expression
    assert "\\Z" not in expression


def test_a_missing_package_is_named(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    outcome = command_line.run("report", "--workspace", "me/project")
    assert outcome.code == 1
    assert "lightning-priv[report]" in outcome.err
    assert "report.html" in outcome.err


def test_nothing_is_sent_unless_online(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wandb.errors import UsageError
    from wandb_workspaces.workspaces import Workspace

    sent: list[str] = []

    def save(self: Any) -> None:
        sent.append(self.project)
        raise UsageError("No API key configured")

    monkeypatch.setattr(Workspace, "save", save)
    monkeypatch.setenv("WANDB_MODE", "offline")
    told = command_line.ok("report", "--workspace", "me/project")
    assert "built, not sent; WANDB_MODE=online sends it" in told
    assert sent == []
    monkeypatch.setenv("WANDB_MODE", "online")
    outcome = command_line.run("report", "--workspace", "me/project")
    assert sent == ["project"]
    assert outcome.code == 1
    assert "wandb login" in outcome.err
    with pytest.raises(ValueError, match="ENTITY/PROJECT"):
        build_workspace("project")
    outcome = command_line.run("report")
    assert outcome.code == 1
    assert "--workspace" in outcome.err
