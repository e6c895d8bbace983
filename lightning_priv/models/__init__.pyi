from .classifier import Classifier as Classifier
from .multilabel import MultiLabelClassifier as MultiLabelClassifier
from .torchvision_model import TorchvisionModel as TorchvisionModel
from .stacked import MemberEarlyStopping as MemberEarlyStopping
from .stacked import StackedMembers as StackedMembers
from .ensemble import EnsembleModule as EnsembleModule
from .ensemble import MeanVote as MeanVote
