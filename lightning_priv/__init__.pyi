from . import accountants as accountants
from . import acquisition as acquisition
from . import callbacks as callbacks
from . import data as data
from . import functional as functional
from . import metrics as metrics
from . import models as models
from . import nn as nn
from . import optim as optim
from . import reports as reports
from . import strategies as strategies
from . import workflows as workflows
from .cli import main as main
from .lightning_cli import PrivacyCLI as PrivacyCLI
from .trainer import PrivacyTrainer as PrivacyTrainer

__version__: str
