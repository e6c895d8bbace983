"""Sums of S (x) x x^T over samples, and the quadratic forms x^T A x that go with them.

Both are symmetric twice: in the two outputs and in the two features. With few features all
products x_f x_g (f <= g) are formed, and one matrix product does all output pairs; otherwise one
product is made for each output.
"""

import torch
from torch import Tensor

PAIR_FEATURES = 160  # up to this many features the products are formed
PAIR_BYTES = 2**26  # size of a group of rows with their products


def feature_pairs(x: Tensor) -> Tensor:
    """Products x_f x_g for f <= g, (d (d + 1) / 2, m)."""
    columns, d = x.mT.contiguous(), x.shape[1]
    products = x.new_empty(d * (d + 1) // 2, len(x))
    start = 0
    for f in range(d):
        torch.mul(columns[f], columns[f:], out=products[start : start + d - f])
        start += d - f
    return products


def row_groups(x: Tensor, width: int) -> range:
    """Starts of groups of rows that stay small with ``width`` numbers a row."""
    step = max(1, PAIR_BYTES // (width * x.element_size()))
    return range(0, len(x), step)


class HessianSum:
    """H = sum_j w_j S_j (x) x_j x_j^T, block by block; index order output * d1 + feature.

    Args:
        blocks: independent blocks of outputs.
        width: outputs of a block.
        features: d1.
        like: gives dtype and device.
    """

    def __init__(self, blocks: int, width: int, features: int, like: Tensor) -> None:
        self.blocks, self.width, self.features = blocks, width, features
        self.pairs = features <= PAIR_FEATURES
        self.a, self.b = torch.triu_indices(width, width, device=like.device)
        n_pairs = features * (features + 1) // 2
        size = (
            (blocks * len(self.a), n_pairs) if self.pairs else (blocks,) + (width * features,) * 2
        )
        self.sums = torch.zeros(size, dtype=like.dtype, device=like.device)

    def add(self, x: Tensor, s: Tensor) -> None:
        """Add rows x (m, d1) with S (m, blocks, width, width), weights already in S."""
        if self.pairs:
            weights = s[..., self.a, self.b].flatten(1)
            step = row_groups(x, self.sums.shape[1]).step
            for rows, part in zip(x.split(step), weights.split(step), strict=True):
                self.sums.addmm_(part.mT, feature_pairs(rows).mT)
            return
        d, w = self.features, self.width
        step = row_groups(x, w * d).step
        for rows, part in zip(x.split(step), s.split(step), strict=True):
            for block in range(self.blocks):
                for a in range(w):
                    right = part[:, block, a, a:, None] * rows[:, None, :]
                    self.sums[block, a * d : (a + 1) * d, a * d :].addmm_(rows.mT, right.flatten(1))

    def total(self) -> Tensor:
        """H of all rows added, (blocks, width d1, width d1)."""
        d, w = self.features, self.width
        if self.pairs:
            f, g = torch.triu_indices(d, d, device=self.sums.device)
            small = self.sums.new_zeros(self.blocks, len(self.a), d, d)
            small[..., f, g] = small[..., g, f] = self.sums.unflatten(0, (self.blocks, -1))
            full = small.new_zeros(self.blocks, w, w, d, d)
            full[:, self.a, self.b] = full[:, self.b, self.a] = small
            return full.transpose(2, 3).reshape(self.blocks, w * d, w * d)
        full = self.sums.unflatten(1, (w, d)).unflatten(3, (w, d)).clone()
        for a in range(w):
            for b in range(a):
                full[:, a, :, b] = full[:, b, :, a].mT
        return full.flatten(3, 4).flatten(1, 2)


class QuadraticForms:
    """G_i[a, b] = x_i^T A_ab x_i for a symmetric matrix A of blocks A_ab.

    Args:
        matrix: (blocks, width d1, width d1).
        width: outputs of a block.
    """

    def __init__(self, matrix: Tensor, width: int) -> None:
        self.blocks, self.width = len(matrix), width
        self.features = d = matrix.shape[1] // width
        self.pairs = d <= PAIR_FEATURES
        self.matrix = matrix
        self.a, self.b = torch.triu_indices(width, width, device=matrix.device)
        if self.pairs:
            f, g = torch.triu_indices(d, d, device=matrix.device)
            small = matrix.unflatten(1, (width, d)).unflatten(3, (width, d)).transpose(2, 3)
            small = small[:, self.a, self.b]
            twice = torch.where(f == g, small[..., f, g], small[..., f, g] + small[..., g, f])
            self.packed = twice.flatten(0, 1).mT.contiguous()

    def of(self, x: Tensor) -> Tensor:
        """G of rows x (m, d1): (m, blocks, width, width)."""
        m, w, d = len(x), self.width, self.features
        out = x.new_empty(m, self.blocks, w, w)
        if self.pairs:
            step = row_groups(x, len(self.packed)).step
            forms = torch.cat([feature_pairs(rows).mT @ self.packed for rows in x.split(step)])
            forms = forms.unflatten(1, (self.blocks, -1))
            out[..., self.a, self.b] = out[..., self.b, self.a] = forms
            return out
        step = row_groups(x, w * d).step
        for start in range(0, m, step):
            rows = x[start : start + step]
            for block in range(self.blocks):
                for a in range(w):
                    product = rows @ self.matrix[block, a * d : (a + 1) * d, a * d :]
                    values = (product.unflatten(1, (w - a, d)) * rows[:, None]).sum(-1)
                    out[start : start + step, block, a, a:] = values
                    out[start : start + step, block, a:, a] = values
        return out
