"""Vision transformer that every per-sample gradient engine can treat layer by layer."""

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ViT"]


class _AddPositions(nn.Module):
    """x + table; a layer of its own, so that engines see its parameter apart from the others."""

    def __init__(self, tokens: int, dim: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(tokens, dim))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens, shape (B, T, D), to tokens."""
        return x + self.table


class _Attention(nn.Module):
    """Multi-head self-attention of two plain linear layers."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens, shape (B, T, D), to tokens."""
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, dim))


class _Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = _Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, hidden)
        self.narrow = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens, shape (B, T, D), to tokens."""
        x = x + self.attention(self.norm1(x))
        return x + self.narrow(functional.gelu(self.widen(self.norm2(x))))


class ViT(nn.Module):
    """Vision transformer (Dosovitskiy et al. 2021) with the mean of the tokens as features.

    The defaults are ViT-tiny for 32x32 images: 12 blocks of 192 channels and 3 heads. There is no
    batch norm, no dropout and no class token; samples never mix.

    Args:
        num_classes: number of classes.
        image_size: height and width of the images.
        patch_size: height and width of a patch; it divides ``image_size``.
        in_channels: channels of the image.
        dim: channels of a token.
        depth: number of blocks.
        heads: attention heads; they divide ``dim``.
        mlp_ratio: hidden channels of a block's MLP over ``dim``.

    Shape:
        Input (B, in_channels, image_size, image_size), output (B, num_classes): logits.

    Raises:
        ValueError: if sizes do not divide, or a number is below 1; on images of another size.

    Example:
        >>> ViT(4, image_size=8, patch_size=4, dim=12, depth=1)(torch.randn(2, 3, 8, 8)).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int = 32,
        patch_size: int = 4,
        in_channels: int = 3,
        dim: int = 192,
        depth: int = 12,
        heads: int = 3,
        mlp_ratio: int = 4,
    ) -> None:
        super().__init__()
        if min(num_classes, patch_size, in_channels, dim, depth, heads, mlp_ratio) < 1:
            raise ValueError("every argument must be at least 1")
        if image_size % patch_size or image_size < 1:
            raise ValueError(f"patch_size={patch_size} must divide image_size={image_size}")
        if dim % heads:
            raise ValueError(f"heads={heads} must divide dim={dim}")
        self.in_channels, self.image_size = in_channels, image_size
        self.patches = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)
        self.positions = _AddPositions((image_size // patch_size) ** 2, dim)
        self.blocks = nn.Sequential(*(_Block(dim, heads, mlp_ratio * dim) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images, shape (B, in_channels, H, W), to logits, shape (B, num_classes)."""
        if x.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(
                f"ViT was built for images of {self.image_size}x{self.image_size} pixels, got "
                f"{tuple(x.shape[-2:])}; set image_size"
            )
        tokens = self.positions(self.patches(x).flatten(2).transpose(1, 2))
        return self.head(self.norm(self.blocks(tokens)).mean(1))
