"""Files that are there as a whole or not at all, and that run no code when they are read."""

import csv
import errno
import io
import json
import os
import pickle
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_priv.errors import ConfigurationError, DiskFullError

__all__ = [
    "ARRAY_ERRORS",
    "FULL",
    "FULL_REMEDY",
    "explain_full_disk",
    "newest",
    "read_checkpoint",
    "read_csv",
    "read_json",
    "read_tensors",
    "save_figure",
    "save_tensors",
    "write_atomically",
    "written_whole",
]

#: What ``numpy.load`` raises for a file that is damaged.
ARRAY_ERRORS = (
    *(OSError, EOFError, KeyError, NotImplementedError, OverflowError, TypeError, ValueError),
    *(SyntaxError, zipfile.BadZipFile, zlib.error),
)
_IS_FOLDER = 0x10  # in the attributes of a file in a zip archive
#: Numbers of the system's errors when there is no room.
FULL = {
    errno.ENOSPC: "no space is left",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file would pass the limit of the process",
}
FULL_REMEDY = (
    "make room and start again, with --ckpt_path last if the run has written a checkpoint, or "
    "write elsewhere (trainer.default_root_dir)"
)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a place to write to; what was written there is then moved to ``path``.

    A crash at any moment leaves the old file or the new one, never a part: the new one lies beside
    it, goes onto the disk (fsync) and then into its place (rename).

    Args:
        path: the file; its folder is made if missing.

    Yields:
        A path in the same folder. It ends in ``.tmp``, so that no search for the files of a run
        finds what a crash leaves; name the format of figures and the like.

    Raises:
        DiskFullError: if there is no room; an older file is untouched.
    """
    with explain_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            yield beside
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder onto the disk, too."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a text (as UTF-8) or bytes, whole or not at all; see :func:`written_whole`.

    Args:
        path: the file; its folder is made if missing.
        content: what it shall hold.
    """
    with written_whole(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


def save_figure(figure: Any, path: Path, **options: Any) -> None:
    """Write a figure of matplotlib, whole or not at all.

    Args:
        figure: the figure.
        path: the file, whose ending says the format.
        **options: of ``Figure.savefig``.
    """
    with written_whole(path) as beside:
        figure.savefig(beside, format=path.suffix.removeprefix(".") or "png", **options)


@contextmanager
def explain_full_disk(path: Path) -> Iterator[None]:
    """Say what to do if there is no room for a file.

    Raises:
        DiskFullError: in place of the system's error.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DiskFullError(
            f"{path} could not be written: {FULL[error.errno]}; what was there before is as it "
            f"was; {FULL_REMEDY}"
        ) from error


def newest(paths: Iterable[Path]) -> Path:
    """The file that was written last, by the clock of the disk.

    A clock that was set back makes a later file look older; a warning says so where it can be seen,
    because a time of a file lies in the future.

    Args:
        paths: at least one file.
    """
    times = {path: path.stat().st_mtime for path in paths}
    found = max(times, key=lambda path: times[path])
    if times[found] > time.time() + 60:
        warnings.warn(
            f"{found} is dated in the future, so the clock was set back; it may not be the newest "
            "of its kind: name the file that you mean",
            stacklevel=2,
        )
    return found


def read_json(path: Path, remedy: str = "or remove it to begin anew") -> Any:
    """What a JSON file holds.

    Args:
        path: the file.
        remedy: what else can be done than to put a copy in its place.

    Raises:
        ConfigurationError: if it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path} cannot be read ({error}); it was changed by hand or the disk is broken: put a "
            f"copy in its place, {remedy}"
        ) from error


def read_csv(path: Path, remedy: str = "make it again") -> list[dict[str, str]]:
    """The rows of a CSV file that this package wrote, each cell by its column.

    Args:
        path: the file.
        remedy: what can be done if it is damaged.

    Raises:
        ConfigurationError: if it is no text, or its end or cells of a row are missing: a number
            that is cut off is another number.
    """
    try:
        text = path.read_text(encoding="utf-8")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"{path} is damaged ({error}); {remedy}") from error
    torn = any(None in row or None in row.values() for row in rows)
    if torn or not text.endswith("\n"):
        raise ConfigurationError(f"{path} is damaged (a part of it is missing); {remedy}")
    return rows


def save_tensors(content: Any, path: Path) -> None:
    """``torch.save``, whole or not at all.

    Args:
        content: plain types and tensors.
        path: the file.
    """
    import torch

    buffer = io.BytesIO()  # a full disk in mid-write would be a RuntimeError without a reason
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def read_tensors(
    path: str | Path,
    remedy: str = "put a copy in its place, or make it again",
    weights_only: bool = True,
    trust: str = "save its tensors alone anew",
    load: Callable[[], Any] | None = None,
) -> Any:
    """What a file of ``torch.save`` holds, on the CPU; nothing in the file is executed.

    Args:
        path: the file.
        remedy: what can be done if it cannot be read.
        weights_only: False executes what the file says, for a user who trusts it.
        trust: what a user who trusts it can do.
        load: reads the file in another way, with the same errors.

    Raises:
        ConfigurationError: if it is missing or damaged, or holds objects of classes.
    """
    import torch

    try:
        _check_sums(Path(path))
        if load is not None:
            return load()
        return torch.load(path, map_location="cpu", weights_only=weights_only)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{path}: there is no such file; check the path, or {remedy}"
        ) from error
    except pickle.UnpicklingError as error:
        if "Weights only load failed" in str(error) and zipfile.is_zipfile(path):
            raise ConfigurationError(
                f"{path} holds objects beside tensors and plain values{_named(error)}, and reading "
                f"them would execute code; if you trust the file, {trust}"
            ) from error
        raise ConfigurationError(f"{path} is damaged or no file of tensors; {remedy}") from error
    except Exception as error:  # damaged bytes can end in any error
        reason = (str(error).splitlines() or [""])[0].split(". ")[0][:150]
        raise ConfigurationError(
            f"{path} is damaged or no file of tensors ({type(error).__name__}: {reason}); {remedy}"
        ) from error


def _check_sums(path: Path) -> None:
    """Compare the checksums that torch writes and does not look at when it reads."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
            # torch takes what is marked as a folder for numbers, and leaves them as they come
            folders = [i.filename for i in archive.infolist() if i.external_attr & _IS_FOLDER]
            wrong = wrong or next(iter(folders), None)
        if wrong is not None:
            raise ValueError(f"the checksum of {wrong} is wrong")


def _named(error: BaseException) -> str:
    """Which class or function the file asks for."""
    words = str(error).split("GLOBAL ", 1)
    return f" ({words[1].split()[0]})" if len(words) > 1 else ""


def read_checkpoint(path: str | Path, **options: Any) -> Mapping[str, Any]:
    """What a checkpoint of Lightning holds; see :func:`read_tensors`.

    Raises:
        ConfigurationError: if it cannot be read, or has no ``state_dict``.
    """
    content = read_tensors(path, **options)
    if not isinstance(content, Mapping) or "state_dict" not in content:
        raise ConfigurationError(
            f"{path} is no Lightning checkpoint: it has no state_dict; name a file that "
            "trainer.save_checkpoint or ModelCheckpoint wrote"
        )
    return content
