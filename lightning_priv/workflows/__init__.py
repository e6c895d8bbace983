"""Procedures that need several fits; they take a Trainer, a module and a data module."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
