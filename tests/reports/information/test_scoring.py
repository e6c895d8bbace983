"""The table of scores, its summary, figures and files."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_priv.functional import fit_probe, lsi_baselines, lsi_scores, lsi_sets
from lightning_priv.reports.information import (
    Corruption,
    SampleScores,
    Scoring,
    all_figures,
    class_table,
    dataset_difficulty,
    detection_table,
    informative_grid,
    mean_with_interval,
    order_drift,
    portion_curves,
    pruning_curves,
    ranking_table,
    sets_table,
    summarise,
    write_scores,
)
from lightning_priv.reports.information.grids import as_picture, extreme_rows

N, DIM, CLASSES = 90, 5, 3


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, DIM, generator=generator, dtype=torch.float64)
    weight = torch.randn(DIM, CLASSES, generator=generator, dtype=torch.float64)
    noise = 0.3 * torch.randn(N, CLASSES, generator=generator, dtype=torch.float64)
    return x, (x @ weight + noise).argmax(1)


@pytest.fixture(scope="module")
def flipped() -> SampleScores:
    x, y = data()
    return Scoring(baselines=("loss", "el2n", "cl_margin")).score(x, y, None, Corruption(frac=0.1))


def test_columns_are_those_of_the_functions() -> None:
    x, y = data()
    scores = Scoring(prior_precision=0.5, baselines=("loss", "el2n", "margin")).score(x, y)
    full, diag = (lsi_scores(x, y, 0.5, kind) for kind in ("full", "diag"))
    c = scores.columns
    np.testing.assert_allclose(c["lsi_full"], full.scores)
    np.testing.assert_allclose(c["lsi_diag_curv"], diag.curvature)
    np.testing.assert_allclose(c["leverage"], full.leverage)
    fit = fit_probe(x, y, 0.5)
    for name, values in lsi_baselines(x, y, fit, ("loss", "el2n", "margin")).items():
        np.testing.assert_allclose(c[name], values)
    np.testing.assert_allclose(c["p_label"], np.exp(-c["loss"]))
    assert np.array_equal(np.sort(c["lsi_rank"]), np.arange(1, N + 1))
    assert np.all(np.diff(c["lsi_full"][np.argsort(c["lsi_rank"])]) <= 0)
    for label in range(CLASSES):
        own = c["lsi_class_rank"][c["label"] == label]
        assert sorted(own) == list(range(1, len(own) + 1))
    assert scores.primary == "lsi_full"
    assert scores.weight.shape == (CLASSES, DIM + 1)


def test_every_baseline_can_be_asked_for() -> None:
    from typing import get_args

    from lightning_priv.functional.laplace_information import BASELINES
    from lightning_priv.reports.information.scoring import Baseline

    assert set(get_args(Baseline)) == {*BASELINES, "forgetting"}
    scoring = Scoring(baselines=get_args(Baseline), covariance=("full",))
    given = {"forgetting": torch.arange(N)}
    scores = scoring.score(*data(), given=given)
    assert set(get_args(Baseline)) <= set(scores.score_columns)
    assert scores.columns["forgetting"].tolist() == list(range(N))
    with pytest.raises(ValueError, match="train: true"):
        scoring.score(*data())
    assert all(np.isfinite(scores.columns[name]).all() for name in BASELINES)


def test_order_of_the_rows_changes_nothing() -> None:
    x, y = data()
    ids = torch.arange(N) * 3 + 1
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    scoring, corrupt = Scoring(baselines=("loss",)), Corruption(frac=0.2, seed=4)
    one = scoring.score(x, y, ids, corrupt).columns
    two = scoring.score(x[order], y[order], ids[order], corrupt).columns
    assert one["index"].tolist() == ids.tolist()
    for name, values in one.items():
        np.testing.assert_allclose(two[name], values, rtol=1e-9, atol=1e-14, err_msg=name)


def test_standardisation_is_kept_with_the_probe() -> None:
    x, y = data()
    x = torch.cat([x * 7 + 3, torch.full((N, 1), 2.5, dtype=x.dtype)], 1)  # one is constant
    scores = Scoring(standardize="zscore", baselines=()).score(x, y)
    z = (x - scores.mean) / scores.scale
    np.testing.assert_allclose(scores.columns["lsi_full"], lsi_scores(z, y).scores, rtol=1e-9)
    assert z[:, -1].abs().max() == 0
    unit = Scoring(standardize="l2", baselines=()).score(x, y)
    expected = lsi_scores(x / x.norm(dim=1, keepdim=True), y).scores
    np.testing.assert_allclose(unit.columns["lsi_full"], expected, rtol=1e-9)


def test_whole_sets() -> None:
    x, y = data()
    x, y = torch.cat([x, x[:3]]), torch.cat([y, y[:3]])  # three have a twin
    scores = Scoring(sets="classes", baselines=()).score(x, y)
    assert scores.sets is not None
    expected = lsi_sets(x, y, y, estimator="exact")
    np.testing.assert_allclose(scores.sets["information"], expected.scores, rtol=1e-9)
    assert scores.sets["samples"].tolist() == y.bincount().tolist()
    for row, label in enumerate(scores.sets["set"]):
        members = scores.columns["lsi_full"][scores.columns["label"] == label].sum()
        assert scores.sets["sum_of_members"][row] == pytest.approx(members)
    assert "sets" in all_figures(scores, ["a", "b", "c"])
    summary = write_scores(scores, Path("out"), ["a", "b", "c"])
    assert {row["set"] for row in summary["sets"]} == {"a", "b", "c"}
    assert len(Path("out/sets.csv").read_text().splitlines()) == CLASSES + 1
    # a file of numbers: each twin with its double, all others in no set; ids are not positions
    numbers = np.full(200, -1)
    for twin in range(3):
        numbers[[50 + twin, 50 + N + twin]] = 10 + twin
    np.save("sets.npy", numbers)
    pairs = Scoring(sets="sets.npy", baselines=()).score(x, y, torch.arange(N + 3) + 50)
    assert pairs.sets is not None
    assert pairs.sets["set"].tolist() == [10, 11, 12]
    expected = lsi_sets(x, y, [torch.tensor([k, N + k]) for k in range(3)], estimator="exact")
    np.testing.assert_allclose(pairs.sets["information"], expected.scores, rtol=1e-9)
    assert (pairs.sets["information"] > pairs.sets["sum_of_members"]).all()  # they cover each other
    assert pairs.columns["set"].tolist()[:4] == [10, 11, 12, -1]
    ratios = [row[-1] for row in sets_table(pairs).rows]
    assert all(isinstance(ratio, float) and ratio > 1 for ratio in ratios)
    quick = Scoring(sets="sets.npy", sets_estimator="alo", covariance=("diag",), baselines=())
    assert (quick.score(x, y, torch.arange(N + 3) + 50).sets or {})["samples"].tolist() == [2] * 3


def test_sets_that_cannot_be_scored() -> None:
    x, y = data()
    np.save("none.npy", np.full(N, -1))
    for sets, targets, text in (
        ("none.npy", y, "no sample belongs to a set"),
        ("missing.npy", y, "sets=missing.npy: there is no such file"),
        ("classes", x[:, :2], "needs class labels"),
    ):
        with pytest.raises(ValueError, match=text):
            Scoring(sets=sets, baselines=()).score(x, targets)
    with pytest.raises(ValueError, match="no sets"):
        sets_table(Scoring(baselines=()).score(x, y))


def test_a_mapped_file_is_read_in_pieces_and_gives_the_same() -> None:
    x, y = data()
    np.save("x.npy", x.numpy())
    mapped = np.load("x.npy", mmap_mode="r")
    options = {"standardize": "zscore", "chunk_rows": 7, "baselines": ("el2n", "cl_margin")}
    corrupt = Corruption("feature", 0.2, seed=2)
    whole = Scoring(**options).score(x, y, None, corrupt)
    found = Scoring(**options, memory_gib=0.0).score(mapped, y, None, corrupt)
    assert (whole.facts["streamed"], found.facts["streamed"]) == (False, True)
    for name, values in whole.columns.items():
        np.testing.assert_allclose(found.columns[name], values, rtol=1e-9, err_msg=name)
    direct = corrupt.apply(x, y, torch.arange(N), CLASSES).features
    z = (direct - direct.mean(0)) / direct.std(0, correction=0)
    np.testing.assert_allclose(found.columns["lsi_full"], lsi_scores(z, y).scores, rtol=1e-8)


def test_other_heads() -> None:
    x, y = data()
    many = torch.stack([y == 0, x[:, 0] > 0], 1).long()
    multi = Scoring(baselines=()).score(x, many)
    assert multi.facts["head"] == "multilabel"
    assert set(multi.columns["label"]) <= {"0;0", "0;1", "1;0", "1;1"}
    assert "lsi_class_rank" not in multi.columns
    assert "classes" not in all_figures(multi)
    line = Scoring(baselines=()).score(x, x @ torch.arange(5.0, dtype=x.dtype))
    assert line.facts["head"] == "regression"
    assert "p_label" not in line.columns
    two = Scoring(head="binary", baselines=()).score(x, (y == 0).long())
    assert np.all((two.columns["p_label"] > 0) & (two.columns["p_label"] < 1))
    assert set(summarise(multi)) >= {"spearman", "difficulty"}


def test_labels_of_other_forms_are_understood() -> None:
    x, y = data()
    plain = Scoring(baselines=()).score(x, y).columns["lsi_full"]
    for labels in (y.to(torch.uint8), y.int(), y[:, None]):
        found = Scoring(baselines=()).score(x, labels)
        np.testing.assert_array_equal(found.columns["lsi_full"], plain)
        assert found.columns["label"].tolist() == y.tolist()
    with pytest.warns(UserWarning, match="taken as classes"):
        found = Scoring(baselines=()).score(x, torch.nn.functional.one_hot(y))
    np.testing.assert_array_equal(found.columns["lsi_full"], plain)
    hot = torch.nn.functional.one_hot(y).float()
    assert Scoring(head="multilabel", baselines=()).score(x, hot).facts["head"] == "multilabel"
    truth = (y == 0)[:, None]
    two = [Scoring(baselines=()).score(x, labels) for labels in (truth, truth.long())]
    np.testing.assert_array_equal(two[0].columns["lsi_full"], two[1].columns["lsi_full"])
    assert Scoring(baselines=()).score(x, truth.float()).facts["head"] == "binary"
    with pytest.raises(ValueError, match="nothing to tell apart"):
        Scoring().score(x, 0 * y)
    one = Scoring(num_classes=3).score(x, 0 * y).columns["lsi_full"]
    assert np.isfinite(one).all()
    with pytest.warns(UserWarning, match=r"\['cl_margin'\] need classes"):
        line = Scoring().score(x, x[:, 0])
    assert "loss" in line.columns
    assert "cl_margin" not in line.columns


def test_sketch_and_marginal_likelihood_and_refinement() -> None:
    x, y = data()
    scoring = Scoring(estimator="alo_sketch", sketch_dim=64, baselines=())
    sketched = scoring.score(x, y).columns
    plain, exact = (
        Scoring(estimator=e, baselines=()).score(x, y).columns for e in ("alo", "exact")
    )
    np.testing.assert_allclose(sketched["lsi_diag"], plain["lsi_diag"])
    wrong = [np.median(abs(c["lsi_full"] / exact["lsi_full"] - 1)) for c in (sketched, plain)]
    assert wrong[0] < wrong[1]
    top = Scoring(refine_top_k=5, covariance=("full",), baselines=()).score(x, y).columns
    assert top["refined"].sum() >= 5
    rows = top["refined"] == 1
    np.testing.assert_allclose(top["lsi_full"][rows], exact["lsi_full"][rows], rtol=1e-6)
    found = Scoring(prior_precision="marglik", baselines=()).score(x, y).facts["prior_precision"]
    assert 1e-4 < found < 1e6


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"features": torch.zeros(3)}, "give \\(n, d\\)"),
        ({"labels": torch.zeros(N, dtype=torch.long) - 1}, "labels lie in \\[-1"),
        ({"ids": torch.zeros(N, dtype=torch.long)}, "sample id 0 comes more than once"),
        ({"features": torch.full((N, 2), torch.inf)}, "90 samples have NaN"),
    ],
)
def test_wrong_samples_are_refused(change: dict[str, Tensor], text: str) -> None:
    x, y = data()
    arguments = {"features": x, "labels": y, "ids": torch.arange(N), **change}
    with pytest.raises(ValueError, match=text):
        Scoring().score(**arguments)
    with pytest.raises(ValueError, match="accepted are 0 to 1"):
        Scoring(num_classes=2).score(x, y)


# -- corruption ------------------------------------------------------------------------------------


def test_labels_are_moved_to_another_class() -> None:
    x, y = data()
    done = Corruption(frac=0.2, seed=1).apply(x, y, torch.arange(N), CLASSES)
    assert int(done.changed.sum()) == 18
    assert torch.equal(done.labels != y, done.changed)
    assert int(done.labels.max()) < CLASSES
    noisy = Corruption("feature", 0.2, 1, level=2.0).apply(x, y, torch.arange(N), CLASSES)
    assert torch.equal((noisy.features != x).any(1), noisy.changed)
    assert torch.equal(noisy.labels, y)
    spread = (noisy.features - x)[noisy.changed].std()
    assert spread == pytest.approx(2 * float(x.std()), rel=0.2)


def test_labels_of_a_file() -> None:
    x, y = data()
    ids = torch.arange(N) + 10
    given = np.zeros(N + 10, dtype=np.int64)
    given[10:] = y
    given[13] = (given[13] + 1) % CLASSES
    np.save("human.npy", given)
    done = Corruption("file", path="human.npy").apply(x, y, ids, CLASSES)
    assert done.changed.nonzero().flatten().tolist() == [3]
    np.savez("human.npz", noisy=given)
    again = Corruption("file", path="human.npz").apply(x, y, ids, CLASSES)
    assert torch.equal(again.labels, done.labels)
    np.save("short.npy", given[:5])
    for path, text in (("short.npy", "one for"), ("none.npy", "no such file")):
        with pytest.raises(ValueError, match=text):
            Corruption("file", path=path).apply(x, y, ids, CLASSES)
    np.save("large.npy", given + 9)
    with pytest.raises(ValueError, match="below 3"):
        Corruption("file", path="large.npy").apply(x, y, ids, CLASSES)


@pytest.mark.parametrize(
    "options",
    [
        {"frac": 0.0},
        {"frac": 1.0},
        {"kind": "file"},
        {"path": "a.npy"},
        {"kind": "feature", "level": 0},
    ],
)
def test_wrong_corruptions(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="corrupt"):
        Corruption(**options)
    with pytest.raises(ValueError, match="needs class labels"):
        Corruption().apply(torch.zeros(3, 1), torch.zeros(3), torch.arange(3), 2)


# -- summary, figures, files -----------------------------------------------------------------------


def test_detection_is_that_of_scikit_learn(flipped: SampleScores) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    truth = flipped.columns["corrupted"]
    table = detection_table(flipped)
    for name, auroc, precision, _ in table.rows:
        values = flipped.columns[str(name)]
        assert auroc == pytest.approx(roc_auc_score(truth, values), abs=1e-12)
        assert precision == pytest.approx(average_precision_score(truth, values), abs=1e-12)
    ordered = [row[2] for row in table.rows]
    assert ordered == sorted(ordered, reverse=True)
    with pytest.raises(ValueError, match="no column corrupted"):
        detection_table(Scoring(baselines=()).score(*data()))


def test_summary_and_tables(flipped: SampleScores) -> None:
    summary = summarise(flipped, ["a", "b", "c"])
    values = flipped.columns["lsi_full"]
    assert summary["difficulty"]["mean"] == pytest.approx(values.mean())
    low, high = summary["difficulty"]["interval_95"]
    assert low < values.mean() < high
    classes = summary["classes_by_mean"]
    assert sum(c["share"] for c in classes) == pytest.approx(1)
    assert sum(c["samples"] for c in classes) == N
    means = [c["mean"] for c in classes]
    assert means == sorted(means, reverse=True)
    assert set(summary["spearman"]) == set(flipped.score_columns) - {"lsi_full"}
    json.dumps(summary, default=str)
    best = ranking_table(flipped, 2, ["a", "b", "c"], texts=[f"text {i}" for i in range(N)])
    assert [row[0] for row in best.rows] == [1, 2, N - 1, N]
    assert best.rows[0][-1] == f"text {best.rows[0][1]}"
    assert len(class_table(flipped).rows) == CLASSES
    # of a normal sample, the interval is that of the central limit theorem
    x = np.random.default_rng(0).normal(size=400)
    mean, low, high = mean_with_interval(x, draws=2000)
    assert (high - low) / 2 == pytest.approx(1.96 * x.std() / 20, rel=0.1)
    assert mean == pytest.approx(x.mean())


def test_files(flipped: SampleScores) -> None:
    figures = all_figures(flipped, ["a", "b", "c"])
    assert set(figures) == {
        *("ranking", "histogram", "agreement", "parts", "classes", "leverage", "detection"),
    }
    summary = write_scores(flipped, Path("out"), extra={"more": 1}, figures=figures)
    assert summary["more"] == 1
    assert all((Path("out") / f"{name}.png").stat().st_size > 3000 for name in figures)
    rows = list(csv.DictReader(Path("out/scores.csv").read_text().splitlines()))
    assert list(rows[0]) == list(flipped.columns)
    assert [float(r["lsi_full"]) for r in rows] == flipped.columns["lsi_full"].tolist()
    probe = torch.load("out/probe.pt", weights_only=True)
    assert probe["weight"].shape == (CLASSES, DIM + 1)


def test_parquet(flipped: SampleScores) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is optional")
    write_scores(flipped, Path("out"))
    assert parquet.read_table("out/scores.parquet").column_names == list(flipped.columns)


def test_figures_take_zeros_and_many_classes(flipped: SampleScores) -> None:
    columns = dict(flipped.columns)
    columns["lsi_full"] = np.where(np.arange(N) < 5, 0.0, columns["lsi_full"])
    columns["label"] = np.arange(N) % 45
    figures = all_figures(replace(flipped, columns=columns))
    assert len(figures["classes"].axes[1].get_xticks()) == 40
    assert "ranking" in figures


def test_grid_of_pictures(flipped: SampleScores) -> None:
    rows = extreme_rows(flipped, per_class=2)
    assert len(rows) == 4 * CLASSES
    figure = informative_grid(flipped, {row: torch.rand(3, 4, 4) for row in rows}, per_class=2)
    assert len(figure.axes[0].images) == 4 * CLASSES
    with pytest.raises(ValueError, match="no picture"):
        informative_grid(flipped, {})
    assert as_picture(torch.zeros(1, 4, 5)).shape == (4, 5)
    assert as_picture(torch.full((3, 4, 5), 255, dtype=torch.uint8)).max() == 1
    scaled = as_picture(torch.randn(3, 4, 5))
    assert (scaled.min(), scaled.max()) == (0, 1)
    with pytest.raises(ValueError, match="no image"):
        as_picture(torch.zeros(7))


def test_figures_of_studies() -> None:
    drift = order_drift({0: np.arange(9.0), 3: np.arange(9.0)[::-1], 5: np.arange(9.0)})
    np.testing.assert_allclose(drift.axes[0].lines[0].get_ydata(), [1, -1, 1], atol=1e-12)
    with pytest.raises(ValueError, match="at least 2"):
        order_drift({0: np.arange(3)})
    figure = dataset_difficulty({"a": (0.2, 0.1, 0.3), "b": (0.1, 0.05, 0.2)}, 500)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["b", "a"]
    curve = [(0.0, 0.5), (1.0, 0.7)]
    assert len(portion_curves({"high": curve}, {"high": curve}, 0.1).axes[1].lines) == 2
    assert len(pruning_curves({"largest": curve, "random": curve}).axes[0].lines) == 2
    for draw in (dataset_difficulty, pruning_curves):
        with pytest.raises(ValueError, match="at least one"):
            draw({}, 1) if draw is dataset_difficulty else draw({})  # type: ignore[call-arg]
