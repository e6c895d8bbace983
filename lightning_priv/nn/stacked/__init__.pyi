from .net import StackedNet as StackedNet
from .states import cannot_stack_nets as cannot_stack_nets
from .states import stack_states as stack_states
from .states import unstack_state as unstack_state
