from .heads import HeadName as HeadName
from .probe import ProbeFit as ProbeFit
from .probe import fit_probe as fit_probe
from .shards import Shards as Shards
from .result import LSIResult as LSIResult
from .scores import lsi_scores as lsi_scores
from .retrain import PaperSGD as PaperSGD
