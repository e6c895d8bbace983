"""Files of a stranger: whatever reads them, nothing in them is executed, and the error names them.

Each file holds an object that would make a file when it is unpickled.
"""

import ast
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from active_kit import go, pool
from command_line import CommandLine, digits
from faults_kit import Payload
from lightning.pytorch import Trainer
from torch import nn

from lightning_priv.callbacks import PretrainedWeights
from lightning_priv.data import FrozenTextEncoder
from lightning_priv.data.feature_files import read_features
from lightning_priv.errors import PrivacyError
from lightning_priv.models import DiffusionPrior, EnsembleModule, InceptionFeatures
from lightning_priv.models.stacked.files import load_members
from lightning_priv.models.torchvision_model import TorchvisionModel
from lightning_priv.nn.member_files import read_member_files
from lightning_priv.reports.information.corruption import numbers_by_id
from lightning_priv.reports.information.parts import find_parts, write_part
from lightning_priv.strategies import DPSGDStrategy
from lightning_priv.strategies.checkpoint_files import CheckpointFiles
from lightning_priv.workflows.private_active_learning import newest_checkpoint

PACKAGE = Path(__file__).parents[2] / "lightning_priv"
OWNED = "owned"


@pytest.fixture(autouse=True)
def _nothing_was_executed() -> Any:
    yield
    assert not Path(OWNED).exists(), "a file of a stranger was executed"


