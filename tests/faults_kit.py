"""What the hard knocks have in common: runs of the command line in processes that can be killed."""

import json
import logging
import multiprocessing
import os
import random
import signal
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml


class Payload:
    """An object that makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = str(file)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (exec, (f"open({self.file!r}, 'w').close()",))


def command(folder: str, words: list[str]) -> None:
    """In a process of its own: the command line with these words, in a folder."""
    import torch

    os.environ["WANDB_MODE"] = "disabled"
    os.chdir(folder)
    torch.set_num_threads(1)
    sys.argv = ["lightning-priv"]
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    out = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    from lightning_priv.cli import main

    main(words)


class Runs:
    """Starts commands from a server that has imported everything, and kills them."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(
            ["faults_kit", "lightning_priv.lightning_cli", "private_kit", "dpal_kit", "active_kit"]
        )

    def start(self, folder: Path, words: list[str]) -> Any:
        process = self.context.Process(target=command, args=(str(folder), words))
        process.start()
        return process

    def warm(self, folder: Path) -> None:
        """Let the server import everything, which would count as time of the first run."""
        self.to_its_end(folder, ["--version"])

    def to_its_end(self, folder: Path, words: list[str]) -> float:
        """Run a command; returns the seconds that it took."""
        begin = time.monotonic()
        process = self.start(folder, words)
        process.join()
        assert process.exitcode == 0, (folder / "output.txt").read_text()[-3000:]
        return time.monotonic() - begin

    def killed(self, folder: Path, words: list[str], seconds: float) -> bool:
        """Run a command and kill it after some seconds; whether it was still alive then."""
        process = self.start(folder, words)
        process.join(seconds)
        alive = process.exitcode is None
        if alive:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        else:
            assert process.exitcode == 0, (folder / "output.txt").read_text()[-3000:]
        return alive


def seeded(seed: int) -> random.Random:
    """Random moments that can be had again: the seed stands in the report of a failure."""
    seed = int(os.environ.get("FAULTS_SEED", seed))
    sys.stdout.write(f"FAULTS_SEED={seed}\n")
    return random.Random(seed)


def half_written(folder: Path) -> Iterator[str]:
    """Files of a run that are there in part only; what ends in .tmp or .part is nobody's file."""
    from PIL import Image

    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix in (".yaml", ".yml"):
                yaml.safe_load(path.read_text(encoding="utf-8"))
            elif path.suffix in (".ckpt", ".pt"):
                with zipfile.ZipFile(path) as archive:
                    assert archive.testzip() is None
            elif path.suffix == ".png":
                with Image.open(path) as picture:
                    picture.load()
            elif path.suffix == ".html":
                assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
            elif path.suffix in (".csv", ".md"):
                assert path.read_bytes().endswith(b"\n")
        except (ValueError, OSError, AssertionError, zipfile.BadZipFile, yaml.YAMLError) as error:
            yield f"{path.relative_to(folder)}: {error!r}"


def write(path: Path, content: Any) -> str:
    """Write a configuration."""
    path.write_text(yaml.safe_dump(content))
    return str(path)
