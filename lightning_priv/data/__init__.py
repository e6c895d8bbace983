"""Data modules; each has ``num_classes``, ``input_shape`` and ``indexed=True`` for sample ids."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
