from .epochs import EpochIndex as EpochIndex
from .epochs import EpochSampler as EpochSampler
from .epochs import ShardSampler as ShardSampler
from .epochs import evaluation_batch_size as evaluation_batch_size
from .epochs import hashed as hashed
from .epochs import mix as mix
