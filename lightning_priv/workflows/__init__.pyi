from . import active_learning as active_learning
from . import sample_information as sample_information
from . import multiplicity as multiplicity
from . import private_active_learning as private_active_learning
from . import visual_audit as visual_audit
from . import reproduce as reproduce
