"""The probe as a module, and its posterior against laplace-torch."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from lightning_priv.functional.laplace_information.diagonal import DiagonalPosterior
from lightning_priv.functional.laplace_information.kfac import KroneckerPosterior
from lightning_priv.functional.laplace_information.rows import make_rows
from lightning_priv.nn import LaplaceProbe


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    """laplace-torch multiplies its full matrix out in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def data(n: int = 20, d: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (n,), generator=generator)


def as_torch_orders(matrix: Tensor, outputs: int) -> Tensor:
    """Class-major rows with the bias last -> weights row by row, then biases."""
    index = torch.arange(len(matrix)).view(outputs, -1)
    order = torch.cat([index[:, :-1].flatten(), index[:, -1]])
    return matrix[order][:, order]


def in_outputs(probe: LaplaceProbe) -> Tensor:
    """Our full precision over all C (d + 1) weights; the shift of the logits keeps the prior."""
    fit = probe.fitted
    assert fit is not None
    assert fit.factor is not None
    head, d1 = fit.likelihood, fit.weight.shape[1]
    basis = torch.kron(head.basis(fit.weight), torch.eye(d1, dtype=torch.float64))
    inner = fit.factor[0] @ fit.factor[0].mT - fit.l2 * torch.eye(basis.shape[1])
    return basis @ inner @ basis.mT + fit.l2 * torch.eye(len(basis), dtype=torch.float64)


def test_full_precision_is_laplace_torchs() -> None:
    x, y = data()
    probe = LaplaceProbe(4, 3, 0.7).fit(x, y)
    posterior = probe.laplace(x, y, "full")
    ours = as_torch_orders(in_outputs(probe), 3)
    torch.testing.assert_close(posterior.posterior_precision, ours, rtol=1e-10, atol=1e-10)


def test_diagonal_precision_is_laplace_torchs() -> None:
    x, y = data()
    probe = LaplaceProbe(4, 3, 0.7).fit(x, y)
    assert probe.fitted is not None
    ours = DiagonalPosterior(make_rows(x, y), probe.fitted.coordinates, 0.7).precision[0]
    ours = torch.cat([ours[:, :-1].flatten(), ours[:, -1]])
    theirs = probe.laplace(x, y, "diag").posterior_precision
    torch.testing.assert_close(theirs, ours, rtol=1e-10, atol=1e-10)


def test_kronecker_precision_is_laplace_torchs() -> None:
    x, y = data()
    probe = LaplaceProbe(4, 3, 0.7).fit(x, y)
    assert probe.fitted is not None
    kron = KroneckerPosterior(make_rows(x, y), probe.fitted.coordinates, 0.7)
    weights = torch.kron(kron.b[0], kron.a)
    ours = torch.block_diag(weights, kron.b[0])
    ours = ours + 0.7 * torch.eye(len(ours), dtype=torch.float64)
    theirs = probe.laplace(x, y, "kron").posterior_precision
    torch.testing.assert_close(theirs.to_matrix(), ours, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(theirs.logdet(), torch.linalg.slogdet(ours)[1], rtol=1e-10, atol=0)


def test_regression_precision_is_laplace_torchs() -> None:
    x, _ = data()
    y = x @ torch.ones(4, dtype=torch.float64) + 0.1 * x[:, 0].square()
    probe = LaplaceProbe(4, 1, 2.0, head="regression", noise_variance=0.25).fit(x, y)
    assert probe.fitted is not None
    assert probe.fitted.factor is not None
    ours = probe.fitted.factor[0] @ probe.fitted.factor[0].mT
    theirs = probe.laplace(x, y).posterior_precision
    torch.testing.assert_close(theirs, as_torch_orders(ours, 1), rtol=1e-10, atol=1e-10)


def test_module_gives_what_the_solver_found() -> None:
    x, y = data()
    probe = LaplaceProbe(4, 3).fit(x, y)
    assert probe.fitted is not None
    torch.testing.assert_close(probe(x.float()), probe.fitted.logits(x), rtol=1e-6, atol=1e-6)
    other = LaplaceProbe(4, 3)
    other.load_state_dict(probe.state_dict())
    torch.testing.assert_close(other(x), probe(x), rtol=0, atol=0)
    result = probe.information(x, y, "diag")
    assert result.fit is not None
    assert bool((result.scores > 0).all())


def test_errors_say_what_to_do() -> None:
    x, y = data()
    with pytest.raises(ValueError, match="call fit"):
        LaplaceProbe(4, 3).information(x, y)
    with pytest.raises(ValueError, match="outputs, features"):
        LaplaceProbe(5, 3).fit(x, y)
    probe = LaplaceProbe(4, 1, head="binary").fit(x, (y > 0).long())
    with pytest.raises(ValueError, match="softmax of two classes"):
        probe.laplace(x, (y > 0).long())
