"""Accuracy under attack."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["RobustAccuracy"]


class RobustAccuracy(Metric):
    """Share of samples that are classified rightly under attacks of several budgets.

    A sample counts as robust at a budget if its adversarial input of that budget is classified
    rightly.

    Args:
        epsilons: the budgets, in any unit.

    Raises:
        ValueError: if there is no budget, or a budget is negative.

    Example:
        >>> metric = RobustAccuracy([0.0, 1.0])
        >>> right, wrong = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> metric.update([right, wrong], torch.tensor([0]))
        >>> metric.compute()
        tensor([1., 0.])
    """

    higher_is_better = True
    full_state_update = False
    correct: Tensor
    count: Tensor

    def __init__(self, epsilons: Sequence[float]) -> None:
        super().__init__()
        if not epsilons or min(epsilons) < 0:
            raise ValueError(f"epsilons must be some numbers of at least 0, got {list(epsilons)}")
        self.epsilons = [float(epsilon) for epsilon in epsilons]
        self.add_state("correct", torch.zeros(len(epsilons), dtype=torch.long), "sum")
        self.add_state("count", torch.tensor(0), "sum")

    def update(self, logits: Sequence[Tensor], labels: Tensor) -> None:
        """Count a batch.

        Args:
            logits: for each budget the logits of the adversarial inputs, shape (B, C).
            labels: classes, shape (B,).
        """
        if len(logits) != len(self.epsilons):
            raise ValueError(
                f"got logits for {len(logits)} budgets, the metric has {len(self.epsilons)}"
            )
        self.correct += torch.stack([(one.argmax(1) == labels).sum() for one in logits])
        self.count += len(labels)

    def compute(self) -> Tensor:
        """Accuracies, one for each budget."""
        return self.correct / self.count.clamp_min(1)
