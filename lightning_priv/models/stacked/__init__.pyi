from .admission import cannot_stack as cannot_stack
from .files import load_members as load_members
from .loader import MemberLoader as MemberLoader
from .loader import bootstrap_rows as bootstrap_rows
from .module import StackedMembers as StackedMembers
from .stopping import MemberEarlyStopping as MemberEarlyStopping
