from . import lorentz as lorentz
from .hyperbolic_resnet import HyperbolicResNet as HyperbolicResNet
from .resnet import ResNet as ResNet
from .small import MLP as MLP
from .small import SmallCNN as SmallCNN
from .resnet9 import ResNet9 as ResNet9
from .stacked import StackedNet as StackedNet
