import hashlib
import pickle
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from lightning_priv.data import CIFAR10, CIFAR100

PER_BATCH = 20  # pictures in each of the fake copy's files


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make any attempt to connect or to resolve a name fail the test."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"a test tried to reach the network: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def _write(path: Path, content: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def _fake(root: Path, base: type[datasets.CIFAR10], names: tuple[str, ...]) -> type:
    """Write a tiny copy below ``root`` in the official format; return torchvision's class for it.

    The class differs from torchvision's only in the checksums, which are those of the fake files:
    so the integrity check runs as it does for the real set.
    """
    rng = np.random.default_rng(0)
    folder = root / base.base_folder
    label_key = "labels" if base is datasets.CIFAR10 else "fine_labels"

    def batch(name: str) -> list[str]:
        labels = [i % len(names) for i in range(PER_BATCH)]
        pixels = rng.integers(0, 256, (PER_BATCH, 3072), dtype=np.uint8)
        return [name, _write(folder / name, {"data": pixels, label_key: labels})]

    train_list = [batch(name) for name, _ in base.train_list]
    test_list = [batch(name) for name, _ in base.test_list]
    md5 = _write(folder / base.meta["filename"], {base.meta["key"]: list(names)})

    class Fake(base):  # type: ignore[misc, valid-type]
        meta = {**base.meta, "md5": md5}  # noqa: RUF012

    Fake.train_list, Fake.test_list = train_list, test_list
    return Fake


@pytest.fixture
def fake_cifar10(tmp_path: Path) -> type[CIFAR10]:
    """Return CIFAR10 over a copy of 100 training and 20 test pictures in ``tmp_path``."""

    class FakeCIFAR10(CIFAR10):
        reader = _fake(tmp_path, datasets.CIFAR10, CIFAR10.class_names)

    return FakeCIFAR10


@pytest.fixture
def fake_cifar100(tmp_path: Path) -> type[CIFAR100]:
    """Return CIFAR100 over a copy of 20 training and 20 test pictures in ``tmp_path``."""

    class FakeCIFAR100(CIFAR100):
        reader = _fake(tmp_path, datasets.CIFAR100, CIFAR100.class_names)

    return FakeCIFAR100


@pytest.fixture
def archive() -> Callable[[type[CIFAR10], Path, Path], None]:
    """Return a function that packs a fake copy as the archive that ``download`` fetches."""

    def pack(module: type[CIFAR10], source: Path, target: Path) -> None:
        target.mkdir()
        file = target / module.reader.filename
        with tarfile.open(file, "w:gz") as tar:
            tar.add(source / module.reader.base_folder, module.reader.base_folder)
        module.reader.tgz_md5 = hashlib.md5(file.read_bytes()).hexdigest()

    return pack
