"""Metrics of an ensemble: equal to the functions, however the samples are cut and shared out."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from ensembles import HAND, HAND_TARGET, labels, noisy_probs, rows
from gloo_pool import GlooPool
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics import Metric

import lightning_priv.functional.multiplicity as functional
from lightning_priv.functional.multiplicity import Rule
from lightning_priv.metrics import (
    AURC,
    Abstention,
    Ambiguity,
    Consensus,
    Coverage,
    Discrepancy,
    DPDisagreement,
    EnsembleConflict,
    MultilabelAbstention,
    MultilabelMultiplicity,
    MultiplicityCollection,
    Obscurity,
    PairwiseDisagreement,
    RashomonCapacity,
    ScoreAmbiguity,
    ScoreDiscrepancy,
    ScoreStd,
    SelectiveRisk,
    SelfConsistency,
    SubgroupMultiplicity,
    UnanimousCoverage,
    ViablePredictionRange,
    VoteEntropy,
)

RULE = Rule("threshold", tau=0.8)
PROBS, TARGET = noisy_probs(6, 53, 3)  # 53 is prime: no batch size and no world size divides it
BINARY, BINARY_TARGET = noisy_probs(6, 53, 2, seed=1)


def fed(metric: Any, preds: Tensor, target: Tensor | None, size: int = 10) -> Any:
    for start in range(0, preds.shape[1], size):
        part = slice(start, start + size)
        metric.update(preds[:, part], None if target is None else target[part])
    return metric


def expected(probs: Tensor, target: Tensor) -> dict[str, float]:
    """The collection's numbers from the functions, on all samples at once."""
    votes = probs.argmax(dim=-1)
    members, majority = len(votes), functional.majority_vote(votes)
    two = probs.shape[-1] == 2
    scores = functional.class_scores(probs, None if two else majority)
    report = functional.selective_report(functional.decide(votes, RULE), target, majority)
    wrong = majority != target
    values = {
        "samples": probs.shape[1],
        "ambiguity": functional.ambiguity(votes),
        "discrepancy": functional.discrepancy(votes),
        "obscurity": functional.obscurity(votes),
        "pairwise_disagreement": functional.pairwise_disagreement(votes),
        "largest_pairwise_disagreement": functional.pairwise_disagreement(votes, "max"),
        "self_consistency": functional.self_consistency(votes).mean(),
        "consensus": functional.consensus(votes).mean(),
        "vote_entropy": functional.vote_entropy(votes).mean(),
        "unanimous_coverage": functional.unanimous_coverage(votes),
        "viable_prediction_range": functional.viable_prediction_range(scores).mean(),
        "score_std": functional.score_std(scores).mean(),
        "score_ambiguity": functional.score_ambiguity(scores, 0.1),
        "score_discrepancy": functional.score_discrepancy(scores, 0.1),
        "effective_predictions": functional.rashomon_capacity(probs).exp2().mean(),
        "aurc": functional.aurc(functional.consensus(votes), wrong),
        "abstain/coverage": report.coverage,
        "abstain/kept": report.kept,
        "abstain/deferred": report.n - report.kept,
        "abstain/selective_risk": report.selective_risk,
        "abstain/deferred_error": report.deferred_error,
    }
    if two:
        values |= {
            "dp_disagreement": functional.dp_disagreement(votes).mean(),
            "abstain/sensitivity": report.sensitivity,
            "abstain/specificity": report.specificity,
        }
    assert members == 6
    return {name: float(value) for name, value in values.items()}


def collection(classes: int, **options: Any) -> MultiplicityCollection:
    options = {"rule": RULE, "score_delta": 0.1, "capacity": True} | options
    return MultiplicityCollection(6, classes, **options)


def numbers(values: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in values.items()}


@pytest.mark.parametrize("size", [1, 10, 53])
@pytest.mark.parametrize(("probs", "target"), [(PROBS, TARGET), (BINARY, BINARY_TARGET)])
def test_equal_to_the_functions(probs: Tensor, target: Tensor, size: int) -> None:
    metrics = fed(collection(probs.shape[-1]), probs, target, size)
    assert numbers(metrics.compute()) == pytest.approx(expected(probs, target), abs=1e-9)


def test_one_output_is_the_same_as_two() -> None:
    one = fed(collection(2, task="binary"), BINARY[..., 1], BINARY_TARGET)
    assert numbers(one.compute()) == pytest.approx(expected(BINARY, BINARY_TARGET), abs=1e-9)


