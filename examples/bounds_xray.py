"""A question from the clinic: what does epsilon = 8 mean for a 224 x 224 X-ray.

    python examples/bounds_xray.py

The cells (# %%) open as a notebook in most editors. No patient data, no network, no GPU: the
bounds need four public numbers and hold for every image of that norm.
"""

# %% The record: a grey image, pixels in [0, 1], taken as it enters the network
import math
from pathlib import Path

from lightning_priv.functional.reconstruction import (
    history_mse_quantile,
    noise_for_psnr,
    psnr_quantile,
    reconstruction_risk,
    rero_gaussian,
    risk_corridor,
    subsampled_gaussian_noise,
)
from lightning_priv.reports import Table, corridor_figure

PIXELS = 224 * 224
NORM = 0.4 * 224  # sqrt(mean of squared pixels) = 0.4: a public assumption, never a private mean
DELTA = 1e-6
GUESS = 10 * math.log10(PIXELS / NORM**2)

# %% One step that sees every image: epsilon = 8 fixes the noise
noise = subsampled_gaussian_noise(8.0, DELTA, sample_rate=1.0, steps=1)
likely = psnr_quantile(0.05, PIXELS, noise, NORM, upper=True)
print(f"epsilon = 8 in one step takes noise {noise:.3f} times the clipping norm.")
print(f"An attacker without prior knowledge reaches {likely:.1f} dB, once in 20 attempts.")
print(f"A black image reaches {GUESS:.1f} dB, so nothing of the anatomy is visible.\n")

# %% The same budget in a real training: 20,000 images, batches of 200, 30 epochs
rate, steps = 200 / 20_000, 3000
noise = subsampled_gaussian_noise(8.0, DELTA, rate, steps)
history = [(noise, rate, steps)]
rows = []
for candidates in (2, 10, 1000):
    risk = reconstruction_risk(history, PIXELS, NORM, kappa=1 / candidates, delta=DELTA)
    rows.append([candidates, risk.kappa, risk.identification, risk.identification_by_dp])
error = history_mse_quantile(0.05, PIXELS, NORM, history)
print(f"Training with epsilon = {risk.epsilon:.2f}: noise {noise:.3f}, {steps} steps.")
print(f"From scratch: {-10 * math.log10(error):.1f} dB at best, still below a black image.")
print(
    Table(
        ["images the attacker suspects", "guessing", "certified bound", "epsilon alone promises"],
        rows,
        title="Is this patient's X-ray in the training set?",
    ).render()
)
print("So epsilon = 8 hides what the image looks like from attackers without prior knowledge, but")
print("an insider with a short list learns something. Attackers with an image model lie between.\n")

# %% How little noise would make the image recognisable?
visible = noise_for_psnr(20.0, 0.05, PIXELS, NORM)
print(f"20 dB (recognisable) needs noise below {visible:.4f} in one step; there an attacker with")
print(f"1000 candidates finds the image with probability {rero_gaussian(1 / 1000, visible):.3f}.")

# %% The whole corridor in one figure
corridor = risk_corridor(0.05, 1 / 1000, PIXELS, NORM, around=0.5)
path = Path("bounds_xray.png")
corridor_figure(corridor, delta=DELTA).savefig(path, dpi=110)
print(f"Figure: {path}")
