from .sampling import PoissonSampler as PoissonSampler
from .sampling import ShuffleSampler as ShuffleSampler
