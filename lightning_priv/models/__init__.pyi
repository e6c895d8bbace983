from .classifier import Classifier as Classifier
from .torchvision_model import TorchvisionModel as TorchvisionModel
from .stacked import MemberEarlyStopping as MemberEarlyStopping
from .stacked import StackedMembers as StackedMembers
from .ensemble import EnsembleModule as EnsembleModule
from .ensemble import MeanVote as MeanVote
from .diffusion import DiffusionPrior as DiffusionPrior
