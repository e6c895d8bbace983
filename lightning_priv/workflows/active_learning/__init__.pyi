from .options import Options as Options
from .options import Reset as Reset
from .options import RoundTraining as RoundTraining
from .run import ActiveLearningResult as ActiveLearningResult
from .run import run as run
from .show import show as show
