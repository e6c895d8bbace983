"""The study of predictive multiplicity: train a set of equally valid models, measure, abstain."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
