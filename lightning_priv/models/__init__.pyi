from .classifier import Classifier as Classifier
from .stacked import MemberEarlyStopping as MemberEarlyStopping
from .stacked import StackedMembers as StackedMembers
