"""What data modules share whose files lie in a folder and can be downloaded on request."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_priv.errors import DatasetUnavailableError

from .base import ClassificationDataModule

__all__ = ["DownloadableDataModule"]


class DownloadableDataModule(ClassificationDataModule):
    """A set in a folder below ``root``; a subclass writes ``folder`` and ``fetch``.

    Args:
        root: folder that holds, or will hold, the set.
        download: fetch the set into ``root`` if it is not there.
        batch_size: samples in a batch, of each process.
        val_size: training samples to validate on: a number, a fraction, or 0 for none.
        seed: seed of order and augmentation; by default that of ``seed_everything``, else 0.
        split_seed: seed of the validation split.
        indexed: return (x, y, index) instead of (x, y).
        drop_last: leave out a last training batch that is not full.
        num_workers: processes that load batches.
        pin_memory: load into page-locked memory, for a GPU.
    """

    offline = "configs/demo/hcnn_patches.yaml"
    instead = "photographs that are already installed"

    def __init__(
        self,
        root: str = "data",
        download: bool = False,
        batch_size: int = 128,
        val_size: int | float = 0,
        seed: int | None = None,
        split_seed: int = 0,
        indexed: bool = False,
        drop_last: bool = False,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            batch_size, val_size, seed, split_seed, indexed, drop_last, num_workers, pin_memory
        )
        self.root = root
        self.download = download

    def folder(self) -> Path:
        """Return the folder of the set's files."""
        raise NotImplementedError(f"{type(self).__name__} must write folder()")

    def fetch(self) -> None:
        """Download what is missing; raise ``OSError`` or ``RuntimeError`` if that fails."""
        raise NotImplementedError(f"{type(self).__name__} must write fetch()")

    def prepare_data(self) -> None:
        """Download the set if that is asked for and it is not there."""
        if not self.download:
            return
        try:
            self.fetch()
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise DatasetUnavailableError(
                f"{type(self).__name__} could not be downloaded to {self.folder()}: {reason}; put "
                f"the files there by hand, or run {self.offline}, which needs no download"
            ) from error

    def missing(self, what: str) -> DatasetUnavailableError:
        """Return the error for something that is not there.

        Args:
            what: what was looked for and where, as the beginning of the sentence.
        """
        return DatasetUnavailableError(
            f"{what}; download it with --data.init_args.download true, give the folder with "
            f"--data.init_args.root, or run {self.offline}, which does the same on {self.instead}"
        )

    @contextmanager
    def reading(self, *errors: type[Exception]) -> Iterator[None]:
        """Turn the errors of a reader into one that says what to do."""
        try:
            yield
        except errors as error:
            raise self.missing(
                f"{type(self).__name__} in {self.folder()} is incomplete or changed "
                f"({' '.join(str(error).split()) or type(error).__name__}); delete those files"
            ) from error
