from .prior import ready_prior as ready_prior
from .run import AuditResult as AuditResult
from .run import Options as Options
from .run import run as run
