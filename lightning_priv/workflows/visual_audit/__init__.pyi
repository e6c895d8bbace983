from .options import Options as Options
from .prior import ready_prior as ready_prior
from .run import AuditResult as AuditResult
from .run import run as run
