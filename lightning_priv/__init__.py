"""Private, trustworthy deep learning as PyTorch Lightning parts.

Public names are resolved on first use (PEP 562), so that importing the package loads nothing heavy.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, _ = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["PrivacyCLI", "PrivacyTrainer", "__version__", "main"]
