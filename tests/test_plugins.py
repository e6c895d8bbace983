import pytest
from lightning.pytorch import Callback, Trainer

from lightning_priv.callbacks import Dashboard, LinearBaseline
from lightning_priv.plugins import callbacks

VARIABLE = "LIGHTNING_PRIV_CALLBACKS"


@pytest.mark.parametrize("value", [None, "", " , "])
def test_nothing_unless_asked(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    assert callbacks() == []


def test_named_callbacks_reach_every_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the entry point of the installed package."""
    monkeypatch.setenv(VARIABLE, "Dashboard, LinearBaseline")
    trainer = Trainer(accelerator="cpu", logger=False)
    found: list[type[Callback]] = [type(c) for c in trainer.callbacks]  # type: ignore[attr-defined]
    assert Dashboard in found
    assert LinearBaseline in found


@pytest.mark.parametrize("name", ["Dashbord", "Target", "log_media"])
def test_other_names_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, name)
    with pytest.raises(ValueError, match=f"names '{name}', which is no callback.*Dashboard"):
        callbacks()
