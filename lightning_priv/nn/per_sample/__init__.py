"""Per-record gradients, clipped and summed, for any ``torch.nn.Module``."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
