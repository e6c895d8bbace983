"""A pretrained transformer for texts with a new head."""

from pathlib import Path

from torch import Tensor, nn

from lightning_priv.errors import DatasetUnavailableError
from lightning_priv.nn._sizes import require_sizes

__all__ = ["TextTransformer"]


class TextTransformer(nn.Module):
    """A BERT of a folder on the disk, with pooler, dropout and a linear head.

    Weights are read when the network is made; nothing is downloaded. Needs the extra ``text``
    (transformers). Put ``nn.FineTuned`` around it to train only some layers, as DP-AL does:
    ``train: [encoder.encoder.layer.11, encoder.pooler, head]``.

    Args:
        path: folder as ``save_pretrained`` of a BERT writes it.
        num_classes: number of classes.
        pad_token: number of the token that fills up.
        separator_token: number of the token between the sentences; what follows the first one
            belongs to the second sentence.
        dropout: before the head.

    Shape:
        Input (B, L) token numbers, as ``data.TokenIds`` makes them; output (B, num_classes).

    Raises:
        DatasetUnavailableError: if the folder or transformers is missing.
    """

    def __init__(
        self,
        path: str,
        num_classes: int,
        pad_token: int = 0,
        separator_token: int = 102,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        require_sizes(num_classes=num_classes)
        try:
            from transformers import BertModel
        except ModuleNotFoundError as error:
            raise DatasetUnavailableError(
                "TextTransformer needs transformers; run: pip install lightning-priv[text]"
            ) from error
        if not (Path(path) / "config.json").is_file():
            raise DatasetUnavailableError(
                f"TextTransformer looked for {Path(path) / 'config.json'}; give a folder written "
                "by save_pretrained of a BERT (its weights must be public)"
            )
        # eager: the fused attention kernels know no gradients of single records
        self.encoder = BertModel.from_pretrained(
            path, local_files_only=True, attn_implementation="eager"
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.encoder.config.hidden_size, num_classes)
        self.pad_token, self.separator_token = pad_token, separator_token

    def forward(self, x: Tensor) -> Tensor:
        """Token numbers to logits."""
        tokens = x.long()
        separators = (tokens == self.separator_token).long()
        second = ((separators.cumsum(1) - separators) > 0).long()
        mask = (tokens != self.pad_token).long()
        pooled = self.encoder(
            input_ids=tokens, attention_mask=mask, token_type_ids=second * mask
        ).pooler_output
        logits: Tensor = self.head(self.dropout(pooled))
        return logits
