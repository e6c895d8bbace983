"""Errors for states that a user has to act on; wrong arguments raise ``ValueError``."""

__all__ = [
    "BudgetExceededError",
    "ConfigurationError",
    "ConvergenceError",
    "DatasetUnavailableError",
    "DiskFullError",
    "DivergenceError",
    "IncompleteStudyError",
    "InterruptedRunError",
    "LabelsPendingError",
    "OffManifoldError",
    "OracleError",
    "PrivacyError",
    "UnsupportedModuleError",
]


class PrivacyError(Exception):
    """Base of the package's own errors; the command line prints it as one line and exits with 1.

    Write the message as what was found, what is accepted and what to do.
    """


class BudgetExceededError(PrivacyError):
    """A step would pass the privacy budget, or a run asks for more steps than were planned."""


class ConfigurationError(PrivacyError):
    """Parts that are fine alone but do not fit together, for example a model and a data set."""


class ConvergenceError(PrivacyError):
    """An iteration that does not reach its tolerance."""


class DatasetUnavailableError(PrivacyError):
    """A data set is not on this machine and may not be downloaded; the exit code is 5."""

    exit_code = 5


class DiskFullError(PrivacyError):
    """There is no room for a file that has to be written."""


class DivergenceError(PrivacyError):
    """A training whose loss is no longer a number."""


class IncompleteStudyError(PrivacyError):
    """A study of which experiments failed; what was measured is kept."""


class InterruptedRunError(PrivacyError):
    """A run that was told to end (SIGTERM) before it was complete; the exit code is 128 + 15."""

    exit_code = 143


class OffManifoldError(PrivacyError):
    """Values that cannot be points of the manifold, for example NaN from a diverged training."""


class OracleError(PrivacyError):
    """Labels that were asked for and did not come, or not as they should be; the query is kept."""


class LabelsPendingError(OracleError):
    """Labels that somebody has still to give; the command line exits with 4."""

    exit_code = 4


class UnsupportedModuleError(PrivacyError):
    """A module that the chosen method cannot treat correctly."""
