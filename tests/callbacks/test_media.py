from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure
from PIL import Image

from lightning_priv.callbacks import log_media, run_directory
from lightning_priv.callbacks.media import shows_media
from lightning_priv.reports import Table


def trainer(logger: object = False, **options: object) -> Trainer:
    settings = {"accelerator": "cpu", "default_root_dir": "root", "enable_checkpointing": False}
    return Trainer(logger=logger, **{**settings, **options})  # type: ignore[arg-type]


def test_run_directory_is_the_one_of_the_checkpoints() -> None:
    assert run_directory(trainer()) == Path("root")
    assert run_directory(trainer(CSVLogger("logs"))) == Path("logs/lightning_logs/version_0")
    assert run_directory(trainer(CSVLogger("logs", name=None))) == Path("logs/version_0")
    logger = WandbLogger(save_dir="logs", project="p", version="abc")
    assert run_directory(trainer(logger)) == Path("logs/p/abc")


@pytest.mark.parametrize("shape", [(2, 3), (1, 2, 3), (3, 2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8])
def test_image_reads_back(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    values = torch.linspace(0, 255, 18).round()[: int(np.prod(shape))].reshape(shape)
    image = values.to(dtype) if dtype == torch.uint8 else (values / 255).to(dtype)
    path = log_media(trainer(), "test/image", image)
    assert path == Path("root/media/test/image.png")
    pixels = np.asarray(Image.open(path)).astype(float)
    expected = values.numpy() if len(shape) == 2 else np.moveaxis(values.numpy(), 0, -1).squeeze()
    np.testing.assert_allclose(pixels, expected, atol=1 if dtype == torch.bfloat16 else 0)


def test_table_figure_and_steps() -> None:
    table = Table(["a"], [[1.5]])
    assert log_media(trainer(), "t", table) == Path("root/media/t.csv")
    assert Path("root/media/t.csv").read_text() == "a\n1.5\n"
    figure = Figure()
    figure.subplots().plot([1, 2])
    path = log_media(trainer(), "f", figure, step=7)
    assert path == Path("root/media/f-00000007.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_rank_zero_only(monkeypatch: pytest.MonkeyPatch) -> None:
    other = trainer()
    monkeypatch.setattr(type(other), "is_global_zero", property(lambda self: False))
    assert log_media(other, "t", Table(["a"], [])) is None
    assert not Path("root").exists()


def test_fast_dev_run_writes_nothing() -> None:
    assert log_media(trainer(fast_dev_run=True), "t", Table(["a"], [])) is None
    assert not Path("root").exists()


@pytest.mark.parametrize("key", ["../x", "/x", "a//b", "", "a b"])
def test_key_stays_in_the_folder(key: str) -> None:
    with pytest.raises(ValueError, match="use letters, digits"):
        log_media(trainer(), key, Table(["a"], []))


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (torch.zeros(2, 4, 4), r"shape \(2, 4, 4\)"),
        (torch.zeros(4), r"shape \(4,\)"),
        (torch.full((4, 4), 1.5), "floats in"),
        (torch.full((4, 4), torch.nan), "floats in"),
        (torch.zeros(4, 4, dtype=torch.int64), "uint8"),
    ],
)
def test_wrong_images(image: torch.Tensor, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        log_media(trainer(), "x", image)


def test_wrong_type() -> None:
    with pytest.raises(TypeError, match="media is a list"):
        log_media(trainer(), "x", [1, 2])  # type: ignore[arg-type]


class Recorder(WandbLogger):
    """Notes what it is asked to send."""

    def __init__(self) -> None:
        super().__init__(save_dir="logs", project="p", version="abc", offline=True)
        self.sent: list[object] = []

    def log_table(self, key: str, **options: object) -> None:  # type: ignore[override]
        self.sent.append((key, options))

    def log_image(self, key: str, **options: object) -> None:  # type: ignore[override]
        self.sent.append((key, options))


def test_wandb_gets_the_same() -> None:
    logger = Recorder()
    run = trainer(logger)
    log_media(run, "t", Table(["a", "b"], [(1, "x")]), step=3)
    path = log_media(run, "i", torch.zeros(2, 2))
    assert logger.sent == [
        ("t", {"columns": ["a", "b"], "data": [[1, "x"]], "step": 3}),
        ("i", {"images": [str(path)], "step": None}),
    ]


class Writer:
    """What TensorBoard's writer is asked to do."""

    def __init__(self) -> None:
        self.images: dict[str, tuple[np.ndarray, int]] = {}
        self.texts: dict[str, tuple[str, int]] = {}

    def add_image(self, key: str, pixels: np.ndarray, step: int, dataformats: str) -> None:
        assert dataformats == "HWC"
        self.images[key] = (pixels, step)

    def add_text(self, key: str, text: str, step: int) -> None:
        self.texts[key] = (text, step)


class Board(TensorBoardLogger):
    """The logger without the package, which its constructor asks for."""

    def __init__(self) -> None:
        self.writer = Writer()

    save_dir = property(lambda self: "logs")  # type: ignore[assignment]
    version = property(lambda self: 0)  # type: ignore[assignment]
    name = property(lambda self: "board")  # type: ignore[assignment]
    experiment = property(lambda self: self.writer)  # type: ignore[assignment]


def test_tensorboard_gets_the_same() -> None:
    logger = Board()
    run = trainer(logger)
    log_media(run, "test/t", Table(["a", "b"], [(1.5, "x")]), step=3)
    path = log_media(run, "test/i", torch.tensor([[0.0, 1.0]]))
    assert path == Path("logs/board/version_0/media/test/i.png")
    text, step = logger.writer.texts["test/t"]
    assert (text.splitlines()[-1], step) == ("| 1.5 | x |", 3)
    pixels, step = logger.writer.images["test/i"]
    assert (pixels.tolist(), step) == ([[[0] * 3, [255] * 3]], 0)
    assert shows_media(run)
    assert not shows_media(trainer(CSVLogger("logs")))
