"""Silence for trainings of which there are many."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet"]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning from announcing every one of many trainings; warnings still come."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning_priv")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*does not have many workers.*")
            warnings.filterwarnings("ignore", ".*LightningCLI's args parameter.*")
            warnings.filterwarnings("ignore", ".*the log interval.*")
            warnings.filterwarnings("ignore", ".*logging_interval.*")
            warnings.filterwarnings("ignore", ".*Experiment logs directory.*")
            warnings.filterwarnings("ignore", ".*Checkpoint directory.*exists and is not empty.*")
            warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")
            warnings.filterwarnings("ignore", ".*number of training batches.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
