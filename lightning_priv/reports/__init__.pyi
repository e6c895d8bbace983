from .bounds import bounds as bounds
from .corridor import corridor_figure as corridor_figure
from .figures import confusion_matrix as confusion_matrix
from .figures import learning_curves as learning_curves
from .privacy import accuracy_against_epsilon as accuracy_against_epsilon
from .tables import Table as Table
