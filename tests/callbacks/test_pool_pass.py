"""What a model says about a pool: equal to the model itself, on any number of processes."""

import pytest
import torch
from active_kit import model, ready, trainer
from gloo_pool import GlooPool
from lightning.pytorch import LightningModule
from torch import nn

from lightning_priv import acquisition as a
from lightning_priv.callbacks.fixed_masks import FixedMasks
from lightning_priv.callbacks.pool_pass import pool_view
from lightning_priv.callbacks.pool_query import candidates, choose, select
from lightning_priv.errors import ConfigurationError, UnsupportedModuleError
from lightning_priv.functional.acquisition import bald
from lightning_priv.models import StackedMembers
from lightning_priv.nn import MLP

EVERY = [a.Random(), a.LeastConfidence(), a.Margin(), a.Entropy(), a.MeanEntropy(3)]
EVERY += [a.VariationRatio(3), a.BALD(3), a.EPIG(3, targets=9), a.BatchBALD(3), a.KCenter()]
EVERY += [a.BADGE(), a.TypiClust(), a.ProbCover(1.0), a.Power(), a.SoftmaxSampling(a.BALD(3))]
EVERY += [a.SoftRank(), a.Diverse(), a.ClassBalanced(a.Margin()), a.Mix([a.Entropy(), a.KCenter()])]


def net(dropout=0.3):
    torch.manual_seed(3)
    return model(dropout)


@pytest.mark.parametrize("acquisition", EVERY, ids=lambda x: type(x).__name__)
def test_every_acquisition_chooses_from_the_pool(acquisition):
    made, module = ready(), net()
    query = choose(trainer(), module, made, acquisition, 1, 6, seed=0)
    assert len(set(query.ids)) == 6
    assert set(query.ids) <= set(made.pool_indices.tolist())
    again = choose(trainer(), module, made, acquisition, 1, 6, seed=0)
    assert (query.ids, query.scores) == (again.ids, again.scores)
    if isinstance(acquisition, a.ScoredAcquisition):
        assert list(query.scores) == sorted(query.scores, reverse=True)


def test_predictions_and_features_are_those_of_the_module():
    made, module = ready(pool_batch_size=10), net()
    view = pool_view(trainer(), module, made, a.BADGE())
    module.eval()
    x = made.whole_dataset.inputs()[made.pool_indices]
    with torch.no_grad():
        torch.testing.assert_close(view.probs, module(x).softmax(-1))
        torch.testing.assert_close(view.embeddings, module.net.body(x))
        known = made.whole_dataset.inputs()[made.labelled_indices]
        labelled = pool_view(trainer(), module, made, a.KCenter()).labelled_embeddings
        torch.testing.assert_close(labelled, module.net.body(known))


def test_nothing_of_the_training_changes():
    made, module = ready(), net()
    module.net.body.append(nn.BatchNorm1d(16))
    module.train()
    module.net.head.eval()
    modes = [m.training for m in module.modules()]
    state = {k: v.clone() for k, v in module.state_dict().items()}
    rng = torch.get_rng_state()
    pool_view(trainer(), module, made, a.Mix([a.BALD(3), a.BADGE()]))
    assert modes == [m.training for m in module.modules()]
    assert all(torch.equal(v, module.state_dict()[k]) for k, v in state.items())
    assert torch.equal(rng, torch.get_rng_state())


def test_draws_are_networks_with_dropped_units():
    made, module = ready(), net(0.5)
    view = pool_view(trainer(), module, made, a.BALD(draws=4), seed=5)
    assert view.mc.shape == (4, 77, 3)
    assert not torch.equal(view.mc[0], view.mc[1])
    other = pool_view(trainer(), module, ready(pool_batch_size=7), a.BALD(draws=4), seed=5)
    torch.testing.assert_close(view.mc, other.mc)  # the same units for every sample
    x = made.whole_dataset.inputs()[made.pool_indices]
    hidden = module.net.body[:2](x).detach()  # before dropout
    kept = []
    for draw in view.mc:
        # which units were kept follows from the logits up to a constant: try single samples
        logits = draw.log()
        centred = (logits - logits.mean(1, keepdim=True)).double()
        weight = module.net.head.weight.detach().double()
        weight = weight - weight.mean(0)
        bias = module.net.head.bias.detach().double()
        features = (hidden.double()[:, None] * weight).flatten(0, 1)
        target = (centred - (bias - bias.mean())).flatten()
        mask = torch.linalg.lstsq(features, target[:, None]).solution.flatten()
        alive = hidden.abs().amax(0) > 1e-6
        assert all(min(abs(m), abs(m - 2)) < 1e-2 for m in mask[alive].tolist())  # 0 or 1/(1-p)
        kept.append(mask[alive])
    assert 0 < float(torch.stack(kept).mean()) < 2


