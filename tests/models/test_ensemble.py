import importlib.util

import pytest
import torch
from abstention_kit import ForeignData, member, probabilities, samples, trainer, write
from lightning.pytorch import LightningModule

from lightning_priv.errors import ConfigurationError
from lightning_priv.functional import multiplicity as functional
from lightning_priv.functional.multiplicity import Rule
from lightning_priv.models import EnsembleModule

SEEDS = [1, 2, 3, 4]


def test_predict_step_decides_or_defers(tmp_path):
    module = EnsembleModule.from_checkpoints(
        write(tmp_path, SEEDS, class_names=["a", "b", "c"]), member(9), Rule("unanimous")
    )
    assert module.class_names == ["a", "b", "c"]
    outputs = trainer().predict(module, ForeignData(indexed=True))
    whole = {key: torch.cat([out[key] for out in outputs]) for key in outputs[0]}
    x, _ = samples()
    probs = probabilities(SEEDS, x)
    labels = probs.argmax(-1)
    assert set(whole) == {
        *("prediction", "majority", "deferred", "consensus", "self_consistency"),
        *("votes", "mean_prob", "id"),
    }
    decided = functional.decide(labels, "unanimous")
    assert torch.equal(whole["prediction"], decided)
    assert 0 < whole["deferred"].sum() < len(x)
    assert torch.equal(whole["deferred"], decided < 0)
    assert torch.equal(whole["votes"], functional.vote_counts(labels, 3))
    assert torch.equal(whole["id"], torch.arange(len(x)))
    torch.testing.assert_close(whole["mean_prob"], probs.mean(0))
    torch.testing.assert_close(whole["self_consistency"], functional.self_consistency(labels))


def test_coverage_and_risk_are_logged_by_test():
    module = EnsembleModule([member(s) for s in SEEDS], Rule("threshold", tau=0.7))
    (got,) = trainer().test(module, ForeignData(), verbose=False)
    x, y = samples()
    decided = functional.decide(probabilities(SEEDS, x).argmax(-1), "threshold", tau=0.7)
    assert got["test/coverage"] == pytest.approx(float(functional.coverage(decided)))
    assert got["test/selective_risk"] == pytest.approx(float(functional.selective_risk(decided, y)))


def test_file_keeps_weights_and_the_fitted_rule(tmp_path):
    x, y = samples(60, seed=5)
    probs = probabilities(SEEDS, x).double()
    rule = Rule("conformal", alpha=0.2).fit(probs.argmax(-1), y, probs)
    module = EnsembleModule([member(s) for s in SEEDS], rule, class_names=["a", "b", "c"])
    module.save(tmp_path / "ensemble.ckpt")
    again = EnsembleModule.load(tmp_path / "ensemble.ckpt", member(9))
    assert again.rule == rule
    assert again.class_names == ["a", "b", "c"]
    for key, value in module.judge(x).items():
        assert torch.equal(value, again.judge(x)[key]), key
    with pytest.raises(ConfigurationError, match="belongs to another network"):
        EnsembleModule.load(tmp_path / "ensemble.ckpt", member(9, hidden=6))
    with pytest.raises(ConfigurationError, match="was not written by"):
        EnsembleModule.load(write(tmp_path, [1])[0], member(9))


@pytest.mark.parametrize("outputs", [3, 1])
def test_export_gives_the_same_votes_for_any_batch(outputs, tmp_path):
    module = EnsembleModule([member(s, outputs=outputs) for s in SEEDS])
    x, _ = samples()
    module.export(tmp_path / "vote.pt2", x[:2])
    program = torch.export.load(tmp_path / "vote.pt2").module()
    for part in (x[:1], x):
        mean, votes = program(part)
        expected = module.judge(part)
        torch.testing.assert_close(mean, expected["mean_prob"])
        assert torch.equal(votes, expected["votes"])


def test_onnx_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    module = EnsembleModule([member(1), member(2)])
    with pytest.raises(ConfigurationError, match="pip install onnx onnxscript"):
        module.export_onnx(tmp_path / "vote.onnx", samples()[0])


@pytest.mark.skipif(
    importlib.util.find_spec("onnxscript") is None, reason="onnx and onnxscript are optional"
)
def test_onnx_gives_the_same_votes(tmp_path):
    import onnx
    from onnx.reference import ReferenceEvaluator

    module = EnsembleModule([member(s) for s in SEEDS])
    x, _ = samples()
    module.export_onnx(tmp_path / "vote.onnx", x[:2])
    graph = ReferenceEvaluator(onnx.load(tmp_path / "vote.onnx"))
    mean, votes = graph.run(None, {"x": x.numpy()})
    expected = module.judge(x)
    torch.testing.assert_close(torch.from_numpy(mean), expected["mean_prob"])
    assert torch.equal(torch.from_numpy(votes), expected["votes"])


def test_members_that_give_probabilities_are_exported_as_such():
    class Softmax(LightningModule):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.net = member(seed)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x).softmax(-1)

    module = EnsembleModule([Softmax(s) for s in SEEDS])
    x, _ = samples()
    vote = module.mean_vote(x)
    assert vote.output == "probabilities"
    torch.testing.assert_close(vote(x)[0], probabilities(SEEDS, x).mean(0))
    assert all(type(m) is Softmax for m in vote.members)  # their net alone gives logits


def test_thresholds_of_the_members_are_kept(tmp_path):
    x, _ = samples()
    cuts = [0.2, 0.5, 0.6, 0.9]
    module = EnsembleModule([member(s, outputs=1) for s in SEEDS], thresholds=cuts)
    with torch.no_grad():
        p = torch.stack([member(s, outputs=1)(x)[:, 0].sigmoid() for s in SEEDS])
    labels = (p >= torch.tensor(cuts)[:, None]).long()
    expected = functional.vote_counts(labels, 2)
    module.save(tmp_path / "ensemble.ckpt")
    again = EnsembleModule.load(tmp_path / "ensemble.ckpt", member(9, outputs=1))
    for votes in (module.judge(x)["votes"], again.judge(x)["votes"], again.mean_vote(x)(x)[1]):
        assert torch.equal(votes, expected)
    with pytest.raises(ValueError, match="3 thresholds for 4 members"):
        EnsembleModule([member(s) for s in SEEDS], thresholds=cuts[:3])
