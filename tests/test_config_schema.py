"""The JSON schema for editors: every config of ours is valid, and a wrong key is not."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import CONFIGS, CommandLine

from lightning_priv.config_schema import make_schema

FILES = sorted(CONFIGS.rglob("*.yaml"))
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
Schema = dict[str, Any]


@pytest.fixture(scope="module")
def schema() -> Schema:
    return make_schema()


def is_of(value: Any, kind: str) -> bool:
    if kind in ("number", "integer"):
        numbers = int if kind == "integer" else (int, float)
        return isinstance(value, numbers) and not isinstance(value, bool)
    return isinstance(value, TYPES[kind])


def complaints(value: Any, rule: Schema, root: Schema, place: str = "") -> list[str]:
    """A small validator of what the schema uses of draft 7."""
    if "$ref" in rule:
        return complaints(value, root["definitions"][rule["$ref"].split("/", 2)[2]], root, place)
    found: list[str] = []
    if "enum" in rule and value not in rule["enum"]:
        found.append(f"{place}: {value!r} is none of {rule['enum'][:5]}")
    if "const" in rule and value != rule["const"]:
        found.append(f"{place}: {value!r}")
    kinds = rule.get("type", [])
    if kinds and not any(is_of(value, k) for k in ([kinds] if isinstance(kinds, str) else kinds)):
        return [f"{place}: {value!r} is no {kinds}"]
    if "anyOf" in rule:
        tries = [complaints(value, one, root, place) for one in rule["anyOf"]]
        found += min(tries, key=len) if all(tries) else []
    for one in rule.get("allOf", []):
        if not complaints(value, one["if"], root):
            found += complaints(value, one["then"], root, place)
    if isinstance(value, dict):
        properties, more = rule.get("properties", {}), rule.get("additionalProperties", True)
        found += [f"{place} lacks {name}" for name in rule.get("required", []) if name not in value]
        for key, inner in value.items():
            if key in properties:
                found += complaints(inner, properties[key], root, f"{place}.{key}")
            elif more is False:
                found.append(f"{place}.{key} is unknown")
            elif isinstance(more, dict):
                found += complaints(inner, more, root, f"{place}.{key}")
    if isinstance(value, list):
        for number, inner in enumerate(value):
            found += complaints(inner, rule.get("items", {}), root, f"{place}.{number}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(CONFIGS).as_posix())
def test_every_config_is_valid(path: Path, schema: Schema) -> None:
    assert complaints(yaml.safe_load(path.read_text()), schema, schema) == []


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("max_epochs: 30", "max_epoch: 30", "trainer.max_epoch"),
        ("width: 16", "widht: 16", "widht"),
        ("target_epsilon: 3.0", "target_epsilon: [3]", "target_epsilon"),
        ("batch_size: 256", "batch_size: many", "batch_size"),
        ("save_last: true", "save_lst: true", "save_lst"),
        ("lr: 0.2", "learning_rate: 0.2", "learning_rate"),
        ("seed_everything: 0", "seed: 0\nepochz: 3", "epochz"),
    ],
)
def test_a_wrong_key_or_value_is_found(old: str, new: str, place: str, schema: Schema) -> None:
    text = (CONFIGS / "demo/dpsgd_digits.yaml").read_text()
    assert text.count(old) == 1
    found = complaints(yaml.safe_load(text.replace(old, new)), schema, schema)
    assert any(place in line for line in found), found


def test_keys_are_explained_and_classes_offered(schema: Schema) -> None:
    definitions = schema["definitions"]
    strategy = definitions["arguments_of_lightning_priv.strategies.DPSGDStrategy"]["properties"]
    assert "standard deviation of the noise" in strategy["noise_multiplier"]["description"]
    assert {"enum": ["auto", "bk", "hooks", "ghost", "functorch"]}.items() <= strategy[
        "engine"
    ].items()
    callbacks = json.dumps(definitions["lightning.pytorch.callbacks.callback.Callback"])
    for name in ("lightning_priv.callbacks.LSIProbe", "lightning.pytorch.callbacks.EarlyStopping"):
        assert name in callbacks
    assert "torch.optim.AdamW" in json.dumps(definitions["torch.optim.optimizer.Optimizer"])


def test_command(command_line: CommandLine, schema: Schema) -> None:
    shown = command_line.ok("schema", "--out", "schema.json")
    assert json.loads(shown) == json.loads(Path("schema.json").read_text()) == schema
