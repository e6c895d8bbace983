"""Predictive multiplicity: how far equally valid models contradict each other, and abstention."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
