"""A paper's whole study by one command: what it runs, what was published, what comes out."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
