"""One run at a time in a folder."""

import os
import socket
from pathlib import Path
from types import TracebackType

from lightning_priv.errors import ConfigurationError
from lightning_priv.files import explain_full_disk

__all__ = ["RunLock"]


class RunLock:
    """Keeps other processes from working in a folder; a process that dies gives it back at once.

    The lock is the system's (``fcntl.lockf``) and hangs on an own small file, which stays. The
    processes that one run starts are not kept out, and neither is a second use in this process.
    Where the system has no such locks, nothing is kept out.

    Args:
        file: the file, for example ``.run.lock`` in the folder; made if missing.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._opened: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            ConfigurationError: if another process has it.
        """
        if self._opened is not None or os.name != "posix":
            return
        import fcntl

        with explain_full_disk(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            opened = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(opened, 200).decode(errors="replace").strip() or "another process"
            os.close(opened)
            raise ConfigurationError(
                f"another run works in {self.file.parent} ({holder}), and two would mix up their "
                "files; wait until it is done, or give another trainer.default_root_dir"
            ) from error
        self._opened = opened
        with explain_full_disk(self.file):
            os.ftruncate(opened, 0)
            os.write(opened, f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def release(self) -> None:
        """Give it back."""
        if self._opened is not None:
            os.close(self._opened)
            self._opened = None

    def __enter__(self) -> "RunLock":
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def __getstate__(self) -> dict[str, object]:
        return {"file": self.file, "_opened": None}
