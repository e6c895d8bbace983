from .agc import SGDWithAGC as SGDWithAGC
from .dp_adam import DPAdamBC as DPAdamBC
from .groups import parameter_groups as parameter_groups
from .riemannian import RiemannianAdam as RiemannianAdam
from .riemannian import RiemannianAdamW as RiemannianAdamW
from .riemannian import RiemannianSGD as RiemannianSGD
from .schedule import MultiStepLR as MultiStepLR