def torch_file(path: Path | str, legacy: bool = False) -> Path:
    """A checkpoint with everything that a reader may look for, and the payload."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "state_dict": {"a": torch.zeros(1)},
        "members": {},
        "ensemble": [],
        "x": Payload(Path(OWNED).absolute()),
    }
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def numpy_file(path: str) -> Path:
    array = np.array([Payload(Path(OWNED).absolute())], dtype=object)
    if path.endswith("z"):
        np.savez(path, features=array, labels=array)
    else:
        np.save(path, array, allow_pickle=True)
    return Path(path)


def test_the_payload_works() -> None:
    torch.load(torch_file("evil.ckpt"), weights_only=False)
    assert Path(OWNED).exists()
    Path(OWNED).unlink()
    np.load(numpy_file("evil.npy"), allow_pickle=True)
    assert Path(OWNED).exists()
    Path(OWNED).unlink()


READERS: dict[str, Callable[[Path], object]] = {
    "member files": lambda path: read_member_files([path]),
    "stacked members": load_members,
    "ensemble": lambda path: EnsembleModule.load(path, nn.Linear(2, 2)),
    "pretrained": lambda path: PretrainedWeights(str(path))._read(),
    "inception": lambda path: InceptionFeatures(str(path))(torch.rand(1, 3, 8, 8)),
    "torchvision": lambda path: TorchvisionModel("resnet18", str(path)).configure_model(),
    "Lightning": lambda path: CheckpointFiles().load_checkpoint(path),
    "strategy": lambda path: DPSGDStrategy(noise_multiplier=1.0).checkpoint_io.load_checkpoint(
        path
    ),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
def test_checkpoints(reader: Callable[[Path], object], legacy: bool) -> None:
    path = torch_file("evil.ckpt", legacy)
    with pytest.raises(PrivacyError, match=r"evil\.ckpt"):
        reader(path)


@pytest.mark.parametrize(
    "words",
    [
        ("fit",),
        ("validate",),
        ("test",),
        ("predict",),
        ("lsi",),
        ("multiplicity", "--members", "evil.ckpt"),
    ],
)
def test_command_line(words: tuple[str, ...], command_line: CommandLine) -> None:
    torch_file("evil.ckpt")
    config = digits(
        strategy={
            "class_path": "lightning_priv.strategies.DPSGDStrategy",
            "init_args": {"noise_multiplier": 1.0},
        }
    )
    more = words[1:] or ("--ckpt_path", "evil.ckpt")
    outcome = command_line.run(words[0], "--config", config, *more)
    assert outcome.code == 1
    *_, last = outcome.err.splitlines()
    assert last.startswith("error: ")
    assert "evil.ckpt" in last
    assert "execute code" in last
    assert "Traceback" not in outcome.err


def test_a_plain_lightning_fit(command_line: CommandLine) -> None:
    outcome = command_line.run("fit", "--config", digits(), "--ckpt_path", torch_file("evil.ckpt"))
    assert outcome.code == 1
    assert "evil.ckpt" in outcome.err.splitlines()[-1]


def test_rounds_of_active_learning() -> None:
    go("runs", rounds=2, epochs=1)
    [path] = Path("runs/active").glob("round_*.ckpt")
    torch_file(path)
    with pytest.raises(PrivacyError, match=path.name):
        go("runs", rounds=3, epochs=1)


def test_private_active_learning_takes_the_newest() -> None:
    torch_file("runs/version_0/evil.ckpt")
    found = newest_checkpoint(Path("runs"))
    assert found is not None
    with pytest.raises(PrivacyError, match=r"evil\.ckpt"):
        CheckpointFiles().load_checkpoint(found)


def test_a_prior_with_pickled_weights() -> None:
    prior = DiffusionPrior(block_channels=(8, 8), norm_groups=4, save_dir=None)
    prior.save_pretrained("prior")
    weights = Path("prior/unet/diffusion_pytorch_model.safetensors")
    if not weights.exists():
        weights = Path("prior/diffusion_pytorch_model.safetensors")
    for legacy in (False, True):
        weights.unlink(missing_ok=True)
        torch_file(weights.with_suffix(".bin"), legacy)
        with pytest.raises(PrivacyError, match="prior"):
            DiffusionPrior.from_pretrained("prior")


def test_vectors_of_a_text_encoder() -> None:
    pytest.importorskip("transformers", reason="the extra text")
    Path("encoder").mkdir()
    Path("encoder/config.json").write_text('{"hidden_size": 4}')
    encoder = FrozenTextEncoder("encoder", cache="cache")
    encoder.fit(["a"])
    kept = encoder._kept(["a"])
    assert kept is not None
    torch_file(kept)
    with pytest.raises(PrivacyError, match=kept.name):
        encoder.encode(["a"])


def test_weights_of_a_text_encoder() -> None:
    transformers = pytest.importorskip("transformers", reason="the extra text")
    config = transformers.BertConfig(
        vocab_size=8, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4
    )
    transformers.BertModel(config).save_pretrained("encoder")
    Path("encoder/vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"]))
    transformers.BertTokenizer("encoder/vocab.txt").save_pretrained("encoder")
    for weights in Path("encoder").glob("*.safetensors"):
        weights.unlink()
    torch_file("encoder/pytorch_model.bin")
    encoder = FrozenTextEncoder("encoder")
    encoder.fit(["a"])
    with pytest.raises(PrivacyError, match="encoder"):
        encoder.encode(["a"])


@pytest.mark.parametrize("name", ["evil.npy", "evil.npz"])
def test_arrays(name: str) -> None:
    path = numpy_file(name)
    ids = torch.arange(1)
    for read in (
        lambda: read_features(path),
        lambda: numbers_by_id(path, ids, "labels"),
    ):
        with pytest.raises((PrivacyError, ValueError), match=r"evil\.np"):
            read()


def test_rates_of_records() -> None:
    strategy = DPSGDStrategy(noise_multiplier=1.0, rates=str(numpy_file("evil.npy")))
    with pytest.raises(PrivacyError, match=r"evil\.npy"):
        strategy.settings.record_rates()


def test_kept_features() -> None:
    batch = (torch.arange(3), torch.rand(3, 2), torch.arange(3))
    write_part(Path("kept"), [batch], 0, 1)
    numpy_file("evil.npy")
    shutil.copy("evil.npy", "kept/0-of-1.ids.npy")
    with pytest.raises(PrivacyError, match=r"0-of-1.*remove the folder"):
        find_parts(Path("kept"))


def test_a_configuration_is_plain_yaml(command_line: CommandLine) -> None:
    path = digits()
    path.write_text(path.read_text() + f"\nrounds: !!python/object/apply:os.mkdir [{OWNED}]\n")
    for words in (("fit", "--config", path), ("budget", "--config", path)):
        outcome = command_line.run(*words)
        assert outcome.code == 2
        assert "Traceback" not in outcome.err


def test_books_of_a_pool() -> None:
    made = pool()
    made.setup("fit")
    made.keep(Path("pool.json"))
    torch_file("pool.json")
    again = pool()
    again.setup("fit")
    with pytest.raises(PrivacyError, match=r"pool\.json"):
        again.keep(Path("pool.json"), resume=True)


#: calls that execute what a file says, and what makes them harmless
CALLS = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "pickle.load": None,
    "pickle.loads": None,
    "joblib.load": None,
    "dill.load": None,
    "yaml.load": None,
    "yaml.unsafe_load": None,
    "yaml.full_load": None,
    "marshal.loads": None,
    "eval": None,
    "exec": None,
    "os.system": None,
    "shelve.open": None,
    "runpy.run_path": None,
}
#: where a user can say that she trusts a file
ON_REQUEST = {"files.py"}


def test_no_other_way_to_read_a_file() -> None:
    found, seen = [], 0
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or ast.unparse(node.func) not in CALLS:
                continue
            seen += 1
            wanted = CALLS[ast.unparse(node.func)]
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            safe = wanted is not None and given.get(wanted[0]) == str(wanted[1])
            if not safe and path.relative_to(PACKAGE).as_posix() not in ON_REQUEST:
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {ast.unparse(node)}")
    assert seen > 5
    assert found == []


def test_a_user_can_trust_a_file() -> None:
    torch.save({"state_dict": {}, "x": Payload(Path(OWNED).absolute())}, "trusted.ckpt")
    path = Path("trusted.ckpt")
    assert read_member_files([path], weights_only=False)[0].path == path
    Path(OWNED).unlink()


def test_the_trainer_alone_reads_safely() -> None:
    """Lightning's own way, without our command line: torch's default is the safe one."""
    from private_kit import small_data, small_module

    loader = torch.utils.data.DataLoader(small_data(), batch_size=16)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        trainer.fit(small_module(), loader, ckpt_path=str(torch_file("evil.ckpt")))
