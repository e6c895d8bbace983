from .classifier import Classifier as Classifier
from .torchvision_model import TorchvisionModel as TorchvisionModel
from .stacked import MemberEarlyStopping as MemberEarlyStopping
from .stacked import StackedMembers as StackedMembers
from .ensemble import EnsembleModule as EnsembleModule
from .mean_vote import MeanVote as MeanVote
from .inception import InceptionFeatures as InceptionFeatures
from .vae import HyperbolicVAE as HyperbolicVAE
