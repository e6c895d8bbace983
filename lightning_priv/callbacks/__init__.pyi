from .baseline import LinearBaseline as LinearBaseline
from .dashboard import Dashboard as Dashboard
from .dashboard import Target as Target
from .media import log_media as log_media
from .media import run_directory as run_directory
from .privacy import ClippingMonitor as ClippingMonitor
from .privacy import PrivacyBudget as PrivacyBudget
from .random_state import RandomState as RandomState