def test_masks_have_the_rate_of_the_layer():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Dropout(0.25), nn.Dropout2d(0.5)).eval()
    x = torch.ones(2, 400, 5, 5)
    with FixedMasks(layers[:1], 1):
        out = layers[:1](x)
    assert torch.equal(out[0], out[1])
    values = out[0].unique()
    torch.testing.assert_close(values, torch.tensor([0.0, 4 / 3]))
    assert abs(float((out == 0).double().mean()) - 0.25) < 4 * (0.25 * 0.75 / 1e4) ** 0.5
    with FixedMasks(nn.Sequential(layers[1]), 1):
        whole = layers[1](x)
    assert set(whole.flatten(2).std(2).unique().tolist()) == {0.0}  # whole channels
    assert torch.equal(layers(x), x)  # gone afterwards


def test_draws_need_dropout_or_members():
    with pytest.raises(ConfigurationError, match="no dropout layer with p > 0 and is no ensemble"):
        pool_view(trainer(), net(0.0), ready(), a.BALD())
    alpha = model()
    alpha.net.body.append(nn.AlphaDropout(0.1))
    with pytest.raises(UnsupportedModuleError, match=r"AlphaDropout at 'net\.body\.2'"):
        pool_view(trainer(), alpha, ready(), a.BALD())


def test_members_of_a_stack_are_draws():
    made = ready()
    stack = StackedMembers(lambda: MLP(2, 3), 3, members=4)
    view = pool_view(trainer(), stack, made, a.BALD())
    with torch.no_grad():
        mc = stack(made.whole_dataset.inputs()[made.pool_indices]).softmax(-1)
    torch.testing.assert_close(view.mc, mc)
    torch.testing.assert_close(view.probs, mc.mean(0))
    rows = a.BALD().select(view, 5, torch.Generator())
    assert torch.equal(rows, bald(mc).sort(descending=True, stable=True).indices[:5])


class Own(LightningModule):
    """A module of another project."""

    def __init__(self, give):
        super().__init__()
        self.layer, self.give = nn.Linear(2, 3), give

    def forward(self, x):
        return self.give(self.layer(x))


def test_modules_of_other_projects():
    made = ready()
    for give in (lambda z: z, lambda z: {"logits": z}):
        view = pool_view(trainer(), Own(give), made, a.Entropy())
        torch.testing.assert_close(view.probs.sum(1), torch.ones(77))
    view = pool_view(trainer(), Own(lambda z: z.softmax(-1)), made, a.Entropy(), outputs="probs")
    torch.testing.assert_close(view.probs.sum(1), torch.ones(77))
    view = pool_view(trainer(), Own(lambda z: z), made, a.Entropy(), multi_label=True)
    assert view.multi_label
    module = Own(lambda z: z)
    module.acquisition_forward = lambda x: torch.zeros(len(x), 3)
    view = pool_view(trainer(), module, made, a.BADGE())
    assert view.probs.unique().tolist() == pytest.approx([1 / 3])


@pytest.mark.parametrize(
    ("give", "text"),
    [
        (lambda z: z.softmax(-1), "gives probabilities, not logits"),
        (lambda z: z[:1], "came back as 1 predictions"),
        (lambda z: z[None], r"gives \(1, 77, 3\)"),
        (lambda z: (z, z), "gives tuple"),
    ],
)
def test_outputs_that_would_be_misread(give, text):
    with pytest.raises(UnsupportedModuleError, match=text):
        pool_view(trainer(), Own(give), ready(), a.Entropy())


