"""Scores of reconstructions against scikit-image, scipy and by hand."""

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from lightning_priv.metrics import AuditGain, LabelAgreement, image_scores


def test_scores_against_other_packages() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(5, 3, 12, 12, generator=generator) * 2 - 1
    y = (x + 0.3 * torch.randn(x.shape, generator=generator)).clamp(-1, 1)
    found = image_scores(y, x)
    for row in range(5):
        a, b = ((t[row].double().numpy() + 1) / 2 for t in (y, x))
        assert float(found["mse"][row]) == pytest.approx(metrics.mean_squared_error(b, a), rel=1e-5)
        psnr = metrics.peak_signal_noise_ratio(b, a, data_range=1)
        assert float(found["psnr"][row]) == pytest.approx(psnr, rel=1e-5)
        assert float(found["ssim"][row]) == pytest.approx(similarity(a, b), abs=1e-5)


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM with a flat 7x7 window and mirrored borders, written down by scipy's filter."""

    def mean(x: np.ndarray) -> np.ndarray:
        return uniform_filter(x, (0, 7, 7), mode="mirror")

    m, n = mean(a), mean(b)
    cross, u, v = mean(a * b) - m * n, mean(a * a) - m * m, mean(b * b) - n * n
    top = (2 * m * n + 0.01**2) * (2 * cross + 0.03**2)
    return float((top / ((m * m + n * n + 0.01**2) * (u + v + 0.03**2))).mean())


@pytest.mark.parametrize("side", [3, 6, 8, 25])
def test_small_images_have_a_similarity(side: int) -> None:
    x = torch.rand(2, 1, side, side) * 2 - 1
    found = image_scores(x, x)
    torch.testing.assert_close(found["ssim"], torch.ones(2, dtype=torch.float64))
    assert (found["mse"] == 0).all()
    with pytest.raises(ValueError, match="one shape"):
        image_scores(x, x[:1])


def test_metrics_add_up_over_batches() -> None:
    x, guess = torch.rand(6, 1, 4, 4), torch.rand(1, 4, 4)
    y = x + 0.1
    gain, agreement = AuditGain(guess), LabelAgreement()
    for rows in (slice(0, 2), slice(2, 6)):
        gain.update(y[rows], x[rows])
        agreement.update(torch.arange(6)[rows], torch.tensor([0, 1, 2, 0, 0, 0])[rows])
    expected = 1 - ((y - x) ** 2).sum() / ((guess - x) ** 2).sum()
    assert float(gain.compute()) == pytest.approx(float(expected), rel=1e-5)
    assert float(agreement.compute()) == 0.5
    for metric in (gain, agreement):
        with pytest.raises(ValueError, match=r"differ|classes"):
            metric.update(x, x[:2])
