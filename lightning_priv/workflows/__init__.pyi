from . import multiplicity as multiplicity