@pytest.mark.parametrize("acquisition", [a.Entropy(), a.KCenter(), a.BALD(2)])
def test_broken_outputs_are_named_by_global_index(acquisition):
    made, module = ready(), net()
    broken = made.pool_indices[[3, 8]].tolist()
    made.whole_dataset.x[broken] = torch.nan
    shown = rf"NaN or infinite for 2 samples, indices {broken[0]}, {broken[1]}; nothing was chosen"
    with pytest.raises(ValueError, match=shown):
        choose(trainer(), module, made, acquisition, 1, 6, seed=0)
    assert made.pending is None
    made.ignore(broken)
    assert not set(broken) & set(choose(trainer(), module, made, acquisition, 1, 6, seed=0).ids)


def test_core_set_without_a_labelled_sample():
    """A fault of another library: it fails on an empty labelled set."""
    made = ready(initial=0)
    query = choose(trainer(), net(), made, a.KCenter(), 1, 5, seed=0)
    assert len(set(query.ids)) == 5


def test_twins_in_the_pool():
    """Batches avoid what they have already; the best by score do not."""
    made = ready(initial=[0])
    x = made.whole_dataset.x
    x[1:51], x[51:] = x[1:51].clone(), x[1:51].clone()
    module = net()
    for acquisition, distinct in ((a.KCenter(), True), (a.BADGE(), True), (a.Entropy(), False)):
        ids = choose(trainer(), module, made, acquisition, 1, 8, seed=0).ids
        assert (len({tuple(x[i].tolist()) for i in ids}) == 8) is distinct


def test_a_random_part_of_the_pool():
    pool = torch.arange(100) * 2
    some = candidates(pool, 5, 1, 20)
    assert len(some) == 20
    assert torch.equal(some, some.sort().values)
    assert torch.equal(some, candidates(pool, 5, 1, 20))
    assert len(candidates(pool, 30, 1, 20)) == 30  # enough for the query
    assert candidates(pool, 5, 1, None) is pool
    made = ready()
    query = choose(trainer(), net(), made, a.Entropy(), 1, 6, seed=0, subset=10)
    assert len(query.ids) == 6


def test_a_query_larger_than_the_pool():
    with pytest.raises(ConfigurationError, match="only 1 are left"):
        choose(trainer(), net(), ready(initial=100), a.Entropy(), 1, 6, seed=0)


def views(rank):
    torch.set_num_threads(1)
    made, module = ready(pool_batch_size=10), net()
    found = []
    for acquisition in (a.Entropy(), a.BALD(3), a.KCenter(), a.BADGE()):
        view = pool_view(trainer(), module, made, acquisition)
        tensors = [view.probs, view.mc, view.embeddings, view.labelled_embeddings]
        rows, _ = select(acquisition, view, 7, 0)
        found.append(([None if t is None else t.numpy().tobytes() for t in tensors], rows))
    tiny = ready(initial=98, pool_batch_size=2)  # fewer blocks than processes
    found.append(pool_view(trainer(), module, tiny, a.Entropy()).probs.numpy().tobytes())
    return found


@pytest.mark.ddp
@pytest.mark.parametrize("processes", [2, 3])
def test_equal_to_the_last_bit_on_any_number_of_processes(processes):
    alone = views(0)
    workers = GlooPool(processes)
    try:
        for found in workers.run(views):
            assert found == alone
    finally:
        workers.close()


def normalised(rank):
    """Predictions with the running means of a batch norm, which each process has of its own."""
    torch.set_num_threads(1)
    made, module = ready(pool_batch_size=10), net()
    module.net.body.append(nn.BatchNorm1d(16))
    module.net.body[-1].running_mean += rank
    view = pool_view(trainer(), module, made, a.Entropy())
    return view.probs.numpy().tobytes(), float(module.net.body[-1].running_mean[0])


@pytest.mark.ddp
def test_one_model_predicts_on_all_processes(gloo_pool):
    alone, _ = normalised(0)
    assert gloo_pool.run(normalised) == [(alone, 0.0), (alone, 1.0)]
