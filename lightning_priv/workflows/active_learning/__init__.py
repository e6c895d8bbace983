"""Active learning in rounds of fit, score, query and label; and studies that compare functions."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
