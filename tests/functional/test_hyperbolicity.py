"""Gromov's delta: trees, graphs with known values, brute force over quadruples, memory."""

import itertools

import networkx as nx
import pytest
import torch
from torch.testing import assert_close

from lightning_priv import functional as fn
from lightning_priv.functional import delta_hyperbolicity, gromov_delta


def distances(graph):
    order = sorted(graph)
    lengths = dict(nx.all_pairs_dijkstra_path_length(graph))
    rows = [[float(lengths[a][b]) for b in order] for a in order]
    return torch.tensor(rows, dtype=torch.float64)


def brute_force(d):
    """Half the largest difference of the two largest sums, over all quadruples."""
    best = 0.0
    for a, b, c, e in itertools.combinations(range(len(d)), 4):
        sums = sorted([d[a, b] + d[c, e], d[a, c] + d[b, e], d[a, e] + d[b, c]])
        best = max(best, float(sums[2] - sums[1]) / 2)
    return best


def test_a_tree_has_delta_zero():
    tree = nx.random_labeled_tree(120, seed=3)
    torch.manual_seed(0)
    for edge in tree.edges:  # lengths that are no whole numbers
        tree.edges[edge]["weight"] = 0.1 + float(torch.rand(()))
    d = distances(tree)
    assert float(gromov_delta(d)) == pytest.approx(0.0, abs=1e-12)
    assert float(gromov_delta(d[:40, :40], base=None)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("graph", "delta"),
    [
        (nx.complete_graph(6), 0.0),
        (nx.cycle_graph(4), 1.0),
        (nx.cycle_graph(5), 0.5),
        (nx.cycle_graph(6), 1.0),
        (nx.cycle_graph(9), 1.5),
        (nx.cycle_graph(12), 3.0),
        (nx.grid_2d_graph(4, 4), 3.0),
        (nx.petersen_graph(), 0.5),
    ],
    ids=["K6", "C4", "C5", "C6", "C9", "C12", "grid", "petersen"],
)
def test_known_graphs(graph, delta):
    d = distances(graph)
    assert float(gromov_delta(d, base=None)) == delta
    if len(d) <= 12:
        assert brute_force(d) == delta
    one = float(gromov_delta(d))
    assert delta / 2 <= one <= delta


def test_all_bases_are_the_brute_force_over_quadruples():
    torch.manual_seed(0)
    x = torch.randn(14, 3).double()
    d = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    assert float(gromov_delta(d, base=None)) == pytest.approx(brute_force(d), abs=1e-12)


def test_blocks_do_not_matter():
    torch.manual_seed(0)
    x = torch.randn(150, 3).double()
    d = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    products = (d[0][:, None] + d[0] - d) / 2
    plain = torch.minimum(products[:, :, None], products[None]).amax(1) - products
    assert_close(gromov_delta(d), plain.max(), rtol=0, atol=0)
    assert_close(gromov_delta(d[5:, 5:].float()), gromov_delta(d[5:, 5:]).float())


def test_hyperbolic_points_are_nearer_to_a_tree_than_euclidean_ones():
    """delta of the hyperbolic plane of k = 1 is below log 2, whatever the diameter."""
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(300, 2, generator=generator).double()
    v = 8 * v / v.norm(dim=1, keepdim=True)

    def geodesic(z):
        return fn.lorentz_distance(z[:, None], z[None])

    curved = delta_hyperbolicity(
        fn.exp_map_origin(v), 100, 4, distance=geodesic, generator=generator
    )
    flat = delta_hyperbolicity(v, 100, 4, generator=generator)
    assert curved.diameter == pytest.approx(16, abs=0.1)
    assert curved.relative < 2 * 0.6932 / 15.9
    assert flat.relative > 3 * curved.relative
    assert len(curved.values) == 4
    assert curved.relative == pytest.approx(sum(curved.values) / 4)
    assert curved.deviation > 0
    whole = delta_hyperbolicity(v[:50], 100, 4)
    assert len(whole.values) == 1
    assert whole.deviation == 0


def test_memory_is_a_few_matrices():
    """Shape of the largest tensor at N = 300: no N^3, nothing larger than the matrix."""
    sizes = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                sizes.append(out.numel())
            return out

    x = torch.randn(300, 4)
    d = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    with Sizes():
        gromov_delta(d)
    assert max(sizes) == 300**2


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"shape \(N, N\), got \(2, 3\)"):
        gromov_delta(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="symmetric with a diagonal of zeros"):
        gromov_delta(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
    with pytest.raises(ValueError, match="base must be an index of the 3 points, got 3"):
        gromov_delta(torch.zeros(3, 3), base=3)
    with pytest.raises(ValueError, match="at least four points"):
        delta_hyperbolicity(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="NaN"):
        delta_hyperbolicity(torch.full((5, 2), float("nan")))
    with pytest.raises(ValueError, match="all points are alike"):
        delta_hyperbolicity(torch.ones(5, 2))
