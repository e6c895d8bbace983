"""Predictions of ensembles that several tests look at."""

import torch
from hypothesis import strategies as st
from torch import Tensor


def rows(text: str) -> Tensor:
    """Labels from text: members separated by strokes."""
    return torch.tensor([[int(one) for one in row.split()] for row in text.split("/")])


# five members, six samples, three classes; every number on it can be found by hand
HAND = rows("0 1 2 0 1 0 / 0 1 2 1 1 1 / 0 1 1 1 1 0 / 0 1 0 2 1 1 / 0 1 2 0 0 0")
HAND_TARGET = torch.tensor([0, 1, 2, 0, 1, 1])


@st.composite
def labels(
    draw: st.DrawFn, members: tuple[int, int] = (1, 7), samples: tuple[int, int] = (1, 12)
) -> Tensor:
    """Labels of an ensemble, shape (M, n), of up to four classes."""
    m, n = draw(st.integers(*members)), draw(st.integers(*samples))
    classes = draw(st.integers(1, 4))
    values = draw(st.lists(st.integers(0, classes - 1), min_size=m * n, max_size=m * n))
    return torch.tensor(values).reshape(m, n)


def noisy_probs(
    members: int, samples: int, classes: int, noise: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Probabilities of members around a common truth, shape (M, n, C), and true classes (n,)."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(classes, (samples,), generator=generator)
    truth = 2.0 * torch.nn.functional.one_hot(target, classes)
    truth = truth + torch.randn(samples, classes, generator=generator)
    own = noise * torch.randn(members, samples, classes, generator=generator)
    return (truth + own).double().softmax(dim=-1), target
