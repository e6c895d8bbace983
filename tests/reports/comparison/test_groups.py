"""One run as a page: every part that left something has its numbers, curves, pictures, tables."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_priv.reports.comparison import read_run
from lightning_priv.reports.comparison.groups import groups_html, media_of, series_of
from lightning_priv.reports.comparison.page import runs_html
from lightning_priv.reports.comparison.rows import NUMBERS, run_table
from lightning_priv.reports.panels import GROUPS

LOG = """\
epoch,step,val/loss,val/accuracy,privacy/epsilon,privacy/steps,risk/psnr,risk/identification
0,9,0.9,0.5,,,-7.5,0.11
,10,,,1.5,10,,
,20,,,2.5,20,,
,20,,,2.0,20,,
1,19,0.7,0.6,,,-3.5,0.13
"""


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 40), value, np.uint8)).save(path)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run with something of every part."""
    version = tmp_path / "run/version_0"
    for group in GROUPS:
        for key in group.media:
            picture(version / "media" / f"{key}.png", 100)
    (version / "metrics.csv").write_text(LOG)
    rows = "\n".join(f"{i},{i / 7}" for i in range(30))
    (version / "media/lsi/ranking.csv").write_text(f"index,<score>\n{rows}\n")
    (version / "media/results_fit.csv").write_text("metric,measured\nval/accuracy,0.6\n")
    return tmp_path / "run"


def test_series_are_those_of_the_log(run_folder: Path) -> None:
    series = series_of(run_folder)
    assert series["val/loss"] == [(9, 0.9), (19, 0.7)]
    assert series["privacy/epsilon"] == [(10, 1.5), (20, 2.5), (20, 2.0)]
    assert "epoch" not in series
    # without a CSV log the curves of the Dashboard stand in
    (run_folder / "version_0/metrics.csv").unlink()
    curves = run_folder / "version_0/media/curves.csv"
    curves.write_text("metric,step,value\nval/loss,9,0.8\nval/loss,19,0.4\n")
    assert series_of(run_folder) == {"val/loss": [(9, 0.8), (19, 0.4)]}
    assert "curves.csv" not in media_of(run_folder)


def test_newer_pictures_replace_older_ones(run_folder: Path) -> None:
    picture(run_folder / "version_1/media/test/confusion.png", 200)
    found = media_of(run_folder)
    assert found["test/confusion.png"].parts[-4] == "version_1"
    assert found["curves.png"].parts[-3] == "version_0"


def test_every_part_is_on_the_page(run_folder: Path) -> None:
    run = read_run(run_folder)
    page = runs_html([run], run_table([run], NUMBERS))
    assert re.findall("<h3>(.*?)</h3>", page) == [g.title for g in GROUPS if g.media]
    count = sum(len(group.media) for group in GROUPS)
    assert page.count("data:image/png") == count  # each picture once
    assert page.count("data:image/svg+xml") == 5  # loss, accuracy, epsilon, two of the risk
    assert "first 20 of 30 rows" in page
    assert "&lt;score&gt;" in page
    assert "<b>-3.5</b><span>risk/psnr</span>" in page
    sources = re.findall(r'(?:src|href)=["\']([^"\']{4})', page)
    assert set(sources) <= {"data", "#run"}  # nothing from elsewhere
    assert "<script" not in page


def test_a_run_with_nothing_has_no_group(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert groups_html(read_run(tmp_path / "empty")) == []


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
@pytest.mark.parametrize("width", [1280, 500, 390])
def test_no_page_scrolls_sideways(run_folder: Path, width: int, tmp_path: Path) -> None:
    """In a browser; a frame gives widths that a window cannot have."""
    run = read_run(run_folder)
    page = runs_html([run], run_table([run], NUMBERS))
    tell = "parent.postMessage(document.documentElement.scrollWidth, '*')"
    (tmp_path / "page.html").write_text(page + f"<script>onload = () => {tell}</script>")
    (tmp_path / "frame.html").write_text(
        f"<iframe src=page.html style='width:{width}px;height:900px;border:0'></iframe>"
        "<script>onmessage = e => document.title = 'wide ' + e.data</script>"
    )
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
         f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000",
         (tmp_path / "frame.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    found = re.search(r"<title>wide (\d+)</title>", done.stdout)
    assert found is not None, done.stderr[-500:]
    assert int(found[1]) <= width
