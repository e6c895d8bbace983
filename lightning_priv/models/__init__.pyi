from .classifier import Classifier as Classifier
from .torchvision_model import TorchvisionModel as TorchvisionModel
