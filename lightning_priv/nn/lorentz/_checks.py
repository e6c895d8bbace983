"""Checks shared by the Lorentz layers."""

from torch import Tensor

from lightning_priv.nn.lorentz.manifold import LorentzManifold


def default_manifold(manifold: LorentzManifold | None) -> LorentzManifold:
    """The given manifold, or a new one with k = 1."""
    if manifold is None:
        return LorentzManifold()
    if not isinstance(manifold, LorentzManifold):
        raise TypeError(
            f"manifold must be a lightning_priv.nn.lorentz.LorentzManifold, got "
            f"{type(manifold).__name__}; use LorentzManifold(k=...) in its place"
        )
    return manifold


def check_channels(s: Tensor, channels: int, dims: tuple[int, ...], layer: str, axis: int) -> None:
    """Raise ``ValueError`` unless ``s`` has one of the numbers of dimensions and the channels."""
    if s.dim() not in dims:
        wanted = " or ".join(str(d) for d in dims)
        raise ValueError(
            f"{layer} expects a tensor of {wanted} dimensions, got shape {tuple(s.shape)}"
        )
    if s.shape[axis] != channels:
        hint = (
            "; it has one more: these layers take space components without the time entry, "
            "see from_point"
            if s.shape[axis] == channels + 1
            else ""
        )
        raise ValueError(
            f"{layer} was built for {channels} channels, got {s.shape[axis]} "
            f"in shape {tuple(s.shape)}{hint}"
        )
