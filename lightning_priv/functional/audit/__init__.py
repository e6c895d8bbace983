"""The mathematics of a reconstruction audit: readouts, units, denoising attacks, tests of noise."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
