"""Lightning on processes that tests/gloo_pool.py has joined."""

from lightning.pytorch.plugins.environments import LightningEnvironment

__all__ = ["InPool"]


class InPool(LightningEnvironment):
    """The processes of the pool, joined already.

    Args:
        rank: of this process.
        size: how many there are.
    """

    def __init__(self, rank: int, size: int = 2) -> None:
        super().__init__()
        self._rank, self._size = rank, size

    @property
    def creates_processes_externally(self) -> bool:
        return True

    def world_size(self) -> int:
        return self._size

    def set_world_size(self, size: int) -> None: ...

    def global_rank(self) -> int:
        return self._rank

    def set_global_rank(self, rank: int) -> None: ...

    def local_rank(self) -> int:
        return self._rank