def test_float32_labels_and_order() -> None:
    single = fed(collection(3), PROBS.float(), TARGET)
    assert numbers(single.compute()) == pytest.approx(expected(PROBS, TARGET), abs=1e-5)
    half = fed(collection(3), PROBS.bfloat16(), TARGET)  # sums differ from 1 by rounding
    assert numbers(half.compute())["score_std"] == pytest.approx(
        expected(PROBS, TARGET)["score_std"], abs=1e-2
    )
    options = {"scores": False, "score_delta": None, "capacity": False}
    by_labels = numbers(fed(collection(3, **options), PROBS.argmax(-1), TARGET).compute())
    assert by_labels == pytest.approx({k: expected(PROBS, TARGET)[k] for k in by_labels})
    order = torch.randperm(53)
    mixed = fed(collection(3), PROBS[:, order], TARGET[order])
    assert numbers(mixed.compute()) == pytest.approx(expected(PROBS, TARGET), abs=1e-9)


def test_forward_gives_the_batch_and_keeps_the_sum() -> None:
    metrics = collection(3)
    part = metrics(PROBS[:, :20], TARGET[:20])
    assert part["samples"] == 20
    assert part["ambiguity"] == functional.ambiguity(PROBS[:, :20].argmax(-1))
    metrics(PROBS[:, 20:], TARGET[20:])
    assert numbers(metrics.compute()) == pytest.approx(expected(PROBS, TARGET), abs=1e-9)
    metrics.reset()
    fed(metrics, PROBS, TARGET)
    assert metrics.compute()["samples"] == 53


def test_hand_example() -> None:
    metrics = MultiplicityCollection(5, 3, scores=False, rule=RULE)
    values = numbers(fed(metrics, HAND, HAND_TARGET, 4).compute())
    assert values["ambiguity"] == pytest.approx(2 / 3)
    assert values["discrepancy"] == pytest.approx(0.5)
    assert values["obscurity"] == pytest.approx(0.2666667, abs=1e-7)
    assert values["self_consistency"] == pytest.approx(0.5833333, abs=1e-7)
    assert values["abstain/coverage"] == 0.5
    assert values["abstain/selective_risk"] == 0
    assert values["abstain/deferred_error"] == pytest.approx(1 / 3)


def test_options_of_the_collection() -> None:
    plain = MultiplicityCollection(6, 3, labelled=False, rule=RULE, prefix="multiplicity/")
    plain.update(PROBS)
    values = plain.compute()
    assert all(name.startswith("multiplicity/") for name in values)
    assert "multiplicity/aurc" not in values
    assert "multiplicity/abstain/coverage" in values
    validation = [0.1, 0.2, 0.9, 0.3, 0.9, 0.5]
    best = MultiplicityCollection(
        6, 3, baseline="best", validation=validation, labelled=False, score_delta=0.1
    )
    best.update(PROBS)
    votes = PROBS.argmax(dim=-1)
    scores = functional.class_scores(PROBS, functional.majority_vote(votes))
    assert best.compute()["discrepancy"] == functional.discrepancy(votes, 2)
    assert best.compute()["score_ambiguity"] == functional.score_ambiguity(scores, 0.1, 2)
    majority = MultiplicityCollection(6, 3, baseline="majority", labelled=False)
    majority.update(PROBS)
    obscurity = functional.obscurity(votes, "majority").item()
    assert majority.compute()["obscurity"].item() == pytest.approx(obscurity)


def test_state_does_not_grow() -> None:
    metrics = collection(3)

    def size() -> int:
        states = [value for metric in metrics.values() for value in metric.metric_state.values()]
        assert all(isinstance(state, Tensor) for state in states)
        return sum(state.numel() for state in states)

    metrics.update(PROBS[:, :2], TARGET[:2])
    before = size()
    fed(metrics, PROBS, TARGET)
    assert size() == before
    for metric in metrics.values():
        for name, state in metric.metric_state.items():
            assert state.dtype in (torch.int64, torch.float64), name


