"""Acquisition functions of active learning: which samples to label next.

Scores are higher for more informative samples, in nats and float64; functions that choose return
indices in order of choice. Ties go to the lower index. All randomness comes from a generator that
is passed in.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
