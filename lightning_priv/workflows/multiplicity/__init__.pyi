from .choose import SetCriterion as SetCriterion
from .choose import TooFewMembersError as TooFewMembersError
from .recipe import Built as Built
from .recipe import Recipe as Recipe
from .run import Options as Options
from .run import StudyResult as StudyResult
from .run import run as run
from .show import show as show
