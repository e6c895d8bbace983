"""Figures, tables and the report of a reconstruction audit, from its study."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
