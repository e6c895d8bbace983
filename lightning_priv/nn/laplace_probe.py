"""A linear probe with a Laplace posterior, as a module."""

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from lightning_priv.functional.laplace_information import (
    HeadName,
    LSIResult,
    ProbeFit,
    Shards,
    fit_probe,
    lsi_scores,
)
from lightning_priv.functional.laplace_information.result import Covariance, Estimator
from lightning_priv.functional.laplace_information.rows import Features, Labels

if TYPE_CHECKING:
    from laplace.baselaplace import BaseLaplace


class LaplaceProbe(nn.Module):
    """Linear outputs on frozen features, fitted to the maximum a posteriori.

    The solver is a function (:func:`lightning_priv.functional.fit_probe`); the module holds its
    weights in float64, so that state dicts, devices and laplace-torch work as with any module.

    Args:
        in_features: d.
        num_outputs: classes of ``softmax``, columns of the other heads.
        prior_precision: l2 on the summed loss, bias included.
        head: ``softmax``, ``binary``, ``multilabel`` or ``regression``.
        bias: with a bias.
        noise_variance: of ``regression``.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> probe = LaplaceProbe(1, 2, prior_precision=0.01).fit(x, torch.tensor([0, 0, 1, 1]))
        >>> probe(x).argmax(1).tolist()
        [0, 0, 1, 1]
    """

    fitted: ProbeFit | None

    def __init__(
        self,
        in_features: int,
        num_outputs: int,
        prior_precision: float = 1.0,
        head: HeadName = "softmax",
        bias: bool = True,
        noise_variance: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 < prior_precision < float("inf"):
            raise ValueError(f"prior_precision must be a finite number > 0, got {prior_precision}")
        self.linear = nn.Linear(in_features, num_outputs, bias=bias, dtype=torch.float64)
        nn.init.zeros_(self.linear.weight)
        if bias:
            nn.init.zeros_(self.linear.bias)
        self.prior_precision, self.head = prior_precision, head
        self.noise_variance = noise_variance
        self.fitted = None

    def forward(self, features: Tensor) -> Tensor:
        """Outputs (n, num_outputs) in float64 of features (n, in_features)."""
        return self.linear(features.to(self.linear.weight.dtype))

    @torch.no_grad()
    def fit(
        self,
        features: Features,
        labels: Labels = None,
        *,
        weights: Tensor | None = None,
        chunk_rows: int = 16384,
        shards: Shards | None = None,
    ) -> "LaplaceProbe":
        """Fit to samples, arguments as in :func:`lightning_priv.functional.fit_probe`.

        Returns:
            The probe itself; its ``fitted`` holds the solver's report.

        Raises:
            ValueError: for data that do not fit the probe (see the message).
        """
        fitted = fit_probe(
            features,
            labels,
            self.prior_precision,
            head=self.head,
            num_classes=self.linear.out_features if self.head == "softmax" else None,
            noise_variance=self.noise_variance,
            bias=self.linear.bias is not None,
            weights=weights,
            device=self.linear.weight.device,
            chunk_rows=chunk_rows,
            shards=shards,
        )
        wanted = (self.linear.out_features, self.linear.in_features)
        found = (fitted.num_outputs, fitted.weight.shape[1] - fitted.bias)
        if wanted != found:
            raise ValueError(
                f"the probe has (outputs, features) {wanted}, but the samples have {found}"
            )
        self.linear.weight.copy_(fitted.weight[:, : self.linear.in_features])
        if self.linear.bias is not None:
            self.linear.bias.copy_(fitted.weight[:, -1])
        self.fitted = fitted
        return self

    def information(
        self,
        features: Features,
        labels: Labels = None,
        covariance: Covariance = "full",
        estimator: Estimator = "alo",
        *,
        refine_top_k: int = 0,
        chunk_rows: int = 16384,
        shards: Shards | None = None,
    ) -> LSIResult:
        """Information of the samples of the fit (:func:`lightning_priv.functional.lsi_scores`).

        Args:
            features: those that the probe was fitted to.
            labels: theirs.
            covariance: of the posterior.
            estimator: how the posterior without a sample is had.
            refine_top_k: how many of the highest scores are made exact.
            chunk_rows: rows converted at a time.
            shards: this process among others.

        Raises:
            ValueError: before :meth:`fit`, or for other data.
        """
        fitted = self._fitted("information")
        return lsi_scores(
            features,
            labels,
            self.prior_precision,
            covariance,
            estimator,
            head=self.head,
            num_classes=self.linear.out_features if self.head == "softmax" else None,
            noise_variance=self.noise_variance,
            bias=fitted.bias,
            fit=None if estimator == "retrain" else fitted,
            refine_top_k=refine_top_k,
            device=self.linear.weight.device,
            chunk_rows=chunk_rows,
            shards=shards,
        )

    def laplace(
        self,
        features: Tensor,
        labels: Tensor,
        hessian_structure: Literal["full", "diag", "kron"] = "full",
        batch_size: int = 1024,
    ) -> "BaseLaplace":
        """A fitted laplace-torch posterior around the probe's weights.

        Its parameters are in torch's order: weights row by row, then biases. laplace-torch
        multiplies the full matrix out in torch's default dtype: its entries are exact to 1e-7,
        or to 1e-14 after ``torch.set_default_dtype(torch.float64)``.

        Args:
            features: (n, in_features), those of the fit.
            labels: (n,) classes, or (n, m) numbers of ``regression``.
            hessian_structure: of the precision.
            batch_size: samples at a time.

        Raises:
            ValueError: before :meth:`fit`, or for a head without a likelihood in laplace-torch.
        """
        self._fitted("laplace")
        if self.head not in ("softmax", "regression"):
            raise ValueError(
                f"laplace-torch has no likelihood for head {self.head!r}, only for softmax and "
                "regression; for a binary label fit a softmax of two classes"
            )
        from laplace import Laplace
        from torch.utils.data import DataLoader, TensorDataset

        dtype = self.linear.weight.dtype
        targets = labels if self.head == "softmax" else labels.to(dtype).view(len(labels), -1)
        data = TensorDataset(features.to(dtype), targets)
        # the bare layer: laplace-torch keeps the module, and asks its output's shape
        posterior = Laplace(
            self.linear,
            "classification" if self.head == "softmax" else "regression",
            subset_of_weights="all",
            hessian_structure=hessian_structure,
            prior_precision=self.prior_precision,
            **({} if self.head == "softmax" else {"sigma_noise": self.noise_variance**0.5}),
        )
        posterior.fit(DataLoader(data, batch_size=batch_size))
        return posterior

    def _fitted(self, what: str) -> ProbeFit:
        if self.fitted is None:
            raise ValueError(f"{what} needs a fitted probe; call fit(features, labels) first")
        return self.fitted