PER_SAMPLE: list[tuple[Callable[[], Metric], Callable[[Tensor], Tensor]]] = [
    (
        lambda: SelfConsistency(6, per_sample=True),
        lambda p: functional.self_consistency(p.argmax(-1)),
    ),
    (lambda: Consensus(6, per_sample=True), lambda p: functional.consensus(p.argmax(-1))),
    (lambda: VoteEntropy(6, per_sample=True), lambda p: functional.vote_entropy(p.argmax(-1))),
    (
        lambda: DPDisagreement(6, per_sample=True),
        lambda p: functional.dp_disagreement(p.argmax(-1)),
    ),
    (lambda: ScoreStd(6, per_sample=True), lambda p: functional.score_std(p[..., 1])),
    (
        lambda: ViablePredictionRange(6, per_sample=True),
        lambda p: functional.viable_prediction_range(p[..., 1]),
    ),
    (lambda: RashomonCapacity(6, per_sample=True), functional.rashomon_capacity),
    (
        lambda: Ambiguity(6, per_sample=True),
        lambda p: (p.argmax(-1) != p.argmax(-1)[0]).any(dim=0).double(),
    ),
]


@pytest.mark.parametrize(("make", "function"), PER_SAMPLE)
def test_per_sample(make: Callable[[], Metric], function: Callable[[Tensor], Tensor]) -> None:
    values = fed(make(), BINARY, None).compute()
    torch.testing.assert_close(values, function(BINARY), atol=1e-9, rtol=0)


