import pytest

from lightning_priv.reports.manifold import radius_bands


def test_a_panel_for_each_stage() -> None:
    rows = [[step, 0.1, 0.2, 0.3, 0.4 * step] for step in range(3)]
    figure = radius_bands({"stem": rows, "head": [[0, 1, 2, 3, 9.0]]})
    stem, head = figure.axes
    assert (stem.get_title(), head.get_title()) == ("stem", "head")
    median, top = stem.get_lines()
    assert list(median.get_xdata()) == [0, 1, 2]
    assert list(median.get_ydata()) == [0.2, 0.2, 0.2]
    assert list(top.get_ydata()) == [0.0, 0.4, 0.8]
    assert "cut" not in [line.get_label() for line in stem.get_lines()]
    assert "cut" in [line.get_label() for line in head.get_lines()]


@pytest.mark.parametrize("history", [{}, {"stem": []}])
def test_nothing_to_draw(history: dict[str, list[list[float]]]) -> None:
    with pytest.raises(ValueError, match="got no row"):
        radius_bands(history)
