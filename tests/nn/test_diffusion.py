"""Diffusers networks as priors: what fits is read as its files say, what does not is refused."""

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.audit import predict_clean
from lightning_priv.nn.diffusion import DiffusionNetwork, schedule_of


def unet(**options: Any) -> diffusers.UNet2DModel:
    torch.manual_seed(0)
    settings = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "layers_per_block": 1,
        "block_out_channels": (8, 8),
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
        "add_attention": False,
    }
    return diffusers.UNet2DModel(**{**settings, **options})


def small() -> DiffusionNetwork:
    torch.manual_seed(0)
    return DiffusionNetwork.build((1, 8, 8), (8, 8), attention=[False, False], norm_groups=4)


def test_the_default_is_the_prototype() -> None:
    network = DiffusionNetwork.build((1, 8, 8))
    assert sum(p.numel() for p in network.parameters()) == 395_641
    assert network.image_shape == (1, 8, 8)
    assert len(network.schedule) == 1000
    assert (network.schedule.prediction, network.schedule.clip) == ("epsilon", 1.0)


def test_a_directory_comes_back_and_diffusers_loads_it(tmp_path: Path) -> None:
    network = small().eval()
    network.save_pretrained(tmp_path / "prior")
    again = DiffusionNetwork.from_pretrained(tmp_path / "prior")
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0, 10, 999])
    assert torch.equal(network(x, t), again.eval()(x, t))
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "prior")
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(batch_size=2, num_inference_steps=2, output_type="np").images
    assert images.shape == (2, 8, 8, 1)
    # a flat directory, as older model pages have it
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in [*(tmp_path / "prior/unet").iterdir(), *(tmp_path / "prior/scheduler").iterdir()]:
        (flat / file.name).write_bytes(file.read_bytes())
    assert torch.equal(network(x, t), DiffusionNetwork.from_pretrained(flat).eval()(x, t))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_predictions_are_read_from_the_files(tmp_path: Path, prediction: str) -> None:
    scheduler = diffusers.DDIMScheduler(
        500,
        beta_schedule="squaredcos_cap_v2",
        prediction_type=prediction,
        clip_sample=True,
        clip_sample_range=2.0,
    )
    diffusers.DDPMPipeline(unet(), scheduler).save_pretrained(tmp_path)
    schedule = DiffusionNetwork.from_pretrained(tmp_path).schedule
    assert (len(schedule), schedule.prediction, schedule.clip) == (500, prediction, 2.0)
    torch.testing.assert_close(
        schedule.alphas_cumprod, scheduler.alphas_cumprod.double(), rtol=1e-6, atol=0
    )


def test_clamping_and_thresholding_are_read_never_assumed() -> None:
    assert schedule_of(diffusers.DDPMScheduler(clip_sample=False)).clip is None
    assert schedule_of(diffusers.PNDMScheduler()).clip is None
    dynamic = schedule_of(
        diffusers.DDPMScheduler(
            thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=3.0
        )
    )
    assert (dynamic.threshold, dynamic.threshold_max) == (0.9, 3.0)
    zero = diffusers.DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    assert len(schedule_of(zero)) in (999, 1000)  # a last step without any signal is left out
    assert torch.isfinite(schedule_of(zero).noise_std).all()


def test_learned_variance_is_cut_off() -> None:
    network = DiffusionNetwork(unet(out_channels=2), diffusers.DDPMScheduler()).eval()
    z, t = torch.randn(2, 1, 8, 8), torch.tensor([100, 500])
    clean = predict_clean(network.schedule, network, z, t)
    alpha = network.schedule.alphas_cumprod[t].float().view(-1, 1, 1, 1)
    x_t = alpha.sqrt() * z
    epsilon = network.unet(x_t, t).sample[:, :1]
    expected = ((x_t - (1 - alpha).sqrt() * epsilon) / alpha.sqrt()).clamp(-1, 1)
    torch.testing.assert_close(clean, expected, rtol=1e-4, atol=1e-4)


def test_class_conditional_priors_take_the_null_label(tmp_path: Path) -> None:
    net = unet(num_class_embeds=11).eval()
    diffusers.DDPMPipeline(net, diffusers.DDPMScheduler()).save_pretrained(tmp_path)
    network = DiffusionNetwork.from_pretrained(tmp_path, null_label=10).eval()
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([5, 50])
    expected = net(x, t, class_labels=torch.tensor([10, 10])).sample
    torch.testing.assert_close(network(x, t), expected)
    assert not torch.allclose(network(x, t), net(x, t, class_labels=torch.tensor([0, 1])).sample)
    with pytest.raises(ConfigurationError, match=r"null_label, the class .* often 10"):
        DiffusionNetwork.from_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match="11 classes"):
        DiffusionNetwork.from_pretrained(tmp_path, null_label=11)
    with pytest.raises(ConfigurationError, match="leave it out"):
        DiffusionNetwork(unet(), diffusers.DDPMScheduler(), null_label=0)


@pytest.mark.parametrize(
    ("scheduler", "words"),
    [
        ("FlowMatchEulerDiscreteScheduler", "flow matching"),
        ("EDMEulerScheduler", "continuous noise scale"),
        ("NoSuchScheduler", "has no scheduler"),
    ],
)
def test_schedulers_that_do_not_fit_are_refused(tmp_path: Path, scheduler: str, words: str) -> None:
    small().save_pretrained(tmp_path)
    config = tmp_path / "scheduler/scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "_class_name": scheduler}))
    with pytest.raises(ConfigurationError, match=words):
        DiffusionNetwork.from_pretrained(tmp_path)
    if hasattr(diffusers, scheduler):
        with pytest.raises(ConfigurationError, match=words):
            schedule_of(getattr(diffusers, scheduler)())


def test_missing_files_are_named_and_nothing_is_downloaded(
    tmp_path: Path, network_attempts: list[Any]
) -> None:
    with pytest.raises(ConfigurationError, match="nothing is downloaded"):
        DiffusionNetwork.from_pretrained("google/ddpm-cifar10-32")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match=r"there is no .*config\.json"):
        DiffusionNetwork.from_pretrained(tmp_path / "empty")
    small().save_pretrained(tmp_path / "prior")
    config = tmp_path / "prior/unet/config.json"
    text = config.read_text()
    (tmp_path / "prior/unet/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ConfigurationError, match="no weights"):
        DiffusionNetwork.from_pretrained(tmp_path / "prior")
    config.write_text(text.replace("UNet2DModel", "UNet2DConditionModel"))
    with pytest.raises(ConfigurationError, match="no text, no latents"):
        DiffusionNetwork.from_pretrained(tmp_path / "prior")
    assert network_attempts == []


def test_images_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="multiples of 2"):
        DiffusionNetwork.build((1, 25, 25))
    with pytest.raises(ConfigurationError, match="one each"):
        DiffusionNetwork.build((1, 8, 8), attention=[True])
    with pytest.raises(ConfigurationError, match="Linear"):
        DiffusionNetwork(torch.nn.Linear(2, 2), diffusers.DDPMScheduler())
