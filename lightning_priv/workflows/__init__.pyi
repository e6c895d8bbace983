from . import sample_information as sample_information
from . import multiplicity as multiplicity
from . import visual_audit as visual_audit
