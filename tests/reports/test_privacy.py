import math

import pytest

from lightning_priv.reports import accuracy_against_epsilon


def test_a_line_for_each_network_and_a_level_without_privacy() -> None:
    lines = {
        "cnn": [(8.0, 0.9, 0.01), (1.0, 0.6, 0.02), (math.inf, 0.95, 0.0)],
        "hcnn": [(1.0, 0.5, 0.1)],
    }
    figure = accuracy_against_epsilon({"digits": lines, "wine": {"mlp": [(1.0, 0.7, 0.0)]}})
    digits, wine = figure.axes
    assert (digits.get_title(), wine.get_title()) == ("digits", "wine")
    first, *_ = digits.get_lines()
    assert list(first.get_xdata()) == [1.0, 8.0]
    assert list(first.get_ydata()) == [0.6, 0.9]
    levels = [line for line in digits.get_lines() if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in levels] == [0.95]
    assert [t.get_text() for t in digits.get_legend().get_texts()] == ["cnn", "hcnn"]
    assert digits.get_xscale() == "log"


@pytest.mark.parametrize("panels", [{}, {"digits": {}}, {"digits": {"cnn": [(0.0, 0.5, 0.1)]}}])
def test_nothing_to_draw(panels: dict[str, dict[str, list[tuple[float, float, float]]]]) -> None:
    with pytest.raises(ValueError, match="at least one point"):
        accuracy_against_epsilon(panels)
