from .command import reproduce as reproduce
from .study import Experiment as Experiment
from .study import Number as Number
from .study import Step as Step
from .study import Study as Study
