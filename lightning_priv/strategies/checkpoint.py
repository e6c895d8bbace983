"""The part of a checkpoint by which a resumed run knows what has been spent."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from lightning_priv.errors import PrivacyError
from lightning_priv.strategies.account import Account
from lightning_priv.strategies.ledger import Lineage, read_lineage
from lightning_priv.strategies.noise import NoiseSource
from lightning_priv.strategies.phases import Cost, Spending
from lightning_priv.strategies.report import package_versions
from lightning_priv.strategies.settings import PrivacySettings
from lightning_priv.strategies.stream import Stream

__all__ = ["KEY", "abandoned_costs", "check_block", "check_dataset", "lineage_of", "make_block"]

KEY = "lightning_priv"
_VERSION = 1


def make_block(
    settings: PrivacySettings,
    account: Account,
    stream: Stream,
    noise: NoiseSource | None,
    max_grad_norm: float,
    fingerprint: str,
    world_size: int,
) -> dict[str, Any]:
    """Plain types and tensors, so that ``torch.load(weights_only=True)`` reads them.

    The key of the stream and the state of the noise are secret: whoever has them knows who was in
    each batch, or can subtract the noise. They are stored only for runs that must repeat.
    """
    ledger, repeats = account.ledger, settings.deterministic
    return {
        "version": _VERSION,
        "account": account.state(),
        "position": stream.position,
        "seed": f"{stream.draw_seed():x}" if repeats else None,
        "noise": noise.state() if repeats and noise is not None else None,
        "max_grad_norm": max_grad_norm,
        "accountant": settings.accountant,
        "neighbouring": settings.neighbouring,
        "sampling": settings.sampling,
        "dataset": {"records": account.known.num_records, "fingerprint": fingerprint},
        "run": None if ledger is None else ledger.run,
        "root": None if ledger is None else ledger.root,
        "ledger": None if ledger is None else str(ledger.path),
        "world_size": world_size,
        "packages": package_versions(),
    }


def check_block(checkpoint: dict[str, Any], settings: PrivacySettings) -> dict[str, Any] | None:
    """The private part of a checkpoint that training is about to resume.

    Returns:
        The part, or None if there is none and the settings accept that.

    Raises:
        PrivacyError: if it is missing, or was made under another privacy statement.
    """
    block: dict[str, Any] | None = checkpoint.get(KEY)
    if block is None:
        if not settings.assume_fresh_budget:
            raise PrivacyError(
                "the checkpoint does not say what privacy was spent (it was not written by a "
                "DP-SGD strategy); resuming with an empty account would under-report. Set "
                "assume_fresh_budget: true if its weights come from public data only"
            )
        rank_zero_warn("resuming a checkpoint without privacy account: its steps are NOT counted")
        return None
    if block["version"] != _VERSION:
        raise PrivacyError(
            f"the checkpoint's privacy account has version {block['version']}, this package reads "
            f"{_VERSION}; use the package that wrote it"
        )
    for name in ("neighbouring", "sampling"):
        if block[name] != getattr(settings, name):
            raise PrivacyError(
                f"the checkpoint was trained with {name}: {block[name]}, now it is "
                f"{getattr(settings, name)}; one account cannot mix them. Set {name}: {block[name]}"
            )
    return block


def check_dataset(
    before: dict[str, Any], spending: Spending, records: int, fingerprint: str, allow: bool
) -> None:
    """Refuse to go on with other records than those the account is about.

    Args:
        before: length and fingerprint of the data set that the account is about.
        spending: the account.
        records: length of the data set now.
        fingerprint: its fingerprint now.
        allow: whether to charge every record with all that was spent instead.

    Raises:
        PrivacyError: if length or kind of the data set differ and that is not allowed.
    """
    if (before["records"], before["fingerprint"]) == (records, fingerprint):
        return
    if not allow:
        raise PrivacyError(
            f"the account is about {before['records']} records (kind {before['fingerprint']}), "
            f"the training set now has {records} (kind {fingerprint}). Use "
            "the same training set, or set allow_dataset_change: true: every record is then "
            "charged with all that was spent"
        )
    spending.forget_records(records)


def abandoned_costs(
    block: dict[str, Any], spending: Spending, ledger: Path | None
) -> Counter[Cost]:
    """Steps that the ledger knows of and the checkpoint does not.

    They were made by runs that went on after this checkpoint and whose results were lost or left
    aside; whoever saw them has learnt from them, so they are spent.

    Raises:
        PrivacyError: if there is no ledger to be read, or it lacks steps of the checkpoint.
    """
    if block["ledger"] is None:
        return Counter()
    lineage = lineage_of(block, ledger)
    known = spending.costs
    missing = known - lineage.steps
    if missing:
        raise PrivacyError(
            f"the ledger {ledger} lacks {missing.total()} steps that the checkpoint has made; it "
            "is not the ledger of that run, or lines were lost. Set ledger to its path, or "
            "count_abandoned: false to rely on the checkpoint alone"
        )
    return lineage.steps - known


def lineage_of(block: dict[str, Any], ledger: Path | None) -> Lineage:
    """What the ledger says of the run of a checkpoint and of those that went on with it.

    Raises:
        PrivacyError: if there is no ledger to be read.
    """
    if ledger is None or not ledger.exists():
        raise PrivacyError(
            f"the checkpoint's run kept a ledger ({block['ledger']}), which "
            + ("is switched off now" if ledger is None else f"is not at {ledger}")
            + "; steps made after the checkpoint are not known without it. Set ledger to its path, "
            "or count_abandoned: false to leave them out"
        )
    return read_lineage(ledger, block["root"])
