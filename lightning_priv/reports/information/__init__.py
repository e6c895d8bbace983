"""Tables and figures of sample information: how much each training sample tells a probe."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
