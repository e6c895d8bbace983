from .compare import report as report
from .evidence import Evidence as Evidence
from .evidence import Run as Run
from .read import find_runs as find_runs
from .read import read_run as read_run