@pytest.mark.parametrize("score", ["consensus", "self_consistency", "mean_prob"])
@given(votes=labels(members=(2, 6)), data=st.data())
def test_aurc(score: str, votes: Tensor, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    target = torch.randint(4, (votes.shape[1],), generator=generator)
    noise = 0.5 * torch.rand(*votes.shape, 4, generator=generator, dtype=torch.float64)
    probs = torch.nn.functional.one_hot(votes, 4) + noise
    probs = probs / probs.sum(dim=-1, keepdim=True)
    value = fed(AURC(len(votes), score), probs, target, 5).compute()
    mean, likeliest = probs.mean(dim=0).max(dim=1)
    scores = {
        "consensus": functional.consensus(votes),
        "self_consistency": functional.self_consistency(votes),
        "mean_prob": mean,
    }[score]
    predicted = likeliest if score == "mean_prob" else functional.majority_vote(votes)
    assert value.item() == pytest.approx(functional.aurc(scores, predicted != target).item())


def test_metrics_of_one_rule() -> None:
    decisions = functional.decide(HAND, RULE)
    share = fed(Coverage(5, RULE), HAND, None, 4).compute()
    assert share == functional.coverage(decisions)
    risk = fed(SelectiveRisk(5, RULE), HAND, HAND_TARGET, 4).compute()
    assert risk == functional.selective_risk(decisions, HAND_TARGET)
    fitted = Rule("conformal", alpha=0.2).fit(PROBS[:, :30], TARGET[:30])
    values = fed(Abstention(6, fitted), PROBS[:, 30:], TARGET[30:]).compute()
    kept = functional.decide(PROBS[:, 30:], fitted)
    assert values["coverage"] == functional.coverage(kept)
    nothing = fed(SelectiveRisk(5, Rule("binomial", alpha=0.01)), HAND, HAND_TARGET).compute()
    assert nothing.isnan()  # never 0


def test_conflict_of_two_ensembles() -> None:
    a, b = functional.decide(HAND[:3], "unanimous"), functional.decide(HAND[3:], "majority")
    for count_deferral in (False, True):
        metric = EnsembleConflict(count_deferral)
        metric.update(a[:4], b[:4])
        metric.update(a[4:], b[4:])
        assert metric.compute() == functional.ensemble_conflict(a, b, count_deferral)


ONE = [
    Ambiguity(1),
    Discrepancy(1),
    Obscurity(1),
    Consensus(1),
    UnanimousCoverage(1),
    VoteEntropy(1),
    PairwiseDisagreement(1, "matrix"),
]
UNDEFINED = [SelfConsistency, DPDisagreement, PairwiseDisagreement]


def test_one_member() -> None:
    values = [fed(copy.deepcopy(metric), rows("0 1 1"), None).compute().item() for metric in ONE]
    assert values == [0, 0, 0, 1, 1, 0, 0]
    for kind in UNDEFINED:
        with pytest.warns(UserWarning, match="is NaN with one") as caught:
            metric = kind(1)
        metric.update(rows("0 1 1"))
        metric.update(rows("0 1 1"))
        assert metric.compute().isnan()
        assert len(caught) == 1
    with pytest.warns(UserWarning, match="compares two members"):
        assert Obscurity(1, exclude_baseline=True).num_members == 1


def test_nothing_seen() -> None:
    for metric in [*(copy.deepcopy(m) for m in ONE), RashomonCapacity(2), AURC(2, "mean_prob")]:
        with pytest.warns(UserWarning, match="before the ``update``"):
            assert torch.as_tensor(metric.compute()).isnan().all()
    empty = Consensus(3, per_sample=True)
    empty.update(torch.zeros(3, 0, dtype=torch.int64))
    assert empty.compute().shape == (0,)


def test_missing_classes() -> None:
    """Classes that no member ever predicts change nothing."""
    few = fed(MultiplicityCollection(5, 9, scores=False), HAND, HAND_TARGET).compute()
    some = fed(MultiplicityCollection(5, 3, scores=False), HAND, HAND_TARGET).compute()
    assert few == some


@pytest.mark.parametrize(
    ("metric", "preds", "message"),
    [
        (Ambiguity(3), HAND, "the first dimension must be the 3 members"),
        (Ambiguity(5), HAND[0], "the first dimension"),
        (Ambiguity(6), PROBS[..., 0], "task='binary'"),
        (Ambiguity(5), HAND - 1, "negative"),
        (ScoreStd(5), HAND, "needs the probabilities"),
        (ScoreStd(6), PROBS * 30, "softmax"),
        (ScoreStd(6), PROBS - 0.5, "softmax"),
        (RashomonCapacity(6), PROBS.log_softmax(-1), "softmax"),
        (DPDisagreement(5), HAND, "two classes"),
        (AURC(5), HAND, "needs target"),
    ],
)
def test_wrong_batches(metric: Metric, preds: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        copy.deepcopy(metric).update(preds)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ambiguity(0), "at least 1"),
        (lambda: Ambiguity(3, baseline=3), "index of one of the 3"),
        (lambda: Discrepancy(3, "best"), "needs validation="),
        (lambda: Obscurity(3, "majority", exclude_baseline=True), "one of the members"),
        (lambda: PairwiseDisagreement(3, "sum"), "must be 'mean'"),
        (lambda: AURC(3, "entropy"), "score must be"),
        (lambda: ScoreAmbiguity(3, 0.0), "delta must be"),
        (lambda: ScoreDiscrepancy(3, 0.1, "majority"), "index of a member"),
        (lambda: Consensus(3, task="multilabel"), "MultilabelMultiplicity"),
        (lambda: MultilabelMultiplicity(3, 0), "num_labels"),
        (lambda: MultilabelAbstention(3, 2, [RULE]), "1 rules for 2 labels"),
        (lambda: SubgroupMultiplicity(0, MultiplicityCollection(3, 3)), "num_groups"),
    ],
)
def test_wrong_arguments(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


MULTILABEL = torch.rand(4, 31, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
MULTILABEL_TARGET = torch.randint(2, (31, 3), generator=torch.Generator().manual_seed(6))


def test_multilabel() -> None:
    threshold = torch.tensor([0.5, 0.3, 0.9], dtype=torch.float64)
    metrics = MultilabelMultiplicity(4, 3, threshold, score_delta=0.2)
    metrics.update(MULTILABEL[:, :20])
    metrics.update(MULTILABEL[:, 20:])
    values = metrics.compute()
    votes = functional.hard_labels(MULTILABEL, "multilabel", threshold)
    by_label = functional.per_label(functional.ambiguity, votes)
    assert [values[f"label_{q}/ambiguity"].item() for q in range(3)] == by_label.tolist()
    assert values["macro/ambiguity"] == by_label.mean()
    joint = functional.joint_labels(votes)
    for name in ("ambiguity", "discrepancy", "obscurity", "pairwise_disagreement"):
        assert values[f"any/{name}"] == pytest.approx(getattr(functional, name)(joint).item())
    entropy = functional.per_label(functional.vote_entropy, votes).mean(dim=1)
    assert values["macro/vote_entropy"].item() == pytest.approx(entropy.mean().item())
    score = functional.score_ambiguity(MULTILABEL[..., 2], 0.2)
    assert values["label_2/score_ambiguity"] == score
    metrics.reset()
    by_votes = MultilabelMultiplicity(4, 3, scores=False)
    by_votes.update(votes)
    assert by_votes.compute()["macro/ambiguity"] == by_label.mean()


@pytest.mark.parametrize("defer", ["label", "sample"])
def test_multilabel_abstention(defer: str) -> None:
    rule = Rule("unanimous")
    metric = MultilabelAbstention(4, 3, rule, defer)
    metric.update(MULTILABEL[:, :20], MULTILABEL_TARGET[:20])
    metric.update(MULTILABEL[:, 20:], MULTILABEL_TARGET[20:])
    values = metric.compute()
    votes = (MULTILABEL >= 0.5).long()
    decisions = functional.decide_multilabel(votes, rule, defer=defer)
    for q in range(3):
        report = functional.selective_report(
            decisions[:, q], MULTILABEL_TARGET[:, q], functional.majority_vote(votes[..., q])
        )
        assert values[f"label_{q}/coverage"].item() == report.coverage
        assert values[f"label_{q}/selective_risk"].item() == pytest.approx(
            report.selective_risk, nan_ok=True
        )
        assert values[f"label_{q}/deferred_error"].item() == pytest.approx(report.deferred_error)
    whole = (decisions >= 0).all(dim=1)
    assert values["any/coverage"] == whole.double().mean()
    wrong = (decisions != MULTILABEL_TARGET).any(dim=1)
    if bool(whole.any()):
        assert values["any/selective_risk"] == wrong[whole].double().mean()
    coverages = [values[f"label_{q}/coverage"].item() for q in range(3)]
    assert values["macro/coverage"].item() == pytest.approx(sum(coverages) / 3)
    with pytest.raises(ValueError, match="target must have shape"):
        metric.update(MULTILABEL, MULTILABEL_TARGET[:5])
    with pytest.raises(ValueError, match="preds must have shape"):
        metric.update(MULTILABEL[..., :2], MULTILABEL_TARGET)


def test_subgroups() -> None:
    groups = torch.arange(53) % 3
    groups[groups == 1] = 2  # group 1 is empty
    metrics = SubgroupMultiplicity(3, collection(3))
    for part in (slice(0, 10), slice(10, 53)):
        metrics.update(PROBS[:, part], groups[part], TARGET[part])
    values = numbers(metrics.compute())
    for group in (0, 2):
        inside = groups == group
        for name, value in expected(PROBS[:, inside], TARGET[inside]).items():
            assert values[f"group_{group}/{name}"] == pytest.approx(value, abs=1e-9)
    assert values["group_1/samples"] == 0
    assert values["group_1/ambiguity"] != values["group_1/ambiguity"]
    for wrong, message in ((groups + 1, r"0\.\.2"), (groups[:3], r"shape \(53,\)")):
        with pytest.raises(ValueError, match=message):
            metrics.update(PROBS, wrong, TARGET)
    metrics.reset()
    metrics.update(PROBS, torch.zeros_like(groups), TARGET)
    assert metrics.compute()["group_0/samples"] == 53


def on_each_rank(rank: int, world: int, count: int) -> dict[str, float]:
    """Every rank has its share, without padding; the last ones perhaps none."""
    mine = torch.arange(count)[rank::world]
    metrics = collection(3)
    if len(mine):
        fed(metrics, PROBS[:, mine], TARGET[mine], 7)
    values = numbers(metrics.compute())
    capacity, area = RashomonCapacity(6, per_sample=True), AURC(6, "mean_prob")
    matrix, groups = PairwiseDisagreement(6, "matrix"), SubgroupMultiplicity(2, collection(3))
    for metric in (capacity, area, matrix):
        if len(mine):
            fed(metric, PROBS[:, mine], TARGET[mine])
    if len(mine):
        groups.update(PROBS[:, mine], mine % 2, TARGET[mine])
    multilabel = MultilabelAbstention(4, 3, Rule("unanimous"))
    own = mine[mine < 31]
    if len(own):
        multilabel.update(MULTILABEL[:, own], MULTILABEL_TARGET[own])
    values["capacity"] = capacity.compute().sum().item()
    values["capacity_samples"] = float(capacity.compute().numel())
    values["mean_prob_area"] = area.compute().item()
    values |= {f"pair {k}": v for k, v in enumerate(matrix.compute().flatten().tolist())}
    values |= numbers(groups.compute())
    return values | {f"labels {k}": v for k, v in numbers(multilabel.compute()).items()}


@pytest.fixture(scope="module")
def three_processes() -> Iterator[GlooPool]:
    pool = GlooPool(3)
    yield pool
    pool.close()


@pytest.mark.ddp
@pytest.mark.parametrize("count", [53, 2, 1])  # fewer samples than ranks, too
def test_two_and_three_processes_give_what_one_gives(
    gloo_pool: GlooPool, three_processes: GlooPool, count: int
) -> None:
    one = on_each_rank(0, 1, count)
    if count == 53:
        plain = expected(PROBS, TARGET)
        assert {name: one[name] for name in plain} == pytest.approx(plain, abs=1e-9)
    for pool in (gloo_pool, three_processes):
        for other in pool.run(on_each_rank, pool.size, count):
            assert other == pytest.approx(one, abs=1e-12, nan_ok=True)
